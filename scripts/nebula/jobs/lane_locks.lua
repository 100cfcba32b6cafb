-- jobs/lane_locks.lua: a claim by lanes under row locks: what a worker does where no rate is to be kept. It
-- is one round trip, behind the settlement of the batch before.
--
-- Which lanes there are, what limits them and how far their jobs have been taken is kept for a moment, for
-- all sessions of a worker: each claim has them weighed anew, divides its slots and goes on where the last
-- one took its last job. So it passes over what is finished or locked, of which an index's head is full
-- (entries of finished rows stay while some snapshot may see them). What came to lie before (a job given
-- back, a late commit) is found by the next look from the head: after KEPT_SECONDS, or later where such
-- a look takes more than a part of the time, but within LONGEST_KEPT. Capped lanes are bound by
-- jobs/slots.lua.
local claim = require "nebula.worker.claim"
local nebula = require "nebula"
local outcome = require "nebula.jobs.outcome"
local plans = require "nebula.policy.plan"
local settle = require "nebula.jobs.settle"
local share = require "nebula.policy.share"
local slots = require "nebula.jobs.slots"

local lane_locks = {}

local KEPT_SECONDS, LONGEST_KEPT = 0.1, 1 -- while claims find something
local HEAD_PART = 0.05 -- of the time, for looks from the head
local MOST_CAPPED = 32 -- lanes of one claim: each costs locks of the server
local HIGHEST, LOWEST = 2147483647, "-infinity"

-- Of each lane $1 the first $2 rows. An array instead of an equality, and the lane in the order: an index by
-- lane alone gives that, while the planner would believe that one by time finds jobs of any lane soon.
local ROWS = [[
    SELECT %s, lane_by
    FROM workflow_jobs
    WHERE status = 'pending'
    AND lane = ANY (ARRAY[l.lane])
    AND scheduled_at <= now()
    AND %s
    ORDER BY workflow_jobs.lane, %s
    LIMIT l.most
    FOR UPDATE SKIP LOCKED
]]

local LOCK = [[
  SELECT l.n::int AS n, c.*
  FROM unnest($1::text[], $2::int[], $3::int[], $4::timestamptz[], %s)
    WITH ORDINALITY l (lane, most, priority, since, worth, n)
  CROSS JOIN LATERAL (
    SELECT * FROM (%s) c
    LIMIT CASE WHEN l.worth IS NULL THEN l.most ELSE least(l.most, greatest(0, l.worth - %s)) END
  ) c
]]

-- Where a claim goes on after a row of priority l.priority that is due at l.since, by the plan's order; of
-- another order it begins at the head.
local AFTER = {
  [plans.DEFAULT_ORDER] = { "priority = l.priority AND scheduled_at >= l.since", "priority < l.priority" },
  scheduled_at = { "scheduled_at >= l.since" },
}

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

local function send(conn, statements)
  local results = claim.send(conn, statements)
  for i = #statements, 1, -1 do statements[i] = nil end
  return results[#results]
end

-- ---- locking ----

-- Divides the slots: the lanes that may take something, with the part of each.
local function divided(n, list)
  local parts, taking = share.divide(n, list), {}
  for i, lane in ipairs(list) do
    if parts[i] > 0 then
      local want = lane.cap and math.min(parts[i] + lane.running, math.floor(lane.cap))
      taking[#taking + 1] = { lane = lane, key = lane.key, cap = lane.cap, want = want, part = parts[i], got = 0 }
    end
  end
  return taking
end

local function lock_sql(self, plan, columns, capped, begun)
  local parts = {}
  for i, range in ipairs(begun and AFTER[plan.order] or { "true" }) do
    parts[i] = ("SELECT * FROM (%s) r%d"):format(ROWS:format(columns, range .. " AND " .. self.where, plan.order), i)
  end
  return LOCK:format(capped and slots.WORTH or "NULL::int[]", table.concat(parts, " UNION ALL "), slots.RUNNING)
end

-- One round trip: `first`, the places of capped lanes, and the rows.
local function lock(self, conn, plan, taking, columns, first)
  local names, most, priorities, since, capped, begun = {}, {}, {}, {}, false, false
  for i, entry in ipairs(taking) do
    local from = entry.lane.from
    names[i], most[i] = entry.key, entry.part + entry.got
    priorities[i], since[i] = from and from.priority or HIGHEST, from and from.scheduled_at or LOWEST
    capped, begun = capped or entry.cap ~= nil, begun or from ~= nil
  end
  if capped then first[#first + 1] = slots.keep(taking) end
  first[#first + 1] = { lock_sql(self, plan, columns, capped, begun), names, most, priorities, since }
  return send(conn, first)
end

-- The locked rows, in turns of their lanes. Those whose lane is by another declaration are given theirs, and
-- those of `known` ids were locked before.
local function sort_rows(self, conn, policy, taking, rows, known)
  local declaration, stale, of_lane, count = policy:declaration(), {}, {}, 0
  for _, row in ipairs(rows) do
    local n = row.n
    if row.lane_by and row.lane_by ~= declaration then
      stale[#stale + 1] = row.at
    elseif not known[row.id] then
      taking[n].got = taking[n].got + 1
      taking[n].last = row
      local list = of_lane[n]
      if not list then
        list = {}
        of_lane[n] = list
      end
      list[#list + 1] = row
      count = count + 1
    end
  end
  if #stale > 0 then self:move(conn, declaration, '{"' .. table.concat(stale, '","') .. '"}') end
  local sorted, turn = {}, 1
  while #sorted < count do
    for n = 1, #taking do
      local row = of_lane[n] and of_lane[n][turn]
      if row then sorted[#sorted + 1] = row end
    end
    turn = turn + 1
  end
  return sorted
end

-- Of each lane its first jobs. Where some lanes have less than their part, the others get the rest: what they
-- have locked comes again.
local function take_first(self, conn, policy, plan, list, first)
  local taking = divided(plan.limit, list)
  local rows = sort_rows(self, conn, policy, taking, lock(self, conn, plan, taking, claim.COLUMNS, first), {})
  local left, more, ids = plan.limit - #rows, {}, {}
  for _, entry in ipairs(taking) do
    if left > 0 and not entry.cap and entry.got == entry.part then more[#more + 1] = entry end
  end
  if #more > 0 and #more < #taking then
    for _, row in ipairs(rows) do ids[row.id] = true end
    for i, entry in ipairs(more) do entry.part = left // #more + (i <= left % #more and 1 or 0) end
    local rest = sort_rows(self, conn, policy, more, lock(self, conn, plan, more, claim.COLUMNS, first), ids)
    table.move(rest, 1, #rest, #rows + 1, rows)
  end
  for _, entry in ipairs(taking) do
    local last = entry.last
    if last and last.priority then entry.lane.from = last end
  end
  return rows
end

-- One job, whose payload may be beyond what can be read: then it is failed, and there is none.
local function take_one(self, conn, policy, plan, list, first)
  local taking = divided(1, list)
  local rows = sort_rows(self, conn, policy, taking, lock(self, conn, plan, taking, COLUMNS_ALONE, first), {})
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

local function take_selected(conn, list, select, first)
  if #first > 0 then send(conn, first) end
  slots.bound(conn, list)
  local chosen = select(conn, list)
  if #chosen == 0 then return chosen end
  local at, ids, place = {}, {}, {}
  for i, candidate in ipairs(chosen) do at[i], ids[i], place[candidate.id] = candidate.at, candidate.id, i end
  local rows = conn:query(CHOSEN, '{"' .. table.concat(at, '","') .. '"}', ids)
  table.sort(rows, function(a, b) return place[a.id] < place[b.id] end)
  return rows
end

-- ---- the lanes ----

-- The lanes of this claim, another one first each time. Of capped ones a bounded number, and no more than can
-- fill it where no weights are to be kept: their places are locked for others.
local function rotated(kept, list, plan)
  local enough = plan.lanes and plan.lanes.weight == nil and plan.limit or math.huge
  local bounded, capped, room, count = {}, 0, 0, #list
  local from = kept.rotation or 0
  for i = 1, count do
    local lane = list[(from + i - 1) % count + 1]
    if lane.cap then
      if capped == MOST_CAPPED or room >= enough then
        kept.rotation = from + i - 1
        return bounded
      end
      capped, room = capped + 1, room + lane.allowed
    end
    bounded[i] = lane
  end
  kept.rotation = from + 1
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
  local bounded = rotated(self.kept, list, plan)
  if select then return take_selected(conn, bounded, select, first) end
  return (plan.limit == 1 and take_one or take_first)(self, conn, policy, plan, bounded, first)
end

--- The lanes that are kept, where they serve for this claim, too.
---@param self nebula.Laned
---@param policy nebula.Policy
---@return nebula.LaneNow[]?
function lane_locks.kept(self, policy)
  local kept = self.kept
  return kept.policy == policy and nebula.time.monotonic() < kept.until_time and kept.lanes or nil
end

--- Keeps the lanes for a moment, where they are all there are and a claim found something.
---@param self nebula.Laned
---@param policy nebula.Policy
---@param all nebula.LaneNow[]
---@param took number seconds that the look from the head took
function lane_locks.keep(self, policy, all, took)
  local kept = self.kept
  kept.lanes, kept.policy = all, policy
  kept.until_time = nebula.time.monotonic() + math.min(LONGEST_KEPT, math.max(KEPT_SECONDS, took / HEAD_PART))
end

return lane_locks
