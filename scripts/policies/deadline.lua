-- policies/deadline.lua: an example. The nearest due time goes first; what is hopelessly late is not
-- taken before the rest.
--
--   nebula queue push render '{"due": 1767571200}'
--
-- The due time stands in the payload, in epoch seconds. A payload is fetched only for policies that
-- read it, as select does here.
local priority = policy "priority"

local function due(job) return tonumber(job.payload.due) or math.huge end

return {
  summary = "An example: the nearest payload.due goes first; what is late already goes last",

  options = {
    late    = { type = "duration", default = "10m", help = "a job later than this goes last" },
    window  = { default = 100, min = 1, max = 1000, help = "candidates of each lane" },
    first   = priority.options.first,
    longest = priority.options.longest,
  },

  -- On push: a due time that is none is refused where the mistake was made.
  admit = function(job)
    if job.payload.due ~= nil and not tonumber(job.payload.due) then
      return false, "payload.due is a time in epoch seconds"
    end
  end,

  claim = function(ctx)
    return { window = ctx.options.window, order = { "priority desc", "scheduled_at" } }
  end,

  select = function(candidates, ctx)
    local rank = {}
    for _, job in ipairs(candidates) do
      local at = due(job)
      rank[job] = { hopeless = at < ctx.now - ctx.options.late, at = at }
    end
    table.sort(candidates, function(a, b)
      local x, y = rank[a], rank[b]
      if x.hopeless ~= y.hopeless then return y.hopeless end
      if x.at ~= y.at then return x.at < y.at end
      return a.id < b.id
    end)
    return candidates
  end,

  retry = priority.retry,
  rescue = priority.rescue,
}
