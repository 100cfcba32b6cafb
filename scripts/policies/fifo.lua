-- policies/fifo.lua: the oldest first, whatever its priority.
local priority = policy "priority" -- its backoff serves here, too

return {
  summary = "The oldest first, whatever its priority; failures are tried again, each time later",

  options = priority.options,

  claim = function()
    return { order = { "scheduled_at" } }
  end,

  retry = priority.retry,
  rescue = priority.rescue,
}
