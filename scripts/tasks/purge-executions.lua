-- tasks/purge-executions.lua: nebula task purge-executions --keep completed=30d [--dry-run] [--yes]
--
-- Deletes ended executions with their history and jobs; archive-executions keeps them. Their artifacts
-- are nobody's then, unless an archive has them, too: gc-blobs deletes the objects after its grace period.
-- An execution with a job that still waits or runs stays. The jobs go first, so that an interrupted run
-- leaves no job without its execution. Each step reads a stretch of a table, in the time of one batch.
local archive = require "nebula.archive"
local retention = require "nebula.tasks.retention"

local ENDED = "coalesce(completed_at, updated_at)"
local PAST = ([[
  FROM executions e
  WHERE status IN ('completed', 'failed', 'cancelled', 'timed_out')
  AND %s < now() - make_interval(secs => $2)
  AND %s
  AND NOT EXISTS (
    SELECT FROM workflow_jobs j WHERE j.execution_id = e.id AND j.status IN ('pending', 'running')
  )
]]):format(ENDED, retention.past(ENDED))

local CHOOSE = "INSERT INTO purged SELECT e.id " .. PAST .. " AND e.ctid >= $3::tid AND e.ctid < $4::tid"

local JOBS = [[
  DELETE FROM workflow_jobs j
  USING purged p
  WHERE j.ctid >= $1::tid AND j.ctid < $2::tid AND j.execution_id = p.id AND j.status NOT IN ('pending', 'running')
]]

local EXECUTIONS = [[
  WITH batch AS MATERIALIZED (
    DELETE FROM purged WHERE id IN (SELECT id FROM purged LIMIT $3) RETURNING id
  ), deleted AS (
    DELETE FROM executions WHERE id IN (SELECT e.id %s AND e.id IN (SELECT id FROM batch)) RETURNING id
  ), artifacts AS (
    DELETE FROM blobs WHERE execution_id IN (SELECT id FROM deleted) AND archive IS NULL
  )
  SELECT (SELECT count(*) FROM batch) AS batch, (SELECT count(*) FROM deleted) AS deleted
]]

return {
  summary = "Delete ended executions past their retention, with their history and jobs",
  destructive = true,

  options = {
    keep = { type = "map", default = { completed = "90d", cancelled = "90d" },
      help = "how long executions of a status are kept after they ended; others stay for ever" },
    target = { type = "duration", default = "50ms", help = "what one transaction may take" },
  },

  preview = function(ctx, opts)
    local keep, shortest = retention.parameter("purge-executions", opts.keep, archive.FINISHED)
    return { would_delete = retention.counts(ctx.db:query(
      "SELECT status, count(*) AS count " .. PAST .. " GROUP BY status", keep, shortest)) }
  end,

  run = function(ctx, opts)
    local keep, shortest = retention.parameter("purge-executions", opts.keep, archive.FINISHED)
    local connection <close> = ctx.db:acquire()
    connection:exec "CREATE TEMPORARY TABLE purged (id UUID PRIMARY KEY)"
    local _ <close> = setmetatable({}, { __close = function() connection:exec "DROP TABLE purged" end })
    local total = ctx.walk("executions", function(from, to)
      return connection:exec(CHOOSE, keep, shortest, from, to)
    end, { target = opts.target })
    if total == 0 then return { executions = 0, jobs = 0 } end
    connection:exec "ANALYZE purged"
    local jobs = ctx.walk("workflow_jobs", function(from, to) return connection:exec(JOBS, from, to) end,
      { target = opts.target })
    local executions = 0
    ctx.batches(function(limit)
      local row = connection:one(EXECUTIONS:format(PAST), keep, shortest, limit)
      executions = executions + row.deleted
      return row.batch
    end, { target = opts.target, total = total, unit = "executions", table = "executions" })
    return { executions = executions, jobs = jobs }
  end,
}
