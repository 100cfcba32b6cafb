-- tasks/cancel-executions.lua: nebula task cancel-executions --workflow NAME --older-than 7d [--dry-run] [--yes]
--
-- Cancels executions that have not ended, with their jobs that wait or run; what runs is told at its
-- next heartbeat, and its completion is fenced.
local workflow_names = require "nebula.tasks.workflow_names"

local OPEN = { "created", "running", "paused", "cancelling" }

local WHICH = [[
  FROM executions e JOIN workflows w ON w.id = e.workflow_id
  WHERE e.status = ANY ($1) AND ($2::text IS NULL OR w.name = $2)
  AND e.created_at < now() - make_interval(secs => $3)
]]

local function query(ctx, opts)
  workflow_names("cancel-executions", ctx.db, opts.workflow)
  return opts.status, opts.workflow, opts.older_than
end

local JOBS = [[
  UPDATE workflow_jobs
  SET status = 'cancelled', lease_until = NULL, finished_at = clock_timestamp()
  WHERE execution_id = ANY ($1) AND status IN ('pending', 'running')
]]

return {
  summary = "Cancel executions that have not ended, with their jobs",
  destructive = true,

  options = {
    workflow = { type = "string", help = "only this workflow, by name" },
    status = { type = "list", choices = OPEN, default = OPEN, help = "which executions" },
    older_than = { type = "duration", required = true, help = "time since they were created; 0 takes all" },
    reason = { default = "cancelled by an admin task", help = "what is noted as their error" },
  },

  preview = function(ctx, opts)
    return { would_cancel = ctx.db:value("SELECT count(*) " .. WHICH, query(ctx, opts)) }
  end,

  run = function(ctx, opts)
    local status, workflow, older_than = query(ctx, opts)
    local jobs = 0
    local executions = ctx.batches(function(limit)
      return ctx.db:transaction(function(tx)
        local changes, ids = {}, {}
        for i, row in ipairs(tx:query("SELECT e.id " .. WHICH .. " ORDER BY e.id LIMIT $4 FOR UPDATE OF e SKIP LOCKED",
          status, workflow, older_than, limit)) do
          ids[i], changes[i] = row.id, { id = row.id, status = "cancelled", error = opts.reason }
        end
        if #ids == 0 then return 0 end
        ctx.storage:update_executions(changes, tx)
        jobs = jobs + tx:exec(JOBS, ids)
        return #ids
      end)
    end, { table = "executions", unit = "executions" })
    return { executions = executions, jobs = jobs }
  end,
}
