-- policies/business_hours.lua: an example. Few jobs of a lane during the day, all at night and at the
-- weekend.
--
--   nebula policy use business_hours --set zone=America/New_York --set by_day=2
--
-- A policy has no clock but ctx.now; ctx.date gives its calendar fields in a time zone, daylight
-- saving time included. So it can be simulated, and tested for a day in spring.
local priority = policy "priority"

return {
  summary = "An example: few jobs at once in business hours, no limit outside of them",

  options = {
    zone    = { default = "UTC", help = "time zone, such as Europe/Berlin" },
    opens   = { default = 8, min = 0, max = 23, help = "first hour of the day" },
    closes  = { default = 18, min = 1, max = 24, help = "first hour after it" },
    by_day  = { default = 2, min = 0, help = "jobs of one lane at once in business hours" },
    first   = priority.options.first,
    longest = priority.options.longest,
  },

  claim = function(ctx)
    local now, options = ctx.date(ctx.options.zone), ctx.options
    local workday = now.wday >= 2 and now.wday <= 6 -- as os.date has it: Sunday is 1
    local open = workday and now.hour >= options.opens and now.hour < options.closes
    return {
      cap   = open and options.by_day or 1000000,
      order = { "priority desc", "scheduled_at" },
    }
  end,

  retry = priority.retry,
  rescue = priority.rescue,
}
