-- tasks/forget-greetings.lua: nebula task forget-greetings --older-than 30d [--dry-run] [--yes]
local WHICH = "greeted_at <= now() - make_interval(secs => $1)"

return {
  summary = "Delete old greetings",
  destructive = true, -- a terminal is asked first, anything else must say --yes

  options = {
    older_than = { type = "duration", default = "30d", help = "age of the greeting" },
  },

  -- What --dry-run prints and what the confirmation shows. Runs read-only.
  preview = function(ctx, opts)
    return { would_delete = ctx.db:value("SELECT count(*) FROM greetings WHERE " .. WHICH, opts.older_than) }
  end,

  -- In batches that leave room for others, until one deletes nothing.
  run = function(ctx, opts)
    return { deleted = ctx.batches(function(limit)
      return ctx.db:exec("DELETE FROM greetings WHERE id IN (SELECT id FROM greetings WHERE "
        .. WHICH .. " LIMIT $2)", opts.older_than, limit)
    end) }
  end,
}
