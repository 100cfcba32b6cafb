-- The sandbox of policies: what it lets in and out, and that nothing inside outlives its limits.
local core = require "nebula"
local directory = require "spec.support.directory"
local program = require "spec.support.nebula"
local sandbox = require "nebula.sandbox"

local SANITIZED = directory.build:find "asan" ~= nil -- it keeps what was freed
local MOST = SANITIZED and 1 or os.getenv "NEBULA_SPEC_LONG" and 0.4 or 0.7 -- seconds of CPU for a limit of 0.2

local function load(body, options) return sandbox.load("return {" .. body .. "}", "policies/spec.lua", options) end

local function kind_of(body, options)
  local box = load("f = function(...) " .. body .. " end", options)
  local results = table.pack(core.try(box.call, box, "f"))
  return results[2] and results[2].kind or "returned", results[2]
end

describe("a sandbox", function()
  it("copies values in and out, nested and exact", function()
    local box = load "echo = function(...) return ... end"
    local value = { 1, 2.5, "x\0y", true, { deep = { [10] = math.maxinteger } } }
    local back, second, third = box:call("echo", value, nil, false)
    assert.same(value, back)
    assert.is_nil(second)
    assert.is_false(third)
    assert.are_not.equal(value, back)
  end)

  it("describes what the source returned; functions in results can be called", function()
    local box = load "lane = 'payload.tenant', claim = function(n) return { weight = function(k) return k * n end } end"
    local described = box:describe()
    assert.equal("payload.tenant", described.lane)
    assert.equal(12, described.claim(3).weight(4))
    assert.equal(12, box:call("claim", 3).weight(4))
  end)

  it("maps a function of a result over a list, under the limits of one call", function()
    local box = load([[
      twice = function(v) return v and v.n and v.n * 2, "no more" end,
      through = function(v) return tenfold(v) end,
      slow = function(n) for _ = 1, n do end return n end,
      bad = function(v) error("not " .. v) end]], { functions = { tenfold = function(v) return v * 10 end } })
    local of = box:describe()
    local values = of.twice:map { { n = 1 }, {}, { n = 3 } }
    assert.same({ 2, nil, 6 }, { values[1], values[2], values[3] })
    assert.same({}, of.twice:map {})
    assert.same({ 10, 20, 30 }, of.through:map { 1, 2, 3 })
    assert.same({ 100000, 100000 }, of.slow:map { 100000, 100000 })
    local _, err = core.try(of.slow.map, of.slow, { 4e6, 4e6, 4e6, 4e6 })
    assert.equal("limit", err.kind)
    _, err = core.try(of.bad.map, of.bad, { "this" })
    assert.truthy(err.message:find("not this", 1, true))
    local many = {}
    for i = 1, 1001 do many[i] = i end
    assert.has_error(function() of.slow:map(many) end)
  end)

  it("copies tables of every shape whole", function()
    local box = load "same = function(v) return v end"
    for _, shape in ipairs { {}, { 1, 2, 3 }, { a = 1 }, { 1, a = { b = { 2 } } }, { [-5] = 1, [2 ^ 40 // 1 | 0] = 2 },
      { [1] = 1, [3] = 3 }, { [1.5] = 1 }, { { {} }, {}, { x = {} } } } do
      assert.same(shape, (box:call("same", shape)))
    end
  end)

  it("calls by path, and names what is not there", function()
    local box = load "options = { cap = { check = function(x) return x > 1 end } }"
    assert.is_true(box:call("options.cap.check", 2))
    local _, err = core.try(box.call, box, "options.cup.check")
    assert.truthy(err.message:find("options.cup.check", 1, true))
  end)

  it("lets in the host's listed functions alone", function()
    local function date(zone) return { zone = zone, hour = 3 } end
    local box = load("f = function(ctx) return ctx.date('Europe/Berlin').hour + date('x').hour end",
      { functions = { date = date } })
    assert.equal(6, box:call("f", { date = date }))
    local _, err = core.try(box.call, box, "f", { date = print })
    assert.equal("policy", err.kind)
  end)

  it("gives errors with file and line, those of the host's functions too", function()
    local kind, err = kind_of "error('broken')"
    assert.equal("policy", kind)
    assert.equal("policies/spec.lua:1: broken", err.message)
    local _, syntax = core.try(sandbox.load, "x = = 1", "policies/bad.lua")
    assert.truthy(syntax.message:find("policies/bad.lua:1:", 1, true))
    kind, err = kind_of("boom()", { functions = { boom = function() error "from outside" end } })
    assert.equal("policy", kind)
    assert.truthy(err.message:find("from outside", 1, true))
  end)

  it("is neither called nor closed by the host's functions that it calls", function()
    local box
    box = load("call = function() again() end, close = function() shut() end", {
      functions = { again = function() box:call "call" end, shut = function() box:close() end } })
    for _, name in ipairs { "call", "close" } do
      local _, err = core.try(box.call, box, name)
      assert.truthy(err.message:find("in a call already", 1, true), err.message)
    end
    box:close()
    local _, err = core.try(box.call, box, "call")
    assert.truthy(err.message:find("closed", 1, true))
  end)

  it("loads another policy as a table, once", function()
    local box = sandbox.load([[
      local other = policy "other"
      return { same = function() return other == policy "other" end, value = other.value }]], "main.lua", {
      find = function(name) return name == "other" and "return { value = 7 }" or nil, "policies/other.lua" end,
    })
    assert.is_true(box:call "same")
    assert.equal(7, box:describe().value)
    local _, err = core.try(sandbox.load, "policy 'missing'", "main.lua", { find = function() end })
    assert.truthy(err.message:find("missing", 1, true))
    _, err = core.try(sandbox.load, "policy 'a'", "main.lua", { modules = { a = "return policy 'a'" } })
    assert.truthy(err.message:find("loads itself", 1, true))
  end)

  it("has no way to the outside", function()
    local box = load [[names = function()
      local names = {}
      for _, name in ipairs { "io", "os", "debug", "package", "require", "load", "loadstring", "dofile", "loadfile",
        "collectgarbage", "print", "warn" } do
        if _G[name] ~= nil then names[#names + 1] = name end
      end
      if string.dump then names[#names + 1] = "string.dump" end
      if math.randomseed then names[#names + 1] = "math.randomseed" end
      return names
    end]]
    assert.same({}, (box:call "names"))
  end)

  it("refuses finalizers", function()
    assert.equal("policy", (kind_of "setmetatable({}, { __gc = function() end })"))
  end)

  it("ends every kind of endless work within its limits", function()
    local works = {
      loop = "while true do end",
      swallowed = "while true do pcall(function() while true do end end) end",
      xpcall = "while true do xpcall(function() while true do end end, function() while true do end end) end",
      coroutines = [[while true do pcall(coroutine.wrap(function()
        while true do pcall(function() while true do end end) end end)) end]],
      close = [[local c <close> = setmetatable({}, { __close = function() while true do end end }) while true do end]],
      tostring = "error(setmetatable({}, { __tostring = function() while true do end end }))",
      backtracking = 'string.find(("a"):rep(40), ("a-"):rep(40) .. "b")',
      gsub = 'string.gsub(("a"):rep(40), ("a*"):rep(40) .. "b", "")',
      gmatch = 'for _ in string.gmatch(("a"):rep(40), ("a*"):rep(40) .. "b") do end',
      move = "for i = 1, 1e9 do table.move({}, 1, 9000000, 2) end",
      sort = "local t = {} for i = 1, 1e5 do t[i] = i end while true do table.sort(t) end",
      rep = 'while true do local s = ("x"):rep(10000000) end',
      recursion = "local function f() return (f()) end f()",
      strings = 'local s = "x" while true do s = s .. s end',
      tables = "local t = {} while true do t[#t + 1] = {} end",
    }
    for name, body in pairs(works) do
      local kind = kind_of(body, { instructions = 2000000, memory = 8 << 20, seconds = 2 })
      assert.equal("limit", kind, name)
    end
    for name, body in pairs {
      move = "table.move({}, 1, 1e15, 2)",
      insert = "table.insert(setmetatable({}, { __len = function() return 1e15 end }), 1, 5)",
      rep = 'return ("x"):rep(1e12)',
    } do
      assert.are_not.equal("returned", (kind_of(body)), name)
    end
  end)

  it("works again after a limit was hit", function()
    local box = load("loop = function() while true do end end, one = function() return 1 end",
      { instructions = 100000 })
    for _ = 1, 3 do
      local _, err = core.try(box.call, box, "loop")
      assert.equal("limit", err.kind)
      assert.equal(1, box:call "one")
    end
  end)

  it("is deterministic: seeded randomness, sorted pairs", function()
    local source = [[draw = function()
      local out = { math.random(1000), math.random(1000) }
      local t = {}
      for i = 1, 50 do t["key" .. i] = i end
      for key in pairs(t) do out[#out + 1] = key end
      return out
    end]]
    local one, two = load(source, { seed = 7 }), load(source, { seed = 7 })
    local first = one:call "draw"
    assert.same(first, (two:call "draw"))
    one:seed(7)
    assert.same(first, (one:call "draw"))
    assert.are_not.same(first, (load(source, { seed = 8 }):call "draw"))
  end)

  it("matches patterns as Lua itself does", function()
    local cases = {
      { "find", "hello world", "o w" }, { "find", "a.b", ".", 1, true }, { "find", "abc", "b()" },
      { "match", "key = value", "^(%w+)%s*=%s*(%w+)$" }, { "match", "  trim  ", "^%s*(.-)%s*$" },
      { "match", "[[nested] x]", "%b[]" }, { "match", "THE (quick) fox", "%f[%a]%a+%f[%A]", 5 },
      { "match", "2026-11-22", "(%d+)-(%d+)-(%d+)" }, { "match", "abcabc", "(abc)%1" },
      { "gsub", "hello world", "(%w+)", "<%1>" }, { "gsub", "abc", "", "-" }, { "gsub", "abc", "%w", "%0%0", 2 },
      { "gsub", "a,b", ",", { [","] = ";" } }, { "find", "abc", "[b-]" }, { "find", "a]c", "[]]" },
      { "find", "a^c", "[%^]" }, { "match", "x", "x?x?x" }, { "find", "", "" }, { "find", "abc", "", 10 },
      { "match", "abc", "a-$" }, { "gsub", "abc", "^a", "x" }, { "find", "a\0b", "%z" },
      { "find", "abc", "[^%s]+", -2 },
    }
    local box = load "run = function(name, ...) return string[name](...) end"
    for _, case in ipairs(cases) do
      local mine = table.pack(box:call("run", table.unpack(case, 1, 5)))
      local stock = table.pack(string[case[1]](table.unpack(case, 2, 5)))
      assert.same(stock, mine, table.concat({ case[1], case[2], case[3] }, " "))
    end
    for _, pattern in ipairs { "[a", "%", "(", "%b", "%f", ")", "%1" } do
      assert.equal("policy", (kind_of(("return ('x'):match %q"):format(pattern))), pattern)
    end
  end)

  it("ends what no count of instructions sees within its time", function()
    for name, body in pairs {
      loop = "while true do end",
      swallowed = "while true do pcall(function() while true do end end) end",
      nested = [[local function deeper(n)
          while true do pcall(coroutine.wrap(function() if n < 50 then deeper(n + 1) end while true do end end)) end
        end
        deeper(1)]],
      copies = 'local s = ("x"):rep(1000000) while true do local t = s .. "y" end',
      backtracking = 'string.find(("a"):rep(100), ("a-"):rep(100) .. "b")',
      gsub = 'string.gsub(("a"):rep(100), ("a*"):rep(100) .. "b", "")',
      back_reference = 'string.find(("a"):rep(1000000), "(a*)%1b")',
      sorting = [[local t = {} for i = 1, 1e5 do t[i] = i end
        while true do table.sort(t, function(a, b) return (a * 7919) % 10007 < (b * 7919) % 10007 end) end]],
    } do
      local began = os.clock()
      local kind = kind_of(body, { instructions = 1 << 40, seconds = 0.2 })
      assert.equal("limit", kind, name)
      local took = os.clock() - began
      assert.is_true(took <= MOST, ("%s: %.2f s of CPU time"):format(name, took))
    end
  end)

  it("takes no more memory than its cap and a fifth, whatever the code hoards or gives away", function()
    local SCRIPT = [==[
      local function kilobytes(field)
        for line in io.lines "/proc/self/status" do
          local found = line:match("^" .. field .. ":%s+(%d+)")
          if found then return tonumber(found) end
        end
      end
      local nebula = require "nebula"
      local CAP = 32 << 20
      local box = require("nebula.sandbox").load("return { f = function() BODY end }", "bomb.lua", {
        memory = CAP, instructions = 1 << 40, seconds = 0.5, functions = { echo = function(...) return ... end } })
      local before = kilobytes "VmRSS"
      local file = assert(io.open("/proc/self/clear_refs", "w"))
      file:write "5" -- the peak begins anew
      file:close()
      local _, err = nebula.try(box.call, box, "f")
      print(err.kind, (kilobytes "VmHWM" - before) * 1024 / CAP)]==]
    for name, body in pairs {
      doubled = "local s = 'x' while true do s = s .. s end",
      tables = "local t = {} while true do t[#t + 1] = {} end",
      array = "local t = {} while true do t[#t + 1] = 1 end",
      swallowed = "local t = {} local function f() while true do t[#t + 1] = ('x'):rep(999) .. #t end end "
        .. "while true do pcall(f) end",
      coroutines = "local t = {} while true do t[#t + 1] = coroutine.create(pcall) coroutine.resume(t[#t]) end",
      results = "local s = ('x'):rep(4 << 20) return s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s",
      shared = "local e, t = {}, {} for i = 1, 1e6 do t[i] = e end return t",
      doubling = "local t = {} for i = 1, 40 do t = { t, t } end return t",
      arguments = "local s = ('x'):rep(4 << 20) echo(s, s, s, s, s, s)",
    } do
      local ended = program.run { args = { "-e", (SCRIPT:gsub("BODY", function() return body end)) } }
      local kind, part = ended.stdout:match "^(%a+)%s+(%S+)"
      assert.is_true(kind == "limit" or kind == "policy", name .. ": " .. ended.stdout .. ended.stderr)
      assert.is_true(SANITIZED or tonumber(part) <= 1.2, ("%s: %s of the cap"):format(name, part))
    end
  end)

  it("gives records their payload when it is read, and lets their id alone out", function()
    local asked = {}
    local box = load([[
      pick = function(list)
        local first = list[1].payload.n + list[1].payload.n
        return { list[2], list[1] }, first, rawget(list[2], "payload"), list[2].nothing, getmetatable(list[1])
      end,
      change = function(list) setmetatable(list[1], {}) end,
      fail = function(list) return list[2].payload end]], {
      payload = function(id)
        asked[#asked + 1] = id
        if id == "b" then error "gone" end
        return { n = 21 }
      end,
    })
    local list = { sandbox.record { id = "a", x = 1 }, sandbox.record { id = "b", x = 2 } }
    local picked, first, loaded, nothing, meta = box:call("pick", list)
    assert.same({ { id = "b" }, { id = "a" } }, picked)
    assert.same({ 42, { "a" } }, { first, asked })
    assert.is_nil(loaded)
    assert.is_nil(nothing)
    assert.is_false(meta)
    local _, err = core.try(box.call, box, "change", list)
    assert.matches("protected", err.message)
    _, err = core.try(box.call, box, "fail", list)
    assert.matches("gone", err.message)
  end)
end)
