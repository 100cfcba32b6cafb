-- policies/concurrency_limit.lua: so many jobs of a lane at once, over all workers of all hosts.
--
-- A job counts while its lease lasts; when it ends, is cancelled or rescued, its place is free.
local priority = policy "priority"

return {
  summary = "At most so many jobs of a lane run at once, over all hosts",

  -- lane = "payload.tenant", -- without it the workflow is the lane

  options = {
    limit   = { default = 4, min = 1, help = "jobs of one lane that run at once" },
    first   = priority.options.first,
    longest = priority.options.longest,
  },

  claim = function(ctx)
    return { cap = ctx.options.limit, order = { "priority desc", "scheduled_at" } }
  end,

  retry = priority.retry,
  rescue = priority.rescue,
}
