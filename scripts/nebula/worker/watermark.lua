-- worker/watermark.lua: where a claim's scan of the index begins, for each priority; or, where the policy
-- takes jobs by time alone, for all of them. A mark is a time and, among the jobs of that time, an id.
--
-- Entries of finished rows stay at the head of the index while some transaction may still see them: a
-- snapshot held for long makes each claim read all of them again. So a claim begins at a mark, below
-- which no pending row of the priority is to be seen that this worker takes. It is never guessed from what
-- was taken: a probe asks for the first such row from the mark on, whoever has it locked or skipped it, and
-- the mark moves there; such a row holds it. Nor does it come nearer to the present than MARGIN, so that a
-- push may take as long until it is committed. What still comes to lie below (a push that took longer,
-- one with a time in the past, a job given back) is told by who did it, and the mark is lowered; what
-- nobody tells (rows of other programs) is found by a look from the head each RESCAN_SECONDS, or so
-- rarely that it costs a twentieth of the time at most. Where it is not said which jobs came back, that
-- look is due at once.
--
-- The promise: nothing is lost, and nothing waits for longer than the lag that is reported.
local nebula = require "nebula"
local Signal = require "nebula.worker.signal"

---@class nebula.Mark
---@field at string
---@field id string

---@class nebula.Watermarks
---@field at table<integer|string, nebula.Mark> the mark of each known priority; at BY_TIME that of all
---@field known integer[] the priorities, highest first
---@field lag number seconds by which a row that nobody told of may be late
---@field late integer how often the look from the head found such rows
local Watermarks = {}
Watermarks.__index = Watermarks

local MOST = 16 -- priorities that have a mark
local PROBE_SECONDS = 0.05
local RESCAN_SECONDS = 4
local RESCAN_SHARE = 0.05 -- of the time, at most
local RETRY_SECONDS = 1
local ORDER, BY_TIME = "priority DESC, scheduled_at", "scheduled_at" -- those that have marks
local FIRST_ID = "00000000-0000-0000-0000-000000000000"
local LOWEST = { at = "-infinity", id = FIRST_ID }

-- The first pending row of each priority $1 from $2, $3 on, but not later than MARGIN ago.
local PROBE = [[
  SELECT m.priority, least(head.at, edge.at) AS at, CASE WHEN head.at <= edge.at THEN head.id END AS id
  FROM unnest($1::int[], $2::timestamptz[], $3::uuid[]) AS m (priority, at, id)
  CROSS JOIN (SELECT now() - interval '100 ms' AS at) edge
  LEFT JOIN LATERAL (
    SELECT scheduled_at AS at, %s AS id
    FROM workflow_jobs
    WHERE status = 'pending'
    AND %s
    AND priority = m.priority
    AND (scheduled_at, id) >= (m.at, m.id)
    AND scheduled_at <= now()
    ORDER BY %s
    LIMIT 1
  ) head ON true
]]

-- The first of all from $1, $2 on. Without a priority, which says that it is of BY_TIME.
local PROBE_BY_TIME = [[
  SELECT least(head.at, edge.at) AS at, CASE WHEN head.at <= edge.at THEN head.id END AS id
  FROM (SELECT now() - interval '100 ms' AS at) edge
  LEFT JOIN LATERAL (
    SELECT scheduled_at AS at, id
    FROM workflow_jobs
    WHERE status = 'pending'
    AND %s
    AND (scheduled_at, id) >= ($1, $2)
    AND scheduled_at <= now()
    ORDER BY scheduled_at, id
    LIMIT 1
  ) head ON true
]]

--- The marks of a worker. `takes` is the condition on what it ever takes. No index has all jobs in the order
--- of priorities, times and ids, only those that name a handler: a worker that takes others, too, goes
--- without the ids there (`handled` false).
---@param takes string
---@param handled boolean
---@return nebula.Watermarks
function Watermarks.new(takes, handled)
  local by_time = BY_TIME .. ", id"
  return setmetatable({
    at = {}, known = {}, changes = 0, sql = {}, probed = 0, lag = 0, late = 0, hurried = Signal.new(),
    sorts = { [ORDER] = handled and ORDER .. ", id" or ORDER, [BY_TIME] = by_time },
    probe_sql = PROBE:format(handled and "id" or "NULL::uuid", takes, handled and by_time or BY_TIME),
    probe_by_time_sql = PROBE_BY_TIME:format(takes),
  }, Watermarks)
end

--- Forgets all: the next claim begins at the head.
function Watermarks:forget()
  self.at, self.known, self.changes, self.sql = {}, {}, self.changes + 1, {}
end

-- ---- the claim ----

--- What a claim sorts by: the plan's order, and ids where an index has them.
---@param plan nebula.Plan
---@return string
function Watermarks:sort(plan) return self.sorts[plan.order] or plan.order end

-- One after the other: rows without a priority, above the highest that is known, that one from its mark
-- on, between it and the next, and so on. Each range is read from its head: what lies in it is new.
local function ranges(known)
  local list = { "priority IS NULL" }
  local above
  for i, priority in ipairs(known) do
    list[#list + 1] = above and ("priority < %d AND priority > %d"):format(above, priority)
      or ("priority > %d"):format(priority)
    list[#list + 1] = ("priority = %d AND (scheduled_at, id) >= ($%d, $%d)"):format(priority, 2 * i, 2 * i + 1)
    above = priority
  end
  list[#list + 1] = ("priority < %d"):format(above)
  return list
end

local function by_time(self, lock, where, plan)
  local mark = self.at[BY_TIME]
  if not mark then return nil end
  local key = BY_TIME .. where
  self.sql[key] = self.sql[key] or lock(self:sort(plan), "(scheduled_at, id) >= ($2, $3) AND " .. where)
  return { self.sql[key], plan.limit, mark.at, mark.id }
end

--- The claim's statement with its parameters, or nil where it begins at the head: another order, or
--- nothing known yet.
---@param lock fun(order: string, where: string): string the statement that locks $1 rows
---@param where string
---@param plan nebula.Plan
---@return table? statement
function Watermarks:statement(lock, where, plan)
  if plan.order == BY_TIME then return by_time(self, lock, where, plan) end
  if plan.order ~= ORDER or not self.known[1] then return nil end
  local sql = self.sql[where]
  if not sql then
    local parts = ranges(self.known)
    for i, range in ipairs(parts) do
      parts[i] = ("SELECT * FROM (%s) r%d"):format(lock(self:sort(plan), ("%s AND %s"):format(range, where)), i)
    end
    sql = ("SELECT * FROM (%s) r LIMIT $1"):format(table.concat(parts, " UNION ALL "))
    self.sql[where] = sql
  end
  local statement = { sql, plan.limit }
  for i, priority in ipairs(self.known) do
    local mark = self.at[priority]
    statement[2 * i + 1], statement[2 * i + 2] = mark.at, mark.id
  end
  return statement
end

--- Learns the priorities of rows that were taken.
---@param rows nebula.Job[]
---@param plan nebula.Plan
function Watermarks:saw(rows, plan)
  if plan.order == BY_TIME and rows[1] and not self.at[BY_TIME] then self.at[BY_TIME], self.probed = LOWEST, 0 end
  if plan.order ~= ORDER then return end
  local last
  for _, job in ipairs(rows) do
    local priority = job.priority
    if priority ~= last and priority and not self.at[priority] and #self.known < MOST then
      self.at[priority] = LOWEST
      table.insert(self.known, priority)
      table.sort(self.known, function(a, b) return a > b end)
      self.sql, self.probed = {}, 0
    end
    last = priority
  end
end

-- ---- moving ----

-- Times are compared as text, which years of other than four digits do not stand.
local function mark_of(at, id)
  if #at ~= 27 or not at:find "^%d%d%d%d%-" then return LOWEST end
  return { at = at, id = id or FIRST_ID }
end

local function earlier(a, b)
  if a == LOWEST or b == LOWEST then return a ~= b and a == LOWEST end
  if a.at ~= b.at then return a.at < b.at end
  return a.id < b.id
end

local function lower(self, key, at, id)
  local mark, new = self.at[key], mark_of(at, id)
  self.changes = self.changes + 1 -- a probe that is under way did not see the row: it may not pass it
  if not mark or not earlier(new, mark) then return false end
  self.at[key] = new
  return true
end

--- A row of the priority became pending at a time that may lie below the marks.
---@param priority integer
---@param at string
function Watermarks:lower(priority, at)
  lower(self, priority, at)
  lower(self, BY_TIME, at)
end

-- From the marks on, or from the head.
local function probe(self, from_head)
  local at, ids = {}, {}
  for i, priority in ipairs(self.known) do
    local mark = from_head and LOWEST or self.at[priority]
    at[i], ids[i] = mark.at, mark.id
  end
  return { self.probe_sql, self.known, at, ids }
end

local function probe_by_time(self, from_head)
  local mark = from_head and LOWEST or self.at[BY_TIME]
  return { self.probe_by_time_sql, mark.at, mark.id }
end

--- The statement that looks where the marks may move, now and then, else nil. Its rows go to `moved`,
--- with what the second value was.
---@param plan nebula.Plan
---@return table? statement, integer? asked
function Watermarks:probe(plan)
  local now = nebula.time.monotonic()
  if now < self.probed + PROBE_SECONDS then return nil end
  local statement
  if plan.order == BY_TIME and self.at[BY_TIME] then
    statement = probe_by_time(self)
  elseif plan.order == ORDER and self.known[1] then
    statement = probe(self)
  end
  if not statement then return nil end
  self.probed = now
  return statement, self.changes
end

---@param rows {priority?: integer, at: string, id?: string}[]
---@param asked integer
function Watermarks:moved(rows, asked)
  if asked ~= self.changes then return end -- what was lowered meanwhile, the probe did not see
  for _, row in ipairs(rows) do
    local key = row.priority or BY_TIME
    local mark, new = self.at[key], mark_of(row.at, row.id)
    if mark and earlier(mark, new) then self.at[key] = new end
  end
end

-- ---- the look from the head ----

-- Returns whether a mark was lowered.
local function rescan(self, db, planner)
  local looks = { { planner } }
  if self.known[1] then looks[2] = probe(self, true) end
  if self.at[BY_TIME] then looks[#looks + 1] = probe_by_time(self, true) end
  if #looks == 1 then return false end
  local lowered, results = false, db:batch(looks)
  for i = 2, #looks do
    for _, row in ipairs(results[i]) do lowered = lower(self, row.priority or BY_TIME, row.at, row.id) or lowered end
  end
  return lowered
end

--- Jobs came back that nobody names: the next look from the head is due.
function Watermarks:hurry() self.hurried:notify() end

--- Body of a task: looks from the head on a connection of its own, and calls found() where a row was
--- below its mark.
---@param db nebula.pg.Pool
---@param planner string statement that settles the planner for a transaction
---@param log nebula.log.logger
---@param found fun()
function Watermarks:rescans(db, planner, log, found)
  local wait, least = RESCAN_SECONDS, 0
  while true do
    local slept = nebula.time.monotonic()
    if self.hurried:wait(wait) then
      nebula.task.sleep(math.max(0, slept + least - nebula.time.monotonic()))
    end
    local began = nebula.time.monotonic()
    local late, err = nebula.try(rescan, self, db, planner)
    local took = nebula.time.monotonic() - began
    if err then
      log.warn("looking for late jobs failed; it is tried again", { error = err.message })
      wait, least = RETRY_SECONDS, RETRY_SECONDS
      self.lag = self.lag + took + wait
    else
      least = took / RESCAN_SHARE
      wait = math.max(RESCAN_SECONDS, least)
      if least > RESCAN_SECONDS then
        log.warn("looking for late jobs takes long (is a snapshot held open?): jobs that other programs insert "
          .. "with a time in the past may be late", { seconds = wait })
      end
      self.lag = wait + took
      if late then
        self.late = self.late + 1
        found()
      end
    end
  end
end

return Watermarks
