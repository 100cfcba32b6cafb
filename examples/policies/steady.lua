-- steady.lua: urgent jobs first, patient retries, no second try for bad input.
-- nebula worker --policy examples/policies/steady.lua --handlers examples/handlers
return {
  summary = "Priority, then time; waits twice as long after each failure",

  options = {
    first = { type = "duration", default = "2s", help = "wait after the first failure" },
    longest = { type = "duration", default = "15m", help = "longest wait between two tries" },
  },

  claim = function()
    return { order = { "priority desc", "scheduled_at" } }
  end,

  -- Seconds until the next try, or "dead" and why. Random, so that failures do not come back at once.
  retry = function(job, failure, ctx)
    if failure.kind == "validation" then return "dead", "bad input: " .. failure.message end
    local ceiling = math.min(ctx.options.longest, ctx.options.first * 2 ^ job.retry_count)
    return ceiling * (0.5 + math.random() / 2)
  end,
}
