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

-- A number of the plan; where its function fails, what is known, and the failure is told.
local function value(policy, plan, field, view, known)
  local answer, err = nebula.try(function() return { plans.value(policy, plan, field, view) } end)
  if answer then return answer[1] end
  policy:complain(field, err)
  return known
end

---@class nebula.LaneNow
---@field key string
---@field running integer
---@field weight number
---@field allowed integer the most it may take now
---@field taken integer

--- A lane with what the policy allows it.
---@param policy nebula.Policy
---@param plan nebula.Plan
---@param key string
---@param row table its state, as jobs/laned.lua reads it
---@return nebula.LaneNow
function limits.lane(policy, plan, key, row)
  local view = { key = key, running = row.running, used = row.used or 0, oldest_wait = row.oldest_wait or 0 }
  local lane = { key = key, running = row.running, taken = 0, stored = row }
  lane.weight = value(policy, plan, "weight", view, 1) or 1
  local current = row.version ~= nil and row.version == row.in_force
  if current and policy.version ~= row.in_force then
    lane.cap, lane.rate, lane.burst = row.cap, row.rate, row.burst
  else
    lane.mine = true
    lane.cap = value(policy, plan, "cap", view, row.cap or 1)
    lane.rate = value(policy, plan, "rate", view, row.rate)
    lane.burst = lane.rate and math.max(value(policy, plan, "burst", view, row.burst) or lane.rate, 1)
  end
  local allowed = math.min(plan.limit, (lane.cap or ENOUGH) - row.running)
  if lane.rate then
    lane.tokens = row.tokens and math.min(lane.burst, row.tokens + (row.since or 0) * lane.rate) or lane.burst
    allowed = math.min(allowed, lane.tokens)
  end
  lane.allowed = row.paused and 0 or math.max(0, math.floor(allowed + 1e-9))
  return lane
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
