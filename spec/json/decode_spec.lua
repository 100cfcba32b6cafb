-- What json.decode accepts, what it gives, and how it refuses the rest.
local nebula = require "nebula"
local json = nebula.json

local function failure(text, options)
  local value, err = nebula.try(json.decode, text, options)
  assert.is_nil(value, "was accepted: " .. text)
  return err
end

describe("json.decode", function()
  it("gives integers of 64 bits exactly", function()
    for _, text in ipairs { "0", "-1", "9007199254740993", "9223372036854775807", "-9223372036854775808" } do
      local value = json.decode(text)
      assert.equal("integer", math.type(value))
      assert.equal(text, tostring(value))
    end
  end)

  it("gives floats where the text has a fraction or an exponent", function()
    for text, want in pairs { ["1.0"] = 1.0, ["0.1"] = 0.1, ["1e2"] = 100.0, ["1E+2"] = 100.0, ["-2.5e-3"] = -0.0025,
      ["1.7976931348623157e308"] = 1.7976931348623157e308, ["5e-324"] = 5e-324, ["1.10"] = 1.1, ["0e999999"] = 0.0 } do
      local value = json.decode(text)
      assert.equal("float", math.type(value), text)
      assert.equal(want, value)
    end
  end)

  it("keeps the sign of a negative zero", function()
    assert.equal(-math.huge, 1 / json.decode("-0.0"))
    assert.equal(-math.huge, 1 / json.decode("-0"))
    assert.equal("integer", math.type(json.decode("0")))
  end)

  it("gives a json.number where neither an integer nor a double has the value", function()
    for _, text in ipairs { "9223372036854775808", "18446744073709551616", "-9223372036854775809", "1e400", "1e-400",
      "0.1000000000000000055511151231257827", "123456789012345678.25", "12345678901234567890123456789.5" } do
      local value = json.decode(text)
      assert.equal("userdata", type(value), text)
      assert.equal(text, tostring(value))
      assert.equal(text, json.encode(value))
    end
  end)

  it("gives a float for a whole number beyond 64 bits that a double's shortest form has", function()
    -- What PostgreSQL's jsonb makes of a stored 1e20.
    assert.equal(1e20, json.decode("100000000000000000000"))
    assert.equal(1.5e300, json.decode("15" .. ("0"):rep(299)))
  end)

  it("rounds correctly at the hard places", function()
    -- Halfway and boundary cases; as json.number because no double is equal to them.
    local function nearest(text) return json.number(text):tonumber() end
    assert.equal(0x1p-1022, nearest("2.2250738585072014e-308"))
    assert.equal(2.2250738585072011e-308, nearest("2.2250738585072011e-308"))
    assert.equal(9007199254740992.0, nearest("9007199254740993.0"))
    assert.equal(9007199254740996.0, nearest("9007199254740995.0"))
    assert.equal(math.huge, nearest("1.7976931348623159e308"))
    assert.equal(8.41e21, json.decode("8.41e21"))
    assert.equal(9.0608011534336e15, json.decode("9.0608011534336e15"))
  end)

  it("reads strings strictly and resolves escapes", function()
    assert.equal('a"\\/\b\f\n\r\tz', json.decode [["a\"\\\/\b\f\n\r\tz"]])
    assert.equal("\0", json.decode [["\u0000"]])
    assert.equal("é€😀", json.decode [["\u00e9\u20AC\uD83D\uDE00"]])
    assert.equal("\u{10FFFF}", json.decode '"\u{10FFFF}"')
    local long = ("\\n€"):rep(2000)
    assert.equal(("\n€"):rep(2000), json.decode('"' .. long .. '"'))
  end)

  it("gives null as json.null, which is nebula.null", function()
    assert.equal(json.null, json.decode "null")
    assert.equal(nebula.null, json.decode("[null]")[1])
    assert.equal("null", tostring(json.null))
  end)

  it("keeps empty arrays and empty objects apart", function()
    assert.equal('[[],{},[[]],{"a":[]}]', json.encode(json.decode '[ [ ], { }, [[]], {"a": []} ]'))
  end)

  it("remembers an array whose elements were removed", function()
    local value = json.decode "[1,2]"
    value[2], value[1] = nil, nil
    assert.equal("[]", json.encode(value))
  end)

  it("lets the last of equal keys win", function()
    assert.same({ a = 3, b = 2 }, json.decode '{"a":1,"b":2,"a":3}')
    local parts = {}
    for i = 1, 100 do parts[i] = ('"k%d":%d'):format(i % 40, i) end
    local value = json.decode("{" .. table.concat(parts, ",") .. "}")
    assert.equal(100, value.k20)
    assert.equal(99, value.k19)
  end)

  it("reads arrays and objects of every size", function()
    for _, size in ipairs { 1, 15, 16, 17, 31, 32, 33, 1000 } do
      local elements, members = {}, {}
      for i = 1, size do elements[i], members[i] = i, ('"k%d":%d'):format(i, i) end
      local array = json.decode("[" .. table.concat(elements, " , ") .. "]")
      local object = json.decode("{" .. table.concat(members, ",\n") .. "}")
      assert.equal(size, #array)
      for i = 1, size do
        assert.equal(i, array[i])
        assert.equal(i, object["k" .. i])
      end
    end
  end)

  it("refuses what is no JSON, and says where and what it expected", function()
    local cases = {
      { "", 1, 1, "a value", "the end of the text" },
      { "  \n\t", 2, 2, "a value", "the end of the text" },
      { "[1,\n 2", 2, 3, "',' or ']'", "the end of the text" },
      { "[1 2]", 1, 4, "',' or ']'", "'2'" },
      { "[1,]", 1, 4, "a value", "']'" },
      { "[,1]", 1, 2, "a value", "','" },
      { '{"a":1,}', 1, 8, "a key", "'}'" },
      { '{"a" 1}', 1, 6, "':' after a key", "'1'" },
      { "{a:1}", 1, 2, "a key or '}'", "'a'" },
      { '{"é":é}', 1, 6, "a value", "'é'" },
      { "[1}", 1, 3, "',' or ']'", "'}'" },
      { "[1]]", 1, 4, "nothing after the value", "']'" },
      { "1 2", 1, 3, "nothing after the value", "'2'" },
      { "nul", 1, 1, "a value", "'n'" },
      { "True", 1, 1, "a value", "'T'" },
      { "NaN", 1, 1, "a value", "'N'" },
      { "01", 1, 2, "no digit after a leading zero", "'1'" },
      { "-", 1, 2, "a digit", "the end of the text" },
      { "+1", 1, 1, "a value", "'+'" },
      { ".5", 1, 1, "a value", "'.'" },
      { "1.", 1, 3, "a digit after the decimal point", "the end of the text" },
      { "1e", 1, 3, "a digit in the exponent", "the end of the text" },
      { "1e+", 1, 4, "a digit in the exponent", "the end of the text" },
      { "0x10", 1, 2, "nothing after the value", "'x'" },
      { '"abc', 1, 5, "'\"' at the end of a string", "the end of the text" },
      { '"\\', 1, 3, "an escape after the backslash", "the end of the text" },
      { '"\\x41"', 1, 3, 'one of " \\ / b f n r t u after a backslash', "'x'" },
      { '"\\u12g4"', 1, 4, "four hexadecimal digits after \\u", "'1'" },
      { '"\\ud800"', 1, 2, "a pair of surrogates", "'\\'" },
      { '"\\udc00"', 1, 2, "a pair of surrogates", "'\\'" },
      { '"\\ud800\\u0041"', 1, 2, "a pair of surrogates", "'\\'" },
      { '"a\nb"', 1, 3, "control characters escaped in a string", "the byte 0x0A" },
      { '"\0"', 1, 2, "control characters escaped in a string", "the byte 0x00" },
      { "\0", 1, 1, "a value", "the byte 0x00" },
      { "\xEF\xBB\xBF1", 1, 1, "a value", "'\xEF\xBB\xBF'" },
      { "// no\n1", 1, 1, "a value", "'/'" },
      { "['a']", 1, 2, "a value", "'''" },
    }
    for _, case in ipairs(cases) do
      local err = failure(case[1])
      assert.equal("serialization", err.kind)
      local place = ("json.decode: line %d, column %d: expected "):format(case[2], case[3])
      assert.equal(place, err.message:sub(1, #place), case[1])
      assert.truthy(err.message:find(case[4], 1, true), err.message)
      assert.truthy(err.message:find("found " .. case[5], 1, true), err.message)
    end
  end)

  it("refuses malformed UTF-8", function()
    for _, bytes in ipairs { "\x80", "\xC0\xAF", "\xC1\xBF", "\xC2", "\xE0\x80\x80", "\xE2\x82",
      "\xED\xA0\x80", "\xF0\x80\x80\x80",
      "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF" } do
      local err = failure('"ab' .. bytes .. '"')
      assert.equal("serialization", err.kind)
      assert.truthy(err.message:find("expected valid UTF-8", 1, true), err.message)
    end
  end)

  it("bounds the nesting", function()
    assert.equal("table", type(json.decode(("["):rep(512) .. ("]"):rep(512))))
    assert.equal("limit", failure(("["):rep(513) .. ("]"):rep(513)).kind)
    assert.equal("limit", failure(("["):rep(10000)).kind)
    assert.equal("limit", failure('{"a":{"a":1}}', { max_depth = 1 }).kind)
    assert.equal("table", type(json.decode(('{"a":['):rep(2048) .. ("]}"):rep(2048), { max_depth = 4096 })))
    assert.equal("validation", failure("1", { max_depth = 4097 }).kind)
  end)

  it("bounds the size", function()
    assert.equal(12, json.decode("12", { max_bytes = 2 }))
    local err = failure("123", { max_bytes = 2 })
    assert.equal("limit", err.kind)
    assert.truthy(err.message:find("3 bytes, max_bytes is 2", 1, true), err.message)
  end)

  it("refuses wrong arguments by name", function()
    assert.equal("validation", failure(12).kind)
    assert.truthy(failure("1", { max_dept = 1 }).message:find("max_dept", 1, true))
  end)
end)
