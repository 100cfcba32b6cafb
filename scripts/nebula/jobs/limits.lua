-- jobs/limits.lua: what a lane may take now: caps, rates, weights.
--
-- Caps and rates are data. What the policy in force says of a lane is kept in job_lanes with its
-- version, under the lane's lock; a process that still runs an older version, or another policy of its
-- own, is bound by what is written there. A rate is a bucket of tokens, filled by the database's
-- clock, `burst` at most: in any span of t seconds a lane begins no more than burst + rate * t jobs.
local nebula = require "nebula"
local plans = require "nebula.policy.plan"

local limits = {}

local ENOUGH = 1000000000
local EXCEEDED_MOST = 2 -- lanes for which a function may use up its budget: each keeps the worker from all else

local WRITE = [[
  INSERT INTO job_lanes (lane, version, cap, rate, burst, tokens, tokens_at)
  SELECT d.*, clock_timestamp()
  FROM unnest($1::text[], $2::bigint[], $3::float8[], $4::float8[], $5::float8[], $6::float8[])
    AS d (lane, version, cap, rate, burst, tokens)
  ON CONFLICT (lane) DO UPDATE
  SET version = excluded.version, cap = excluded.cap, rate = excluded.rate, burst = excluded.burst,
    tokens = excluded.tokens, tokens_at = excluded.tokens_at
]]

--- Whether a plan has functions of a lane, which see how much it used.
---@param plan nebula.Plan
---@return boolean
function limits.asks(plan)
  for _, value in pairs(plan.lanes or {}) do
    if type(value) == "userdata" then return true end
  end
  return false
end

-- A number of the plan for each lane. Where its function fails, the lanes are asked for one by one: those that it
-- fails for have what is known, and the failure is told. So have all others once it has used up its budget too often.
local function values_of(policy, plan, field, views, known)
  local values = nebula.try(plans.values, policy, plan, field, views)
  if values then return values end
  values = {}
  local exceeded = 0
  for i, view in ipairs(views) do
    local answer, err
    if exceeded < EXCEEDED_MOST then answer, err = nebula.try(plans.values, policy, plan, field, { view }) end
    if err then
      policy:complain(field, err)
      exceeded = exceeded + (err.kind == "limit" and 1 or 0)
    end
    values[i] = known(i)
    if answer then values[i] = answer[1] end
  end
  return values
end

---@class nebula.LaneNow
---@field key string
---@field running integer
---@field weight number
---@field room integer the most that cap and tokens let begin
---@field allowed integer the most that this claim may take
---@field taken integer
---@field view nebula.LaneView

local function room_of(lane, row)
  local room = (lane.cap or ENOUGH) - row.running
  if lane.rate then
    lane.tokens = row.tokens and math.min(lane.burst, row.tokens + (row.since or 0) * lane.rate) or lane.burst
    room = math.min(room, lane.tokens)
  end
  return row.paused and 0 or math.max(0, math.floor(room + 1e-9))
end

-- The limits of lanes as this policy has them.
local function limit(policy, plan, list, views)
  local function row(i) return list[i].stored end
  local caps = values_of(policy, plan, "cap", views, function(i) return row(i).cap or 1 end)
  local rates = values_of(policy, plan, "rate", views, function(i) return row(i).rate end)
  local bursts = next(rates) and values_of(policy, plan, "burst", views, function(i) return row(i).burst end)
  for i, lane in ipairs(list) do
    lane.cap, lane.rate = caps[i], rates[i]
    lane.burst = lane.rate and math.max(bursts[i] or lane.rate, 1)
  end
end

--- Prepares lanes for one claim: what they may take of it, and their weights, by what each used until now.
---@param policy nebula.Policy
---@param plan nebula.Plan
---@param list nebula.LaneNow[]
---@param unnoted? fun(lane: string): number worker-seconds that the database does not know of
function limits.prepare(policy, plan, list, unnoted)
  local views = {}
  for i, lane in ipairs(list) do
    views[i] = lane.view
    if unnoted then lane.view.used = (lane.stored.used or 0) + unnoted(lane.key) end
  end
  local weights = values_of(policy, plan, "weight", views, function() return 1 end)
  for i, lane in ipairs(list) do
    lane.weight, lane.allowed = weights[i] or 1, math.min(lane.room, plan.limit)
  end
end

--- Lanes with what the policy allows them.
---@param policy nebula.Policy
---@param plan nebula.Plan
---@param rows table[] their state, as jobs/laned.lua reads it
---@param unnoted? fun(lane: string): number
---@return nebula.LaneNow[]
function limits.lanes(policy, plan, rows, unnoted)
  local list, mine, views = {}, {}, {}
  for i, row in ipairs(rows) do
    local lane = { key = row.lane, running = row.running, taken = 0, stored = row,
      view = { key = row.lane, running = row.running, used = row.used or 0, oldest_wait = row.oldest_wait or 0 } }
    list[i] = lane
    local current = row.version ~= nil and row.version == row.in_force
    if current and policy.version ~= row.in_force then
      lane.cap, lane.rate, lane.burst = row.cap, row.rate, row.burst
    else
      lane.mine = true
      mine[#mine + 1], views[#views + 1] = lane, lane.view
    end
  end
  limit(policy, plan, mine, views)
  for _, lane in ipairs(list) do lane.room = room_of(lane, lane.stored) end
  limits.prepare(policy, plan, list, unnoted)
  return list
end

--- Writes what has changed of these lanes: limits, and the tokens of what was taken.
---@param conn nebula.pg.Connection
---@param policy nebula.Policy
---@param list nebula.LaneNow[]
---@return boolean written
function limits.write(conn, policy, list)
  local null = nebula.null
  local c = { {}, {}, {}, {}, {}, {} }
  for _, lane in ipairs(list) do
    local row = lane.stored
    local version = lane.mine and policy.version or row.version
    local bounded = lane.cap or lane.rate or row.version
    local changed = bounded and (version ~= row.version or lane.cap ~= row.cap or lane.rate ~= row.rate
      or lane.burst ~= row.burst)
    if changed or lane.rate and lane.taken > 0 then
      local i = #c[1] + 1
      c[1][i], c[2][i], c[3][i], c[4][i], c[5][i] = lane.key, version or null, lane.cap or null, lane.rate or null,
        lane.burst or null
      c[6][i] = lane.tokens and lane.tokens - lane.taken or null
    end
  end
  if #c[1] > 0 then conn:exec(WRITE, table.unpack(c)) end
  return #c[1] > 0
end

return limits
