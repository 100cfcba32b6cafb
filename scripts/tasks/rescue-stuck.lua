-- tasks/rescue-stuck.lua: nebula task rescue-stuck [--without-lease 6h] [--dry-run] [--yes]
--
-- Gives the jobs of vanished workers back to the queue, or ends them, as the policy in force says: what
-- every worker does by itself, for a queue that has none. Another engine takes jobs without a lease, and
-- nothing tells whether it still works on one: those are rescued only by --without-lease, and may then
-- run twice.
local news = require "nebula.jobs.news"
local rescue = require "nebula.jobs.rescue"

return {
  summary = "Give the jobs of vanished workers back to the queue, as its policy says",
  destructive = true,

  options = {
    without_lease = { type = "duration", min = 1, help = "also jobs of other engines that have run for so long" },
  },

  preview = function(ctx, opts)
    return {
      would_rescue = rescue.count(ctx.db, rescue.EXPIRED),
      without_lease = opts.without_lease and rescue.count(ctx.db, rescue.UNLEASED, opts.without_lease),
    }
  end,

  run = function(ctx, opts)
    local done = { rescued = 0, dead = 0 }
    local function all(which, ...)
      local arguments = table.pack(...)
      ctx.batches(function()
        local rescued, dead = rescue.batch(ctx.storage, ctx.storage:policy(), which, table.unpack(arguments))
        done.rescued, done.dead = done.rescued + rescued, done.dead + dead
        return rescued
      end, { table = "workflow_jobs", unit = "jobs" })
    end
    all(rescue.EXPIRED)
    if opts.without_lease then all(rescue.UNLEASED, opts.without_lease) end
    if done.rescued > 0 then ctx.storage:wake(news.ALL) end
    return done
  end,
}
