-- policies/fair_share.lua: lanes share the workers by worker-seconds, not by the number of their jobs.
--
-- A lane that used little in the last 10 minutes comes first until it has caught up; while all lanes
-- have used the same, they get as many jobs each. What one cannot use goes to the others.
local priority = policy "priority"

return {
  summary = "Lanes share the workers by the worker-seconds they used",

  -- lane = "payload.tenant", -- without it the workflow is the lane

  options = {
    sharpness = { default = 8, min = 0, max = 16, help = "how much past use weighs; 0 shares by running jobs alone" },
    first     = priority.options.first,
    longest   = priority.options.longest,
  },

  claim = function(ctx)
    return {
      weight = function(lane) return 1 / (1 + lane.used) ^ ctx.options.sharpness end,
      order  = { "priority desc", "scheduled_at" },
    }
  end,

  retry = priority.retry,
  rescue = priority.rescue,
}
