-- When cron expressions fire: fields, zones, and the two nights a year on which clocks are set.
local cron = require "nebula.cron"
local nebula = require "nebula"

describe("a cron expression", function()
  -- The next firings after a time, as the zone's clock shows them.
  local function fires(text, zone, after, count)
    local parsed, at, found = cron.parse(text, zone), nebula.time.parse(after), {}
    for i = 1, count do
      at = parsed:next(at)
      found[i] = (nebula.time.format(at, zone):gsub("%.000000", ""):gsub("T", " "))
    end
    return found
  end

  it("fires at the minutes that its fields name", function()
    assert.same({ "2026-11-25 01:05:00Z", "2026-11-25 01:10:00Z" },
      fires("*/5 * * * *", nil, "2026-11-25T01:00:30Z", 2))
    assert.same({ "2026-11-25 03:00:00Z", "2026-11-26 03:00:00Z" }, fires("0 3 * * *", nil, "2026-11-25T01:00:00Z", 2))
    assert.same({ "2026-11-26 03:00:00Z" }, fires("0 3 * * *", nil, "2026-11-25T03:00:00Z", 1))
    assert.same({ "2026-11-27 09:30:00Z", "2026-11-30 09:30:00Z" },
      fires("30 9 * * mon-fri", nil, "2026-11-27T00:00:00Z", 2))
    assert.same({ "2027-01-01 00:00:00Z" }, fires("@yearly", nil, "2026-11-27T00:00:00Z", 1))
    assert.same({ "2026-11-27 00:10:00Z", "2026-11-27 00:30:00Z", "2026-11-27 00:50:00Z", "2026-11-27 12:10:00Z" },
      fires("10-59/20 0,12 * * *", nil, "2026-11-27T00:00:00Z", 4))
    assert.same({ "2028-02-29 00:00:00Z", "2032-02-29 00:00:00Z" },
      fires("0 0 29 feb *", nil, "2026-11-27T00:00:00Z", 2))
    assert.same({ "2096-02-29 00:00:00Z", "2104-02-29 00:00:00Z" }, fires("0 0 29 2 *", nil, "2095-11-27T00:00:00Z", 2))
  end)

  it("takes Sunday as 0 or 7, and either of two days that are given", function()
    assert.same({ "2026-11-29 00:00:00Z" }, fires("0 0 * * 7", nil, "2026-11-27T00:00:00Z", 1))
    assert.same({ "2026-11-29 00:00:00Z" }, fires("0 0 * * sun", nil, "2026-11-27T00:00:00Z", 1))
    assert.same({ "2026-11-29 00:00:00Z", "2026-12-01 00:00:00Z", "2026-12-06 00:00:00Z" },
      fires("0 0 1 * 0", nil, "2026-11-27T00:00:00Z", 3))
  end)

  it("fires as soon as the clock was set forward past its time", function()
    assert.same({ "2026-03-28 02:30:00+01:00", "2026-03-29 03:00:00+02:00", "2026-03-30 02:30:00+02:00" },
      fires("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3))
    assert.same({ "2026-03-29 03:00:00+02:00", "2026-03-30 02:00:00+02:00" },
      fires("*/20 2 * * *", "Europe/Berlin", "2026-03-28T02:00:00Z", 2))
    assert.same({ "2026-10-04 02:30:00+11:00", "2026-10-05 02:15:00+11:00" },
      fires("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00Z", 2))
  end)

  it("fires the first time only where the clock is set back and shows its time twice", function()
    assert.same({ "2026-10-25 02:30:00+02:00", "2026-10-26 02:30:00+01:00" },
      fires("30 2 * * *", "Europe/Berlin", "2026-10-24T01:00:00Z", 2))
    assert.same({ "2026-11-01 01:30:00-04:00", "2026-11-02 01:30:00-05:00" },
      fires("30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", 2))
  end)

  it("follows the elapsed time through both nights where it names no hour", function()
    assert.same({ "2026-03-29 01:30:00+01:00", "2026-03-29 03:00:00+02:00", "2026-03-29 03:30:00+02:00" },
      fires("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 3))
    assert.same({ "2026-10-25 02:30:00+02:00", "2026-10-25 02:00:00+01:00", "2026-10-25 02:30:00+01:00" },
      fires("*/30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", 3))
  end)

  it("never stands still, skips or repeats: each minute of two years is one that matches, or is none", function()
    for _, zone in ipairs { "UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Pacific/Apia" } do
      local parsed, at = cron.parse("7 */6 * * *", zone), nebula.time.parse "2025-12-31T23:59:59Z"
      local days = {}
      while true do
        local following = parsed:next(at)
        assert.is_true(following > at)
        at = following
        local date = nebula.time.date(zone, at)
        if date.year > 2026 then break end
        assert.equal(7, date.min)
        assert.equal(0, date.hour % 6)
        days[date.yday] = (days[date.yday] or 0) + 1
      end
      for day = 2, 364 do assert.equal(4, days[day]) end
    end
  end)

  it("is refused by the field that is wrong", function()
    local function refused(text, zone)
      local _, err = nebula.try(cron.parse, text, zone)
      assert.equal("validation", err.kind)
      return err.message
    end
    assert.matches("minute is from 0 to 59, not 61", refused "61 * * * *")
    assert.matches("hour is a number, not \"x\"", refused "0 x * * *")
    assert.matches("five fields .*, not 4", refused "0 3 * *")
    assert.matches("day of the week goes from 5 down to 1", refused "0 0 * * fri-mon")
    assert.matches("step of the minute", refused "*/0 * * * *")
    assert.matches("empty item", refused "1,,2 * * * *")
    assert.matches("never fires", refused "0 0 30 2 *")
    assert.matches("did you mean @daily", refused "@dayly")
    assert.matches("Mars/Base", refused("0 0 * * *", "Mars/Base"))
    assert.matches("is text, not nil", refused(nil))
  end)
end)
