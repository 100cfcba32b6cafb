-- tasks/purge-jobs.lua: nebula task purge-jobs --keep completed=7d --keep dead=90d [--dry-run] [--yes]
local retention = require "nebula.tasks.retention"

local STATUSES = { "completed", "cancelled", "failed", "dead" }
local PAST = "status IN ('completed', 'cancelled', 'failed', 'dead') AND "
  .. retention.past "coalesce(finished_at, created_at)"

return {
  summary = "Delete finished jobs past their retention",
  destructive = true,

  options = {
    keep = { type = "map", default = { completed = "14d", cancelled = "14d" },
      help = "how long jobs of a status are kept after they ended; others stay for ever" },
    target = { type = "duration", default = "50ms", help = "what one transaction may take" },
  },

  preview = function(ctx, opts)
    local keep = retention.parameter("purge-jobs", opts.keep, STATUSES)
    return { would_delete = retention.counts(ctx.db:query(
      "SELECT status, count(*) AS count FROM workflow_jobs WHERE " .. PAST .. " GROUP BY status", keep)) }
  end,

  run = function(ctx, opts)
    local keep = retention.parameter("purge-jobs", opts.keep, STATUSES)
    return { deleted = ctx.walk("workflow_jobs", function(from, to)
      return ctx.db:exec("DELETE FROM workflow_jobs WHERE ctid >= $2::tid AND ctid < $3::tid AND " .. PAST,
        keep, from, to)
    end, { target = opts.target }) }
  end,
}
