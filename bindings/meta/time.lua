---@meta nebula.time
-- What an editor sees of nebula.time, and what the API documents are made of.

---Points in time are numbers: seconds since 1970-01-01 UTC, exact to the microsecond. Texts are ISO
---8601 in the form of RFC 3339, as `nebula.pg` gives them: `2026-11-22T17:58:03.123456Z`.
---Where a time is wanted, both are taken. All raise `validation`.
---@class nebula.time
local time = {}

---@return number seconds since 1970
function time.now() end

---A clock that never jumps, to measure with; its zero means nothing.
---@return number seconds
function time.monotonic() end

---Reads a time: the time of day, the fraction and the offset may be missing (midnight, 0, UTC).
---PostgreSQL's `infinity` and `-infinity` give the infinities.
---@param text string
---@return number seconds since 1970
function time.parse(text) end

---Writes a time, with six digits of the second's fraction.
---@param at? number|string (now)
---@param zone? string IANA name; without one the text ends in Z, with one in its offset: +01:00
---@return string text
function time.format(at, zone) end

---@class nebula.time.fields as `os.date("*t")` has them, and a few more
---@field year integer
---@field month integer 1 to 12
---@field day integer 1 to 31
---@field hour integer 0 to 23
---@field min integer 0 to 59
---@field sec integer 0 to 59
---@field usec integer 0 to 999999
---@field wday integer 1 (Sunday) to 7
---@field yday integer 1 to 366
---@field isdst boolean daylight saving time
---@field offset integer seconds east of Greenwich
---@field zone string the offset's abbreviation, such as CET

---What calendar and clock show in a zone. The zones are those of the system's tzdata; one is read
---from its file at its first use and kept.
---@param zone? string IANA name ("UTC")
---@param at? number|string (now)
---@return nebula.time.fields
function time.date(zone, at) end

---Reads a duration as every option takes it: a number of seconds, or `250ms`, `90s`, `1h30m`, `30d`.
---@param value number|string
---@return number seconds
function time.duration(value) end

return time
