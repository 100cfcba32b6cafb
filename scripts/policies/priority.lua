-- policies/priority.lua: the default. Copy it, change it, and publish it under its new name.
return {
  summary = "The highest priority first, then the oldest; failures are tried again, each time later",

  options = {
    first   = { type = "duration", default = "2s", help = "wait after the first failure" },
    longest = { type = "duration", default = "15m", help = "longest wait between two tries" },
  },

  claim = function()
    return { order = { "priority desc", "scheduled_at" } }
  end,

  -- Seconds until the next try, or "dead" and the reason. Not asked once max_retries is spent.
  retry = function(job, failure, ctx)
    if failure.retry_after then return failure.retry_after end
    local ceiling = math.min(ctx.options.longest, ctx.options.first * 2 ^ job.retry_count)
    return ceiling * (0.5 + math.random() / 2)
  end,

  -- A job whose worker vanished goes to the next free one.
  rescue = function()
    return 0
  end,
}
