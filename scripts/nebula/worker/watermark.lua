-- worker/watermark.lua: where a claim's scan of the index begins, for each priority.
--
-- Entries of finished rows stay at the head of the index while some transaction may still see them: a
-- snapshot held for long makes each claim read all of them again. So a claim begins at a mark, the time
-- below which no pending row of the priority is to be seen. It is never guessed from what was taken: a
-- probe asks for the first pending row from the mark on, whoever has it locked or skipped it, and the
-- mark moves there; such a row holds it. Nor does it come nearer to the present than MARGIN, so that a
-- push may take as long until it is committed. What still comes to lie below (a push that took longer,
-- one with a time in the past, a job given back) is told by who did it, and the mark is lowered; what
-- nobody tells (rows of other programs) is found by a look from the head each RESCAN_SECONDS, or so
-- rarely that it costs a twentieth of the time at most.
--
-- The promise: nothing is lost, and nothing waits for longer than the lag that is reported.
local nebula = require "nebula"

---@class nebula.Watermarks
---@field at table<integer, string> the mark of each known priority
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
local LOWEST = "-infinity"
local ORDER = "priority DESC, scheduled_at" -- the one that has marks

-- The first pending row of each priority $1 from $2 on, but not later than MARGIN ago.
local PROBE = [[
  SELECT m.priority, least(head.at, now() - interval '100 ms') AS at
  FROM unnest($1::int[], $2::timestamptz[]) AS m (priority, at)
  LEFT JOIN LATERAL (
    SELECT scheduled_at AS at
    FROM workflow_jobs
    WHERE status = 'pending'
    AND priority = m.priority
    AND scheduled_at >= m.at
    AND scheduled_at <= now()
    ORDER BY scheduled_at
    LIMIT 1
  ) head ON true
]]

---@return nebula.Watermarks
function Watermarks.new()
  return setmetatable({ at = {}, known = {}, changes = 0, sql = {}, probed = 0, lag = 0, late = 0 }, Watermarks)
end

--- Forgets all: the next claim begins at the head.
function Watermarks:forget()
  self.at, self.known, self.changes, self.sql = {}, {}, self.changes + 1, {}
end

-- ---- the claim ----

-- One after the other: rows without a priority, above the highest that is known, that one from its mark
-- on, between it and the next, and so on. Each range is read from its head: what lies in it is new.
local function ranges(known)
  local list = { "priority IS NULL" }
  local above
  for i, priority in ipairs(known) do
    list[#list + 1] = above and ("priority < %d AND priority > %d"):format(above, priority)
      or ("priority > %d"):format(priority)
    list[#list + 1] = ("priority = %d AND scheduled_at >= $%d"):format(priority, i + 1)
    above = priority
  end
  list[#list + 1] = ("priority < %d"):format(above)
  return list
end

--- The claim's statement with its parameters, or nil where it begins at the head: another order, or
--- nothing known yet.
---@param lock fun(order: string, where: string): string the statement that locks $1 rows
---@param where string
---@param plan nebula.Plan
---@return table? statement
function Watermarks:statement(lock, where, plan)
  if plan.order ~= ORDER or not self.known[1] then return nil end
  local sql = self.sql[where]
  if not sql then
    local parts = ranges(self.known)
    for i, range in ipairs(parts) do
      parts[i] = ("SELECT * FROM (%s) r%d"):format(lock(ORDER, ("%s AND %s"):format(range, where)), i)
    end
    sql = ("SELECT * FROM (%s) r LIMIT $1"):format(table.concat(parts, " UNION ALL "))
    self.sql[where] = sql
  end
  local statement = { sql, plan.limit }
  for i, priority in ipairs(self.known) do statement[i + 2] = self.at[priority] end
  return statement
end

--- Learns the priorities of rows that were taken.
---@param rows nebula.Job[]
function Watermarks:saw(rows)
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

local function earlier(a, b)
  if a == LOWEST or b == LOWEST then return a == LOWEST and b ~= LOWEST end
  return a < b
end

-- Times are compared as text, which years of other than four digits do not stand.
local function comparable(at) return #at == 27 and at:find "^%d%d%d%d%-" and at or LOWEST end

--- A row of the priority became pending at a time that may lie below the mark.
---@param priority integer
---@param at string
function Watermarks:lower(priority, at)
  local mark = self.at[priority]
  at = comparable(at)
  if mark and earlier(at, mark) then
    self.at[priority], self.changes = at, self.changes + 1
  end
end

local function probe(known, marks)
  local at = {}
  for i, priority in ipairs(known) do at[i] = marks and marks[priority] or LOWEST end
  return { PROBE, known, at }
end

--- The statement that looks where the marks may move, now and then, else nil. Its rows go to `moved`,
--- with what the second value was.
---@param plan nebula.Plan
---@return table? statement, integer? asked
function Watermarks:probe(plan)
  local now = nebula.time.monotonic()
  if plan.order ~= ORDER or not self.known[1] or now < self.probed + PROBE_SECONDS then return nil end
  self.probed = now
  return probe(self.known, self.at), self.changes
end

---@param rows {priority: integer, at: string}[]
---@param asked integer
function Watermarks:moved(rows, asked)
  if asked ~= self.changes then return end -- what was lowered meanwhile, the probe did not see
  for _, row in ipairs(rows) do
    local mark = self.at[row.priority]
    local at = comparable(row.at)
    if mark and earlier(mark, at) then self.at[row.priority] = at end
  end
end

-- ---- the look from the head ----

-- Returns whether a mark was lowered.
local function rescan(self, db, planner)
  if not self.known[1] then return false end
  local results = db:batch { { planner }, probe(self.known) }
  local before = self.changes
  for _, row in ipairs(results[2]) do self:lower(row.priority, row.at) end
  return self.changes ~= before
end

--- Body of a task: looks from the head on a connection of its own, and calls found() where a row was
--- below its mark.
---@param db nebula.pg.Pool
---@param planner string statement that settles the planner for a transaction
---@param log nebula.log.logger
---@param found fun()
function Watermarks:rescans(db, planner, log, found)
  local wait = RESCAN_SECONDS
  while true do
    nebula.task.sleep(wait)
    local began = nebula.time.monotonic()
    local late, err = nebula.try(rescan, self, db, planner)
    local took = nebula.time.monotonic() - began
    if err then
      log.warn("looking for late jobs failed; it is tried again", { error = err.message })
      wait = RETRY_SECONDS
      self.lag = self.lag + took + wait
    else
      wait = math.max(RESCAN_SECONDS, took / RESCAN_SHARE)
      if took / RESCAN_SHARE > RESCAN_SECONDS then
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
