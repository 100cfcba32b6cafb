-- worker/claim.lua: how a session takes jobs: a strategy. This one locks rows in a policy's order, the
-- fastest there is; one that must count what runs leases at once.
--
-- A strategy has one method:
--
--   take(self, conn, first, plan) -> rows, leased
--
-- It sends the statements `first` (lists {sql, parameter, ...}, after which a transaction is open)
-- and its own behind them, in as few round trips as it can, by claim.send. It returns the jobs, with
-- the columns of claim.COLUMNS. Where it leased them (status, token, locked_by and lease_until are
-- written), it has committed, says `leased`, and the jobs' tokens are the new ones; else they are
-- locked by the open transaction. Where there is none to take, it has committed; nil instead of rows says
-- that it is worth to look again at once. It raises what the server says.
local pause = require "nebula.jobs.pause"

local claim = {}

claim.COLUMNS = [[ctid::text AS at, id, token, workflow_id, execution_id, priority, scheduled_at, retry_count,
  max_retries, lane, unique_while, payload]]

-- The claim's plan must not depend on statistics: a fresh backlog has none, and a sort of all of it is
-- what the planner would choose. Where an index gives the order it may not sort or build bitmaps.
local SETTINGS = [[
  SELECT set_config(name, 'off', %s)
  FROM unnest('{enable_sort, enable_incremental_sort, enable_bitmapscan, enable_seqscan, enable_hashjoin,
    enable_mergejoin, jit}'::text[]) AS name
]]

-- For the session; and for a transaction, behind a pooler that lends sessions for no longer.
claim.PLANNER, claim.PLANNER_LOCAL = SETTINGS:format "false", SETTINGS:format "true"

--- The statements that prepare a claim connection. A stopped process loses its locks with its lease.
---@param lease number seconds
---@param is_local boolean for the transaction that is open, else for the session
---@return table[]
function claim.session(lease, is_local)
  return {
    { is_local and claim.PLANNER_LOCAL or claim.PLANNER },
    { "SELECT set_config('idle_in_transaction_session_timeout', $1, $2)", tostring(lease * 1000 // 1), is_local },
  }
end

local CLAIM = [[
  SELECT %s
  FROM workflow_jobs
  WHERE status = 'pending'
  AND scheduled_at <= now()
  AND %s
  ORDER BY %s
  LIMIT $1
  FOR UPDATE SKIP LOCKED
]]

local EACH = { transaction = false }

--- Sends statements in one round trip and returns what each returned. Raises the error of the first that
--- failed, whose `index` is its place.
---@param conn nebula.pg.Connection
---@param statements table[] lists {sql, parameter, ...}
---@return nebula.pg.rows[]
function claim.send(conn, statements)
  local results = conn:batch(statements, EACH)
  if results.failed > 0 then
    for _, result in ipairs(results) do
      if result.kind then error(result, 0) end
    end
  end
  return results
end

--- The statement that locks $1 due jobs in that order.
---@param order string
---@param where string
---@param columns? string
---@return string
function claim.sql(order, where, columns) return CLAIM:format(columns or claim.COLUMNS, where, order) end

---@class nebula.RowLocks a strategy
local RowLocks = {}
RowLocks.__index = RowLocks

--- What a worker takes: of one workflow where it is limited to that; and jobs that name a handler, unless
--- one function is there for all. The others are another engine's on the same table, which does them itself.
---@param worker nebula.Worker
---@return string where
function claim.mine(worker)
  local mine = worker.handlers.only and "true" or "payload ->> 'handler' IS NOT NULL"
  return worker.workflow_id and ("%s AND workflow_id = '%s'"):format(mine, worker.workflow_id) or mine
end

---@param worker nebula.Worker
---@return nebula.RowLocks
function claim.row_locks(worker)
  return setmetatable({ worker = worker, where = "NOT suspect AND " .. claim.mine(worker), known = {} }, RowLocks)
end

function RowLocks:condition()
  return self.worker.lanes_paused and self.where .. " AND " .. pause.LANE_RUNS or self.where
end

--- The statement for a plan. Without the payload it reads also what cannot be decoded.
---@param plan nebula.Plan
---@param without_payload? boolean
---@return string
function RowLocks:sql(plan, without_payload)
  local where = self:condition()
  local order = self.worker.marks:sort(plan)
  if without_payload then return claim.sql(order, where, claim.COLUMNS:gsub(", payload", "")) end
  local key = order .. where
  local sql = self.known[key]
  if not sql then
    sql = claim.sql(order, where)
    self.known[key] = sql
  end
  return sql
end

---@param conn nebula.pg.Connection
---@param first table[]
---@param plan nebula.Plan
---@return table[]? rows, boolean leased
function RowLocks:take(conn, first, plan)
  local worker = self.worker
  local marks = worker.marks
  local probe, asked = marks:probe(plan)
  first[#first + 1] = probe
  local marked = marks:statement(claim.sql, self:condition(), plan)
  first[#first + 1] = marked or { self:sql(plan), plan.limit }
  local results = claim.send(conn, first)
  local rows = results[#results]
  if probe then marks:moved(results[#results - 1], asked) end
  marks:saw(rows, plan)
  if #rows > 0 then return rows, false end
  conn:exec "COMMIT"
  if marked and worker.finished then -- one that ends where nothing is due must have looked from the head
    marks:forget()
    return nil, false
  end
  return rows, false
end

return claim
