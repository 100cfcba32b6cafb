-- cron.lua: when a cron expression fires: five fields (minute, hour, day of the month, month, day of the
-- week) on the clock of a time zone, as cron(8) of Debian and cronie reads them.
--
-- Where the clock is set forward, an hour of it does not exist: what is to happen then happens as soon as
-- it has been set. Where it is set back, an hour comes twice: what happens at stated hours happens the
-- first time only. Expressions whose hour begins with `*` follow the elapsed time through both.
--
-- Where both days are given (neither begins with `*`), one of the two has to match.
local options = require "nebula.options"
local raise = require "nebula.raise"
local time = require("nebula").time

local cron = {}

local DAY = 86400
local LONGEST_YEARS = 9 -- 29 February comes at least so often
local MONTHS = { "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec" }
local DAYS = { [0] = "sun", "mon", "tue", "wed", "thu", "fri", "sat" }

local FIELDS = {
  { name = "minute", least = 0, most = 59 },
  { name = "hour", least = 0, most = 23 },
  { name = "day of the month", least = 1, most = 31 },
  { name = "month", least = 1, most = 12, names = MONTHS },
  { name = "day of the week", least = 0, most = 7, names = DAYS },
}

local SHORT = {
  ["@hourly"] = "0 * * * *", ["@daily"] = "0 0 * * *", ["@midnight"] = "0 0 * * *", ["@weekly"] = "0 0 * * 0",
  ["@monthly"] = "0 0 1 * *", ["@yearly"] = "0 0 1 1 *", ["@annually"] = "0 0 1 1 *",
}

---@class nebula.Cron
---@field text string
---@field zone string
local Cron = {}
Cron.__index = Cron

-- ---- reading ----

local function number_of(text, field)
  local number = text:find "^%d+$" and math.tointeger(tonumber(text))
  for value, name in pairs(field.names or {}) do
    if text:lower() == name then number = value end
  end
  if not number then raise("validation", "the %s is a number%s, not %q", field.name,
    field.names and " or a name such as " .. field.names[1] or "", text) end
  if number < field.least or number > field.most then
    raise("validation", "the %s is from %d to %d, not %d", field.name, field.least, field.most, number)
  end
  return number
end

-- One item of a list: `*`, `5`, `1-5`, with `/2` behind it.
local function add_item(set, item, field)
  local range, step = item:match "^([^/]+)/(.+)$"
  range = range or item
  local every = 1
  if step then
    every = step:find "^%d+$" and math.tointeger(tonumber(step)) or 0
    if every < 1 then
      raise("validation", "the step of the %s is a whole number of at least 1, not %q", field.name, step)
    end
  end
  local first, last = field.least, field.most
  if range ~= "*" then
    local from, to = range:match "^([^-]+)%-([^-]+)$"
    first = number_of(from or range, field)
    last = to and number_of(to, field) or step and field.most or first
    if last < first then raise("validation", "the %s goes from %d down to %d", field.name, first, last) end
  end
  for value = first, last, every do set[value] = true end
end

local function read_field(text, field)
  local set = {}
  if text:find "^,?$" or text:find ",," or text:find "^," or text:find ",$" then
    raise("validation", "the %s has an empty item: %q", field.name, text)
  end
  for item in text:gmatch "[^,]+" do add_item(set, item, field) end
  if field.names == DAYS and set[7] then set[0] = true end
  return set
end

--- Reads an expression: five fields, or @hourly, @daily, @weekly, @monthly, @yearly.
--- Raises `validation`, which names the field; also where it never fires.
---@param text string
---@param zone? string IANA name; default UTC
---@return nebula.Cron
function cron.parse(text, zone)
  if type(text) ~= "string" then raise("validation", "a cron expression is text, not %s", type(text)) end
  local words = {}
  for word in (SHORT[text] or text):gmatch "%S+" do words[#words + 1] = word end
  if text:sub(1, 1) == "@" and not SHORT[text] then
    local names = {}
    for name in pairs(SHORT) do names[#names + 1] = name end
    raise("validation", "there is no %q%s", text, options.did_you_mean(text, names))
  end
  if #words ~= #FIELDS then
    raise("validation", "a cron expression has five fields (minute hour day month weekday), not %d", #words)
  end
  zone = zone or "UTC"
  time.date(zone, 0) -- raises where there is no such zone
  local sets = {}
  for i, field in ipairs(FIELDS) do sets[i] = read_field(words[i], field) end
  local self = setmetatable({
    text = text, zone = zone, minutes = sets[1], hours = sets[2], days = sets[3], months = sets[4], weekdays = sets[5],
    either = words[3]:sub(1, 1) ~= "*" and words[5]:sub(1, 1) ~= "*", elapsed = words[2]:sub(1, 1) == "*",
  }, Cron)
  if not self:next(0) then raise("validation", "it never fires: no month has such a day") end
  return self
end

-- ---- the clock ----

local function day_matches(self, date)
  if not self.months[date.month] then return false end
  local day, weekday = self.days[date.day], self.weekdays[date.wday - 1]
  if self.either then return day or weekday or false end
  return day and weekday or false
end

local function offset_at(zone, at) return time.date(zone, at).offset end

-- The instant at which the zone's clock first shows `wall` (seconds as though it were UTC), or skips it.
local function instant(zone, wall)
  local before, after = offset_at(zone, wall - DAY), offset_at(zone, wall + DAY)
  local early, late = wall - math.max(before, after), wall - math.min(before, after)
  if offset_at(zone, early) == wall - early then return early end
  if offset_at(zone, late) == wall - late then return late end
  local low, high = early - 1, late -- it is set forward between them
  local old = offset_at(zone, low)
  while high - low > 1 do
    local middle = (low + high) // 2
    if offset_at(zone, middle) == old then low = middle else high = middle end
  end
  return high
end

-- The first firing after `after` on a day that matches; `midnight` is its beginning on the clock.
local function next_of_day(self, midnight, after)
  local best
  for hour = 0, 23 do
    for minute = 0, self.hours[hour] and 59 or -1 do
      local wall = midnight + hour * 3600 + minute * 60
      if self.minutes[minute] and wall + DAY > after then
        local at = instant(self.zone, wall)
        if at > after and (not best or at < best) then best = at end
      end
    end
    if best and best < midnight + (hour - 15) * 3600 then break end -- no zone is further from UTC
  end
  return best
end

local function next_by_clock(self, after)
  local here = time.date(self.zone, after)
  local midnight = (math.floor(after) + here.offset) // DAY * DAY - DAY
  for _ = 0, LONGEST_YEARS * 366 do
    if day_matches(self, time.date("UTC", midnight)) then
      local at = next_of_day(self, midnight, after)
      if at then return at end
    end
    midnight = midnight + DAY
  end
end

local function next_by_time(self, after)
  local at = (math.floor(after) // 60 + 1) * 60
  local last = at + LONGEST_YEARS * 366 * DAY
  while at < last do
    local date = time.date(self.zone, at)
    if date.sec > 0 then
      at = at + 60 - date.sec -- old zones are not whole minutes from UTC
    elseif not day_matches(self, date) or not self.hours[date.hour] then
      at = at + (60 - date.min) * 60
    elseif not self.minutes[date.min] then
      at = at + 60
    else
      return at
    end
  end
end

--- When it fires next.
---@param after number epoch seconds
---@return integer? at epoch seconds, later than `after`
function Cron:next(after)
  local at = (self.elapsed and next_by_time or next_by_clock)(self, after)
  return at and math.tointeger(at)
end

return cron
