-- policies/steady.lua: nebula worker --policy steady
-- Pure functions, run in a sandbox: what to take next, when to try again.
return {
  summary = "Priority, then time; no second try for bad input",

  options = {
    first = { type = "duration", default = "2s", help = "wait after the first failure" },
    longest = { type = "duration", default = "15m", help = "longest wait between two tries" },
  },

  claim = function()
    return { order = { "priority desc", "scheduled_at" } }
  end,

  -- Seconds until the next try, or "dead" and the reason.
  retry = function(job, failure, ctx)
    if failure.kind == "validation" then return "dead", "bad input: " .. failure.message end
    return math.min(ctx.options.longest, ctx.options.first * 2 ^ job.retry_count)
  end,
}
