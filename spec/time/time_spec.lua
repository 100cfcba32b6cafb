-- nebula.time: texts, calendar fields and zones, against known dates and the C library.
local nebula = require "nebula"
local time = nebula.time

local function refused(fn, ...)
  local value, err = nebula.try(fn, ...)
  assert.is_nil(value)
  assert.equal("validation", err.kind)
  return err.message
end

describe("time.parse", function()
  it("reads dates, fractions and offsets", function()
    local cases = {
      ["1970-01-01T00:00:00Z"] = 0, ["2026-11-22T17:58:03.123456Z"] = 1795370283.123456,
      ["2026-11-22 17:58:03+00"] = 1795370283, ["2026-11-22T18:58:03+01:00"] = 1795370283,
      ["2026-11-22T12:28:03-0530"] = 1795370283, ["2026-11-22T17:58:03"] = 1795370283,
      ["2026-11-22T17:58Z"] = 1795370280, ["2026-11-22"] = 1795305600, ["2000-02-29T12:00:00z"] = 951825600,
      ["1969-12-31T23:59:59.5Z"] = -0.5, ["0001-01-01T00:00:00Z"] = -62135596800,
      ["9999-12-31T23:59:59Z"] = 253402300799,
      ["2016-12-31T23:59:60Z"] = 1483228800, ["2026-01-01T00:00:00.1234567Z"] = 1767225600.123457,
      ["2026-01-01T00:00:00,25Z"] = 1767225600.25, ["1850-01-01T00:00:00+00:53:28"] = -3786828808,
      ["infinity"] = math.huge, ["-infinity"] = -math.huge,
    }
    for text, want in pairs(cases) do assert.equal(want, time.parse(text), text) end
  end)

  it("refuses the rest and says what it expected", function()
    local cases = {
      [""] = "a year of four digits at character 1", ["yesterday"] = "a year of four digits at character 1",
      ["2026-13-01"] = "a month from 01 to 12", ["2026-02-29"] = "a day that the month has",
      ["2026-1-01"] = "a month",
      ["2026-11-22T25:00:00Z"] = "an hour from 00 to 23", ["2026-11-22T10:60:00Z"] = "a minute from 00 to 59",
      ["2026-11-22T10:00:61Z"] = "a second from 00 to 60",
      ["2026-11-22T10:00:00.Z"] = "a digit after the decimal point",
      ["2026-11-22T10:00:00 Z"] = "'Z' or an offset", ["2026-11-22T10:00:00+1"] = "an offset of two digits",
      ["2026-11-22T10:00:00+24:00"] = "an offset below 24 hours", ["2026-11-22Z"] = "'T' between date and time",
      ["2026-11-22T10:00:00ZZ"] = "nothing after the time", ["0000-01-01"] = "a year from 0001",
      ["2026/11/22"] = "'-' after",
    }
    for text, want in pairs(cases) do
      local message = refused(time.parse, text)
      assert.truthy(message:find(want, 1, true), message)
    end
    refused(time.parse, 12)
  end)
end)

describe("time.format", function()
  it("writes six digits and the offset", function()
    assert.equal("2026-11-22T17:58:03.123456Z", time.format(1795370283.123456))
    assert.equal("1970-01-01T00:00:00.000000Z", time.format(0))
    assert.equal("1969-12-31T23:59:59.500000Z", time.format(-0.5))
    assert.equal("2026-11-22T18:58:03.000000+01:00", time.format(1795370283, "Europe/Berlin"))
    assert.equal("2026-11-22T23:28:03.000000+05:30", time.format("2026-11-22T17:58:03Z", "Asia/Kolkata"))
    assert.equal("1850-01-01T00:53:28.000000+00:53:28", time.format(-3786825600, "Europe/Berlin"))
    assert.equal("infinity", time.format(math.huge))
  end)

  it("brings each microsecond back", function()
    for i = 0, 2000 do
      local at = 1795370283 + i * 977 / 1000000
      local text = time.format(at)
      assert.equal(text, time.format(time.parse(text)))
      assert.is_true(math.abs(at - time.parse(text)) < 1e-6)
    end
  end)

  it("refuses times without a text", function()
    for _, bad in ipairs { 0 / 0, 1e18, -1e18, {}, true } do refused(time.format, bad) end
    refused(time.format, 0, "Europe/Nowhere")
    for _, zone in ipairs { "", "../../etc/passwd", "/etc/localtime", "Europe", "tzdata.zi", 12 } do
      refused(time.format, 0, zone)
    end
  end)
end)

describe("time.date", function()
  it("gives the fields of UTC as the C library does", function()
    for at = -2000000000, 4000000000, 86399 * 97 do
      local want, got = os.date("!*t", at), time.date("UTC", at)
      for name, value in pairs(want) do assert.equal(value, got[name], name .. " at " .. at) end
      assert.equal(0, got.offset)
    end
  end)

  it("knows daylight saving in both hemispheres, to the second", function()
    local cases = {
      { "Europe/Berlin", "2026-03-29T00:59:59Z", 1, "CET", false },
      { "Europe/Berlin", "2026-03-29T01:00:00Z", 3, "CEST", true },
      { "Europe/Berlin", "2026-10-25T00:59:59Z", 2, "CEST", true },
      { "Europe/Berlin", "2026-10-25T01:00:00Z", 2, "CET", false },
      { "America/New_York", "2026-03-08T06:59:59Z", 1, "EST", false },
      { "America/New_York", "2026-03-08T07:00:00Z", 3, "EDT", true },
      { "Australia/Sydney", "2026-01-15T00:00:00Z", 11, "AEDT", true },
      { "Australia/Sydney", "2026-07-15T00:00:00Z", 10, "AEST", false },
      { "Asia/Tokyo", "2026-07-15T00:00:00Z", 9, "JST", false },
      { "Asia/Kathmandu", "2026-07-15T00:00:00Z", 5, "+0545", false },
    }
    for _, case in ipairs(cases) do
      local fields = time.date(case[1], case[2])
      assert.equal(case[3], fields.hour, case[1] .. " " .. case[2])
      assert.equal(case[4], fields.zone)
      assert.equal(case[5], fields.isdst)
    end
  end)

  it("goes on by the zone's rule beyond its list of transitions", function()
    assert.equal("CEST", time.date("Europe/Berlin", "2090-07-01T00:00:00Z").zone)
    assert.equal("CET", time.date("Europe/Berlin", "2090-12-01T00:00:00Z").zone)
    assert.equal(3, time.date("Europe/Berlin", "2090-03-26T01:00:00Z").hour)
    assert.equal(1, time.date("Europe/Berlin", "2090-03-26T00:59:59Z").hour)
    assert.equal("AEDT", time.date("Australia/Sydney", "2090-01-01T00:00:00Z").zone)
    assert.equal(-10800, time.date("America/Sao_Paulo", "2090-01-01T00:00:00Z").offset)
    assert.equal(7200, time.date("Africa/Cairo", "2090-01-01T00:00:00Z").offset)
  end)

  it("tells now where no time is given", function()
    assert.is_true(math.abs(time.now() - os.time()) <= 60)
    local before, fields, after = os.date "!%Y-%m", time.date(), os.date "!%Y-%m"
    local month = ("%04d-%02d"):format(fields.year, fields.month)
    assert.is_true(month == before or month == after, month)
  end)
end)

describe("time.monotonic and time.duration", function()
  it("measure and read spans", function()
    local before = time.monotonic()
    nebula.task.sleep(0.01)
    assert.is_true(time.monotonic() - before >= 0.01)
    assert.equal(5400, time.duration "1h30m")
    assert.equal(0.25, time.duration "250ms")
    assert.equal(2592000, time.duration "30d")
    assert.equal(1.5, time.duration(1.5))
    for _, bad in ipairs { "", "1", "1 h", "h", -1, "-1s", 0 / 0, {} } do refused(time.duration, bad) end
  end)
end)
