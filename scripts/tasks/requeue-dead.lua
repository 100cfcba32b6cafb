-- tasks/requeue-dead.lua: nebula task requeue-dead [--handler NAME] [--error '%timeout%'] [--dry-run]
--
-- Only jobs that had ended when the task began: one that dies again meanwhile is not tried for ever.
local WHICH = [[
  status = ANY ($1) AND ($2::text IS NULL OR payload ->> 'handler' = $2) AND ($3::text IS NULL OR error LIKE $3)
  AND ($4::text IS NULL OR lane = $4)
]]

return {
  summary = "Put dead jobs back into the queue, with all their tries",

  options = {
    handler = { type = "string", help = "only jobs of this handler" },
    error = { type = "string", help = "only jobs whose last error is LIKE this" },
    lane = { type = "string", help = "only jobs of this lane" },
    status = { type = "list", choices = { "dead", "failed", "cancelled" }, default = { "dead" }, help = "which jobs" },
  },

  preview = function(ctx, opts)
    return { would_requeue = ctx.db:value("SELECT count(*) FROM workflow_jobs WHERE " .. WHICH, opts.status,
      opts.handler, opts.error, opts.lane) }
  end,

  run = function(ctx, opts)
    local query = { status = opts.status, handler = opts.handler, error = opts.error, lane = opts.lane,
      ended_before = ctx.db:value "SELECT now()" }
    return { requeued = ctx.batches(function(limit)
      query.limit = math.min(limit, 10000)
      return ctx.storage:requeue_jobs(query)
    end, { table = "workflow_jobs", unit = "jobs" }) }
  end,
}
