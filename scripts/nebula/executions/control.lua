-- executions/control.lua: what is asked of a whole run: cancel, pause, resume, retry. Methods of a
-- Storage. The execution and its jobs change in one transaction.
local check = require "nebula.check"
local raise = require "nebula.raise"
local states = require "nebula.executions.state"

local control = {}

local CANCEL_JOBS = [[
  UPDATE workflow_jobs
  SET status = 'cancelled', lease_until = NULL, finished_at = clock_timestamp()
  WHERE execution_id = $1
  AND status IN ('pending', 'running')
]]

local RETRY = [[
  WITH old AS (
    SELECT id, status FROM executions WHERE id = $1 FOR UPDATE
  ), changed AS (
    UPDATE executions e
    SET status = 'created', error = NULL, completed_at = NULL, updated_at = clock_timestamp()
    FROM old
    WHERE e.id = old.id
    AND old.status IN ('failed', 'timed_out', 'cancelled')
    RETURNING e.*
  ), logged AS (
    INSERT INTO execution_history (execution_id, from_status, to_status)
    SELECT old.id, old.status, 'created'
    FROM changed JOIN old USING (id)
  )
  SELECT old.status AS old_status, changed.*
  FROM old LEFT JOIN changed USING (id)
]]

-- Calls fn(tx) in the caller's transaction, or in one of its own.
local function within(self, db, fn)
  if db then return fn(db) end
  return self.db:transaction(fn)
end

local function status_of(tx, what, id)
  local status = tx:value("SELECT status FROM executions WHERE id = $1 FOR UPDATE", id)
  if not status then raise("not_found", "%s: there is no execution %s", what, id) end
  return status
end

--- Cancels a run and its jobs that have not ended. One that runs becomes `cancelling`, and `cancelled`
--- by a transition once its work has ended; one that does not run is `cancelled` at once. The holder of
--- a running job learns it at its next heartbeat. Cancelling twice is cancelling once.
--- Raises `not_found`, and `conflict` where it has ended otherwise.
---@param id string
---@param reason? string
---@param db? nebula.pg.Transaction the caller's transaction
---@return nebula.Execution
function control.cancel_execution(self, id, reason, db)
  local what = "cancel_execution"
  id = check.id(what, id)
  return within(self, db, function(tx)
    local status = status_of(tx, what, id)
    tx:exec(CANCEL_JOBS, id)
    if status == "cancelling" or status == "cancelled" then
      local function read() return tx:one("SELECT * FROM executions WHERE id = $1", id) end
      return states.resolve(self, read(), read)
    end
    return self:transition_execution(id, status == "running" and "cancelling" or "cancelled", { error = reason }, tx)
  end)
end

--- Pauses a run. Jobs of it that run go on; whoever pushes its next ones looks at the status.
--- Raises `not_found`, and `conflict` where it does not run.
---@param id string
---@param db? nebula.pg.Transaction the caller's transaction
---@return nebula.Execution
function control.pause_execution(self, id, db)
  return self:transition_execution(check.id("pause_execution", id), "paused", { from = "running" }, db)
end

--- Lets a paused run go on. Raises `not_found`, and `conflict` where it is not paused.
---@param id string
---@param db? nebula.pg.Transaction the caller's transaction
---@return nebula.Execution
function control.resume_execution(self, id, db)
  return self:transition_execution(check.id("resume_execution", id), "running", { from = "paused" }, db)
end

--- Begins a run that failed, timed out or was cancelled once more, from the state it has: it becomes
--- `created`, and its failed and dead jobs are due again. Its history stays.
--- Raises `not_found`, and `conflict` for one that has not ended so.
---@param id string
---@param db? nebula.pg.Transaction the caller's transaction
---@return nebula.Execution
function control.retry_execution(self, id, db)
  local what = "retry_execution"
  id = check.id(what, id)
  local row = within(self, db, function(tx)
    local row = tx:one(RETRY, id)
    if not row then raise("not_found", "%s: there is no execution %s", what, id) end
    if not row.status then
      raise("conflict", "%s: execution %s is %s: only one that failed, timed out or was cancelled is tried again", what,
        id, row.old_status)
    end
    self:requeue_jobs({ execution_id = id, status = { "failed", "dead" } }, tx)
    row.old_status = nil
    return row
  end)
  return states.resolve(self, row, function()
    return (db or self.db):one("SELECT * FROM executions WHERE id = $1", id)
  end)
end

return control
