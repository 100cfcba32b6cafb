-- jobs/lane_locks.lua: a claim by lanes under row locks: what a worker does where no rate is to be kept.
--
-- Which lanes there are, and what the policy says of them, is kept for a moment; each claim divides its
-- slots anew and locks each lane's first jobs. Capped lanes are bound by jobs/slots.lua.
local claim = require "nebula.worker.claim"
local lanes = require "nebula.jobs.lanes"
local nebula = require "nebula"
local outcome = require "nebula.jobs.outcome"
local settle = require "nebula.jobs.settle"
local share = require "nebula.policy.share"
local slots = require "nebula.jobs.slots"

local lane_locks = {}

local KEPT_SECONDS = 0.1 -- of the lanes and their state, while a claim finds all it asks for
local MOST_CAPPED = 32 -- lanes of one claim: each costs locks of the server

-- $2: the most of each lane, $3: how many of them to pass over, $4: what a cap's places are worth.
local LOCK = [[
  SELECT l.n::int AS n, c.*
  FROM unnest($1::text[], $2::int[], $3::int[], $4::int[]) WITH ORDINALITY l (lane, most, passed, worth, n)
  CROSS JOIN LATERAL (
    SELECT %s, lane_by
    FROM workflow_jobs
    WHERE status = 'pending'
    AND lane >= l.lane
    AND lane <= l.lane
    AND scheduled_at <= now()
    AND %s
    ORDER BY workflow_jobs.lane, %s
    LIMIT CASE WHEN l.worth IS NULL THEN l.most ELSE least(l.most, greatest(0, l.worth - %s)) END
    OFFSET l.passed
    FOR UPDATE SKIP LOCKED
  ) c
]]

-- No JOIN: of what is joined, ctid is not known without its table's name.
local CHOSEN = ([[
  SELECT %s
  FROM unnest($1::tid[], $2::uuid[]) d (place, job), workflow_jobs
  WHERE workflow_jobs.ctid = d.place
  AND workflow_jobs.id = d.job
  AND status = 'pending'
  FOR UPDATE OF workflow_jobs SKIP LOCKED
]]):format(claim.COLUMNS)

local COLUMNS_ALONE = claim.COLUMNS:gsub(", payload", "")

local function last(results) return results[#results] end

-- Divides the slots, and binds capped lanes by places. `first`: statements to send before. Returns the
-- lanes that may take something.
local function divided(conn, n, list, first)
  local parts, taking, capped = share.divide(n, list), {}, {}
  for i, lane in ipairs(list) do
    if parts[i] > 0 then
      lane.part, lane.worth, lane.got = parts[i], nil, 0
      taking[#taking + 1] = lane
      if lane.cap then
        lane.want, lane.worth = math.min(parts[i] + lane.running, math.floor(lane.cap)), 0
        capped[#capped + 1] = lane
      end
    end
  end
  if #capped > 0 then
    first[#first + 1] = { slots.LOCK, slots.columns(capped) }
    for _, row in ipairs(last(claim.send(conn, first))) do capped[row.n].worth = row.worth end
    for i = #first, 1, -1 do first[i] = nil end -- sent
  end
  return taking
end

local function lock(self, conn, plan, taking, columns, first)
  local null = nebula.null
  local names, most, passed, worth = {}, {}, {}, {}
  for i, lane in ipairs(taking) do
    names[i], most[i], passed[i], worth[i] = lane.key, lane.part, lane.got, lane.worth or null
  end
  first[#first + 1] = { LOCK:format(columns, self.where, plan.order, slots.RUNNING), names, most, passed, worth }
  local rows = last(claim.send(conn, first))
  for i = #first, 1, -1 do first[i] = nil end
  return rows
end

-- The locked rows, in turns of their lanes. Those whose lane is by another declaration are given theirs.
local function sort_rows(conn, policy, taking, rows)
  local declaration, stale, of_lane = policy:declaration(), {}, {}
  for _, row in ipairs(rows) do
    local lane = taking[row.n]
    lane.got = lane.got + 1
    if row.lane_by and row.lane_by ~= declaration then
      stale[#stale + 1] = row.at
    else
      of_lane[row.n] = of_lane[row.n] or {}
      table.insert(of_lane[row.n], row)
    end
  end
  if #stale > 0 then lanes.write(conn, declaration, '{"' .. table.concat(stale, '","') .. '"}') end
  local sorted, turn = {}, 1
  while #sorted < #rows - #stale do
    for i = 1, #taking do
      local row = of_lane[i] and of_lane[i][turn]
      if row then sorted[#sorted + 1] = row end
    end
    turn = turn + 1
  end
  return sorted
end

-- Of each lane its first jobs. Where some lanes have less than their part, the others get the rest.
local function take_first(self, conn, policy, plan, list, first)
  local taking = divided(conn, plan.limit, list, first)
  local rows = sort_rows(conn, policy, taking, lock(self, conn, plan, taking, claim.COLUMNS, first))
  local left, more = plan.limit - #rows, {}
  for _, lane in ipairs(taking) do
    if left > 0 and not lane.cap and lane.got == lane.part then
      more[#more + 1] = { key = lane.key, weight = lane.weight, running = lane.running + lane.got, allowed = left,
        passed = lane.got }
    end
  end
  if #more == 0 or #more == #taking then return rows end
  local again = divided(conn, left, more, {})
  for _, lane in ipairs(again) do lane.got = lane.passed end
  local rest = sort_rows(conn, policy, again, lock(self, conn, plan, again, claim.COLUMNS, {}))
  return table.move(rest, 1, #rest, #rows + 1, rows)
end

-- One job, whose payload may be beyond what can be read: then it is failed, and there is none.
local function take_one(self, conn, policy, plan, list, first)
  local taking = divided(conn, 1, list, first)
  local rows = sort_rows(conn, policy, taking, lock(self, conn, plan, taking, COLUMNS_ALONE, first))
  local job = rows[1]
  if not job then return rows end
  local row, err = nebula.try(conn.one, conn, "SELECT payload FROM workflow_jobs WHERE ctid = $1::tid", job.at)
  if row then
    job.payload = row.payload
    return rows
  end
  if err.kind ~= "limit" then error(err, 0) end
  local made = outcome.failed(policy, job, err, self.worker)
  nebula.log.warn("job cannot be read", { job = job.id, error = err.message, retry_in = made.delay })
  conn:exec(settle.OTHER_LOCKED, '{"' .. job.at .. '"}', settle.columns { made })
  return {}
end

-- The lanes of this claim, another one first each time; of capped ones a bounded number.
local function rotated(self, list)
  local bounded, capped, count = {}, 0, #list
  local from = self.rotation or 0
  for i = 1, count do
    local lane = list[(from + i - 1) % count + 1]
    capped = capped + (lane.cap and 1 or 0)
    if capped > MOST_CAPPED then
      self.rotation = from + i - 1
      return bounded
    end
    bounded[i] = lane
  end
  self.rotation = from + 1
  return bounded
end

--- Locks jobs of these lanes for a plan, in the open transaction.
---@param self nebula.Laned
---@param conn nebula.pg.Connection
---@param first table[] statements to send first; empty once they are
---@param policy nebula.Policy
---@param plan nebula.Plan
---@param list nebula.LaneNow[] one or more
---@param select? fun(conn: nebula.pg.Connection, list: nebula.LaneNow[]): table[] the policy's select: the candidates
---@return table[] rows
function lane_locks.take(self, conn, first, policy, plan, list, select)
  local bounded = rotated(self, list)
  if not select then
    return (plan.limit == 1 and take_one or take_first)(self, conn, policy, plan, bounded, first)
  end
  if #first > 0 then claim.send(conn, first) end
  for i = #first, 1, -1 do first[i] = nil end
  slots.bound(conn, bounded)
  local chosen = select(conn, bounded)
  if #chosen == 0 then return chosen end
  local at, ids, place = {}, {}, {}
  for i, candidate in ipairs(chosen) do at[i], ids[i], place[candidate.id] = candidate.at, candidate.id, i end
  local rows = conn:query(CHOSEN, '{"' .. table.concat(at, '","') .. '"}', ids)
  table.sort(rows, function(a, b) return place[a.id] < place[b.id] end)
  return rows
end

--- Whether what is known of the lanes serves for this claim, too.
---@param self nebula.Laned
---@param policy nebula.Policy
---@return boolean
function lane_locks.fresh(self, policy)
  return self.known ~= nil and self.known_policy == policy and nebula.time.monotonic() < self.known_until
end

--- Keeps the lanes for a moment, where they are all there are and a claim found what it asked for.
---@param self nebula.Laned
---@param policy nebula.Policy
---@param all? nebula.LaneNow[]
function lane_locks.keep(self, policy, all)
  self.known, self.known_policy, self.known_until = all, policy, nebula.time.monotonic() + KEPT_SECONDS
end

return lane_locks
