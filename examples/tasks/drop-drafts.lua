-- drop-drafts.lua: nebula task drop-drafts --older-than 30d [--dry-run] [--yes]
local WHICH = [[
  status = 'draft'
  AND updated_at < now() - make_interval(secs => $1)
  AND NOT EXISTS (SELECT FROM executions WHERE workflow_id = workflows.id)
]]

return {
  summary = "Delete workflow drafts that nobody touched or ran",
  destructive = true, -- a terminal is asked first, anything else must say --yes

  options = {
    older_than = { type = "duration", default = "90d", help = "age since the last change" },
  },

  -- What --dry-run prints and what the confirmation shows.
  preview = function(ctx, opts)
    return { would_delete = ctx.db:value("SELECT count(*) FROM workflows WHERE " .. WHICH, opts.older_than) }
  end,

  run = function(ctx, opts)
    local deleted = ctx.batches(function(limit)
      return ctx.db:exec("DELETE FROM workflows WHERE id IN (SELECT id FROM workflows WHERE "
        .. WHICH .. " LIMIT $2)", opts.older_than, limit)
    end)
    return { deleted = deleted }
  end,
}
