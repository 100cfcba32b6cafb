-- policies/weighted.lua: an example. Some lanes get more shares than others.
--
--   nebula policy use weighted --set gold=acme,initech --set shares=4
--
-- A weight shares what is scarce: while every lane has jobs, a gold lane runs `shares` jobs for each
-- job of another. Where gold has nothing to do, the others get everything. A weight never bounds; for
-- that there is `cap`.
local priority = policy "priority" -- another policy, as a plain table: its backoff serves here, too

return {
  summary = "An example: gold lanes get more shares of the workers",

  -- Where a job's lane stands. Jobs without this field are in the lane of their workflow.
  lane = "payload.tenant",

  options = {
    gold    = { type = "list", default = {}, help = "lanes that get more" },
    shares  = { type = "number", default = 4, min = 1, help = "shares of a gold lane; the others have one" },
    first   = priority.options.first,
    longest = priority.options.longest,
  },

  claim = function(ctx)
    local gold = {}
    for _, name in ipairs(ctx.options.gold) do gold[name] = true end
    return {
      -- Asked for each lane of a claim, with what runs of it and what it used: {key=, running=, used=, oldest_wait=}.
      weight = function(lane) return gold[lane.key] and ctx.options.shares or 1 end,
      order  = { "priority desc", "scheduled_at" },
    }
  end,

  retry = priority.retry,
  rescue = priority.rescue,
}
