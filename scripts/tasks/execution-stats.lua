-- tasks/execution-stats.lua: nebula task execution-stats [--workflow NAME] [--since 1d]
local workflow_names = require "nebula.tasks.workflow_names"

local STATS = [[
  SELECT workflow, status, count(*) AS executions,
    round(percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds)::numeric, 3)::float8 AS p50_seconds,
    round(percentile_cont(0.95) WITHIN GROUP (ORDER BY seconds)::numeric, 3)::float8 AS p95_seconds,
    max(completed_at) AS last
  FROM (
    SELECT w.name AS workflow, e.status, e.completed_at, extract(epoch FROM e.completed_at - e.created_at) AS seconds
    FROM executions e JOIN workflows w ON w.id = e.workflow_id
    WHERE e.status IN ('completed', 'failed', 'cancelled', 'timed_out')
    AND ($1::text IS NULL OR w.name = $1)
    AND ($2::float8 IS NULL OR e.completed_at > now() - make_interval(secs => $2))
  ) ended
  GROUP BY workflow, status
  ORDER BY workflow, status
]]

return {
  summary = "How many executions have finished, how, and how long they took from creation to end",

  options = {
    workflow = { type = "string", help = "only this workflow, by name" },
    since = { type = "duration", help = "only those that ended in this time" },
  },

  run = function(ctx, opts)
    workflow_names("execution-stats", ctx.db, opts.workflow)
    local rows = ctx.db:query(STATS, opts.workflow, opts.since)
    return {
      rows = rows,
      columns = { "workflow", "status", "executions", "p50_seconds", "p95_seconds", "last" },
    }
  end,
}
