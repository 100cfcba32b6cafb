-- policies/aging.lua: an example. Priorities that do not starve: a waiting job's grows with time.
--
--   nebula policy use aging --set step=5m
--
-- The claim's indexes give jobs by their written priority, so old jobs of a low one would never be
-- seen behind a steady stream of a high one. Here the window is drawn by time: the oldest jobs are
-- always among the candidates, and select ranks them.
local priority = policy "priority"

return {
  summary = "An example: a job's priority grows by one for each step of time that it waits",

  options = {
    step    = { type = "duration", default = "1m", min = 1, help = "waiting time that is worth a priority of one" },
    first   = priority.options.first,
    longest = priority.options.longest,
  },

  claim = function()
    return {
      order  = { "scheduled_at" },
      window = 200, -- candidates a lane; beyond them, later jobs wait their turn whatever their priority
    }
  end,

  -- The candidates in the order to take them; times are epoch seconds.
  select = function(candidates, ctx)
    local rank = {}
    for _, job in ipairs(candidates) do
      rank[job] = job.priority + (ctx.now - job.scheduled_at) / ctx.options.step
    end
    table.sort(candidates, function(a, b)
      if rank[a] ~= rank[b] then return rank[a] > rank[b] end
      return a.id < b.id -- the same every time
    end)
    return candidates
  end,

  retry = priority.retry,
  rescue = priority.rescue,
}
