-- jobs/rescue.lua: jobs whose worker has vanished, given back to the queue or ended as the policy's
-- rescue says. Workers do it as they go; the task rescue-stuck, where none runs.
--
-- Which ones, is `{where=, why=, alone=}`: SQL with its parameters, what is noted as their failure,
-- and whether what comes back runs alone from now on.
local nebula = require "nebula"
local news = require "nebula.jobs.news"
local outcome = require "nebula.jobs.outcome"
local settle = require "nebula.jobs.settle"

local rescue = {}

local BATCH = 100

-- A process that is stopped in the middle of a rescue keeps its rows from nobody for longer.
local UNTIL_STOPPED = "SET LOCAL idle_in_transaction_session_timeout = '5s'"

--- Those whose lease has run out.
rescue.EXPIRED = {
  where = "status = 'running' AND lease_until < now()", why = "its worker vanished: the lease ran out",
}

--- Those that another engine runs, which knows no lease, taken more than $1 seconds ago.
rescue.UNLEASED = {
  where = [[status = 'running' AND lease_until IS NULL
    AND coalesce(locked_at, scheduled_at) < now() - make_interval(secs => $1)]],
  why = "it ran for too long without a lease",
}

-- `beside`: its process ran a suspect when it vanished, which is to blame alone. `now`: the earliest that
-- those which are tried again can be due.
local ROWS = [[
  SELECT ctid::text AS at, id, workflow_id, execution_id, priority, scheduled_at, retry_count, max_retries, lane,
    failures, locked_by, now() AS now, suspect, status = 'running' AND NOT suspect AND EXISTS (
      SELECT FROM workflow_jobs s
      WHERE s.status = 'running' AND s.lease_until IS NOT NULL AND s.suspect AND s.locked_by = workflow_jobs.locked_by
    ) AS beside %s
  FROM workflow_jobs
  WHERE %s
  LIMIT %d
  FOR UPDATE SKIP LOCKED
]]

--- How many there are.
---@param db nebula.pg.queries
---@param which {where: string}
---@param ... any the parameters of `where`
---@return integer
function rescue.count(db, which, ...)
  return db:value("SELECT count(*) FROM workflow_jobs WHERE " .. which.where, ...)
end

-- The rows, locked. Payloads that are beyond what can be read (nested too deep, too large) must not keep
-- the batch from its rescue: then the policy decides without them.
local function lock(tx, where, args)
  local rows, err = nebula.try(tx.transaction, tx, function()
    return tx:query(ROWS:format(", payload", where, BATCH), table.unpack(args, 1, args.n))
  end)
  if rows then return rows end
  if err.kind ~= "limit" then error(err, 0) end
  return tx:query(ROWS:format("", where, BATCH), table.unpack(args, 1, args.n))
end

--- Rescues a batch of them. Returns how many there were, how many of them have ended for good, and since
--- when which of the others are due, as jobs/news.lua has it.
---@param storage nebula.Storage
---@param policy nebula.Policy
---@param which {where: string, why: string, alone?: boolean}
---@param ... any the parameters of `where`
---@return integer rescued, integer dead, table<integer, string> since
function rescue.batch(storage, policy, which, ...)
  local args = table.pack(...)
  return storage.db:transaction(function(tx)
    tx:exec(UNTIL_STOPPED)
    local rows = lock(tx, which.where, args)
    if #rows == 0 then return 0, 0, {} end
    local at, outcomes, dead, since = {}, {}, 0, {}
    for i, job in ipairs(rows) do
      at[i] = job.at
      local made = job.beside and outcome.released(job) or outcome.lost(policy, job, which.why, job.locked_by)
      if which.alone then made.suspect = made.status == "pending" end
      if made.status == "dead" then
        dead = dead + 1
      else
        news.add(since, job.priority, made.delay and job.now or job.scheduled_at)
      end
      outcomes[i] = made
    end
    tx:exec(settle.OTHER_LOCKED, '{"' .. table.concat(at, '","') .. '"}', settle.columns(outcomes))
    return #rows, dead, since
  end)
end

--- Rescues all of them, and tells the workers.
---@param storage nebula.Storage
---@param policy nebula.Policy
---@param which {where: string, why: string, alone?: boolean}
---@param ... any
---@return integer rescued
function rescue.all(storage, policy, which, ...)
  local total = 0
  repeat
    local count, _, since = rescue.batch(storage, policy, which, ...)
    total = total + count
    if count > 0 then storage:wake(since) end
  until count < BATCH
  return total
end

return rescue
