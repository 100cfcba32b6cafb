-- How json.encode writes values, what it refuses, and that nothing is lost on the way and back.
local nebula = require "nebula"
local json = nebula.json

local function failure(value, options)
  local text, err = nebula.try(json.encode, value, options)
  assert.is_nil(text)
  return err
end

describe("json.encode", function()
  it("writes integers and floats so that each comes back as what it was", function()
    local cases = {
      { 1, "1" }, { math.mininteger, "-9223372036854775808" },
      { math.maxinteger, "9223372036854775807" },
      { 1.0, "1.0" }, { -0.0, "-0.0" }, { 0.1, "0.1" }, { 1e15, "1000000000000000.0" },
      { 2 ^ 53, "9007199254740992.0" },
      { 2 ^ 63, "9223372036854775808" }, { 1e20, "1e20" }, { 1.5e300, "1.5e300" },
      { 1e-5, "0.00001" }, { 1e-7, "1e-7" },
      { 5e-324, "5e-324" }, { 1.7976931348623157e308, "1.7976931348623157e308" },
      { 0.30000000000000004, "0.30000000000000004" },
      { 100.25, "100.25" },
    }
    for _, case in ipairs(cases) do
      local text = json.encode(case[1])
      if case[1] ~= 2 ^ 63 then assert.equal(case[2], text) end
      local back = json.decode(text)
      assert.equal(math.type(case[1]), math.type(back), text)
      assert.equal(case[1], back)
    end
  end)

  it("brings every double back bit for bit", function()
    local random = 88172645463325252
    for _ = 1, 20000 do
      random = random ~ (random << 13)
      random = random ~ (random >> 7)
      random = random ~ (random << 17)
      local value = string.unpack("d", string.pack("i8", random))
      if value == value and value ~= math.huge and value ~= -math.huge then
        assert.equal(string.pack("d", value), string.pack("d", json.decode(json.encode(value))))
      end
    end
  end)

  it("escapes what has to be escaped and nothing else", function()
    assert.equal([["\"\\/\b\f\n\r\t\u0000\u001f"]], json.encode '"\\/\b\f\n\r\t\0\31')
    assert.equal('"é€😀\u{7F}\u{2028}"', json.encode "é€😀\u{7F}\u{2028}")
    for byte = 0, 127 do
      for _, pad in ipairs { 0, 1, 7, 8, 20 } do
        local text = ("x"):rep(pad) .. string.char(byte) .. ("y"):rep(pad)
        assert.equal(text, json.decode(json.encode(text)))
      end
    end
  end)

  it("writes tables as arrays or objects by their marks and keys", function()
    assert.equal("{}", json.encode {})
    assert.equal("[]", json.encode(json.array()))
    assert.equal("[]", json.encode(json.array {}))
    assert.equal("{}", json.encode(json.object()))
    assert.equal("[1,null,3]", json.encode { 1, json.null, 3 })
    assert.equal("[[1],[]]", json.encode { { 1 }, json.array() })
    assert.equal('{"1":true}', json.encode { ["1"] = true })
    assert.equal("[]", json.encode(json.array(json.object())))
    local backwards = {}
    for i = 100, 1, -1 do backwards[i] = i end
    assert.equal(100, #json.decode(json.encode(backwards)))
  end)

  it("writes nil, null and booleans", function()
    assert.equal("null", json.encode(nil))
    assert.equal("null", json.encode(nebula.null))
    assert.equal("[true,false]", json.encode { true, false })
  end)

  it("indents and sorts where asked", function()
    local value = { b = { 1, 2 }, a = json.array(), ["a\0"] = {}, ab = "x" }
    assert.equal('{"a":[],"a\\u0000":{},"ab":"x","b":[1,2]}', json.encode(value, { sort_keys = true }))
    assert.equal('{\n  "a": [],\n  "a\\u0000": {},\n  "ab": "x",\n  "b": [\n    1,\n    2\n  ]\n}',
      json.encode(value, { sort_keys = true, indent = 2 }))
    local many = {}
    for i = 1, 5000 do many[("%05d"):format((i * 7919) % 5000)] = i end
    local last = ""
    for key in json.encode(many, { sort_keys = true }):gmatch '"(%d+)"' do
      assert.is_true(last < key)
      last = key
    end
  end)

  it("refuses tables that are neither array nor object, with their path", function()
    local cases = {
      { { 1, 2, nil, 4 }, "this is a sparse array" },
      { { rows = { { id = 1 }, { id = 2, tags = { "a", x = 1 } } } },
        '%$%.rows%[2%]%.tags is an array that has the text key "x"' },
      { { [1] = 1, [1000] = 2 }, "sparse array: it has 1 elements and then the key 1000" },
      { { [5] = 1 }, "the key 5" },
      { { a = { [true] = 1 } }, "%$%.a is a table with a key of type boolean" },
      { { [1.5] = 1 }, "key of type number" },
      { json.array { x = 1 }, 'the text key "x"' },
      { json.object { 1 }, "the key 1" },
    }
    for _, case in ipairs(cases) do
      local err = failure(case[1])
      assert.equal("serialization", err.kind)
      assert.truthy(err.message:find(case[2]), err.message)
    end
  end)

  it("refuses values that JSON cannot hold, with their path", function()
    local cases = {
      { { a = { 0 / 0 } }, "%$%.a%[1%] is a NaN" },
      { { ["b c"] = math.huge }, '%$%["b c"%] is an infinity' },
      { { -math.huge }, "%$%[1%] is an infinity" },
      { { f = print }, "%$%.f is a value of type function" },
      { { u = io.stdout }, "%$%.u is a value of type userdata" },
      { { s = "ab\xFF" }, "%$%.s is text that is not UTF%-8 %(byte 3 is 0xFF%)" },
      { { ["k\xFF"] = 1 }, "not UTF%-8" },
      { print, "this is a value of type function" },
    }
    for _, case in ipairs(cases) do
      local err = failure(case[1])
      assert.equal("serialization", err.kind)
      assert.truthy(err.message:find(case[2]), err.message)
    end
  end)

  it("bounds the nesting, also of a table that holds itself", function()
    local loop = {}
    loop.self = loop
    local err = failure(loop)
    assert.equal("limit", err.kind)
    assert.is_true(#err.message < 500)
    assert.equal("limit", failure({ { 1 } }, { max_depth = 1 }).kind)
    assert.equal("[[1]]", json.encode({ { 1 } }, { max_depth = 2 }))
  end)

  it("works after a refusal, and calls no metamethod", function()
    failure { ("x"):rep(100000), print }
    local value = setmetatable({ a = 1 }, { __index = function() error "called" end,
      __pairs = function() error "called" end, __len = function() error "called" end })
    assert.equal('{"a":1}', json.encode(value))
  end)

  it("brings generated values back the same", function()
    math.randomseed(20260101)
    local make
    local makers = {
      function() return math.random(0) end,
      function() return math.random(-1000, 1000) end,
      function() return math.random() * 10 ^ math.random(-300, 300) end,
      function() return math.random() < 0.5 end,
      function() return json.null end,
      function()
        local chars = {}
        for i = 1, math.random(0, 40) do chars[i] = utf8.char(math.random(0, 0xD7FF)) end
        return table.concat(chars)
      end,
      function(depth)
        local array = json.array()
        for i = 1, math.random(0, 20) do array[i] = make(depth + 1) end
        return array
      end,
      function(depth)
        local object = json.object()
        for _ = 1, math.random(0, 20) do object[utf8.char(math.random(0, 0xFF)):rep(3)] = make(depth + 1) end
        return object
      end,
    }
    function make(depth) return makers[math.random(depth > 3 and 6 or 8)](depth) end
    for _ = 1, 200 do
      local value = { make(0) }
      local text = json.encode(value, { sort_keys = true })
      local back = json.decode(text)
      assert.same(value, back)
      assert.equal(text, json.encode(back, { sort_keys = true }))
      assert.same(value, json.decode(json.encode(value, { indent = 3 })))
    end
  end)
end)

describe("json.number", function()
  it("compares by value", function()
    local number = json.number
    assert.is_true(number "1.10" == number "1.1")
    assert.is_true(number "1e2" == number "100.0")
    assert.is_true(number "0.001" == number "1e-3")
    assert.is_true(number "-0" == number "0.000")
    assert.is_false(number "1e400" == number "1e401")
    assert.is_true(number "18446744073709551616" > number "18446744073709551615")
    assert.is_true(number "-2" < number "-1.5")
    assert.is_true(number "-1" < number "0")
    assert.is_true(number "1e400" > math.maxinteger)
    assert.is_true(number "1e400" < math.huge)
    assert.is_true(number "0.1" <= 0.1)
    assert.is_true(12 < number "12.5")
    assert.is_false(number "12.5" < 0 / 0)
  end)

  it("turns into the nearest Lua number", function()
    assert.equal(12, json.number("12"):tonumber())
    assert.equal("integer", math.type(json.number("12"):tonumber()))
    assert.equal(1.8446744073709552e19, json.number("18446744073709551616"):tonumber())
    assert.equal(math.huge, json.number("1e400"):tonumber())
    assert.equal(0.0, json.number("1e-400"):tonumber())
  end)

  it("keeps its text, and refuses what is no number", function()
    assert.equal("[1.10,12,0.5]", json.encode { json.number "1.10", json.number(12), json.number(0.5) })
    for _, bad in ipairs { "", "1.", "0x10", "1 ", " 1", "nan", "--1", {}, 0 / 0 } do
      local _, err = nebula.try(json.number, bad)
      assert.equal("validation", err.kind)
    end
  end)
end)

describe("json.array and json.object", function()
  it("refuse a table with a metatable of its own, and other types", function()
    for _, mark in ipairs { json.array, json.object } do
      for _, bad in ipairs { setmetatable({}, {}), 12, "x" } do
        local _, err = nebula.try(mark, bad)
        assert.equal("validation", err.kind)
      end
    end
  end)
end)
