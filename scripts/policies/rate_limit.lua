-- policies/rate_limit.lua: so many jobs of a lane begin in a second, over all workers of all hosts.
--
-- A lane that was quiet may begin `burst` jobs together. In any span of t seconds no more than
-- burst + rate * t begin.
local priority = policy "priority"

return {
  summary = "At most so many jobs of a lane begin in a second, over all hosts",

  -- lane = "payload.api_key", -- without it the workflow is the lane

  options = {
    rate    = { type = "number", default = 10, min = 0.0001, help = "jobs of one lane that begin in a second" },
    burst   = { default = 10, min = 1, help = "jobs of a quiet lane that begin together" },
    first   = priority.options.first,
    longest = priority.options.longest,
  },

  claim = function(ctx)
    return { rate = ctx.options.rate, burst = ctx.options.burst, order = { "priority desc", "scheduled_at" } }
  end,

  retry = priority.retry,
  rescue = priority.rescue,
}
