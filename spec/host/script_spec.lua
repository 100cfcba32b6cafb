-- Scripts as users run them: files, standard input, -e; errors, exit statuses, signals.
local nebula = require "spec.support.nebula"

local function run(...) return nebula.run { args = { ... } } end

local function script(text, ...)
  local where = nebula.scratch()
  nebula.write(where, { ["main.lua"] = text })
  return nebula.run { args = { where .. "/main.lua", ... }, cwd = where }, where
end

-- Starts code, waits until it prints "ready", sends the signal, gives the outcome.
local function signalled(code, name)
  local process = nebula.spawn { args = { "-e", code } }
  local output = ""
  while not output:find "ready" do output = output .. assert(process:read(), "it ended too early") end
  process:kill(name)
  local ended = assert(process:wait(60), "it did not end")
  return ended, output .. process:read_all()
end

describe("a script", function()
  it("is run with its arguments and a #! line", function()
    local answer, where = script("#!/usr/bin/env nebula\nprint(arg[0], #arg, ...)", "a", "b c")
    assert.equal(where .. "/main.lua\t2\ta\tb c\n", answer.stdout)
    assert.equal(0, answer.status)
  end)

  it("is read from standard input", function()
    local answer = nebula.run { stdin = "print(6 * 7)\n" }
    assert.equal("42\n", answer.stdout)
  end)

  it("may wait, and finds modules beside itself", function()
    local where = nebula.scratch()
    nebula.write(where, {
      ["main.lua"] = "print(require('part').value)",
      ["part.lua"] = "require('nebula').task.sleep(0.01) return { value = 'loaded' }",
    })
    assert.equal("loaded\n", nebula.run { args = { where .. "/main.lua" }, cwd = "/" }.stdout)
  end)

  it("that fails says where, with a traceback of its own frames, and ends with 1", function()
    local answer = script "local function deep() error('broken') end\nlocal function outer() deep() end\nouter()"
    assert.equal(1, answer.status)
    assert.truthy(answer.stderr:find("^nebula: [^\n]*main%.lua:1: broken\n"))
    assert.truthy(answer.stderr:find("main.lua:3", 1, true))
    assert.falsy(answer.stderr:find("cli.lua", 1, true))
  end)

  it("with a syntax error is refused with file and line", function()
    local answer = script "x = = 1"
    assert.equal(1, answer.status)
    assert.truthy(answer.stderr:find("main.lua:1: unexpected symbol", 1, true))
  end)

  it("that is missing is named", function()
    local answer = run "/nowhere/missing.lua"
    assert.equal(1, answer.status)
    assert.truthy(answer.stderr:find("/nowhere/missing.lua", 1, true))
  end)

  it("ends with the status that os.exit gives, having run its <close> variables", function()
    local answer = script [[
      local nebula = require "nebula"
      nebula.task.spawn(function()
        local other <close> = setmetatable({}, { __close = function() io.write "other closed;" end })
        nebula.task.sleep(1000)
      end)
      nebula.task.sleep(0)
      local guard <close> = setmetatable({}, { __close = function() nebula.task.sleep(0.01) io.write "closed;" end })
      pcall(function() os.exit(7, true) end)
      io.write "not reached"
    ]]
    assert.equal(7, answer.status)
    assert.equal("closed;other closed;", answer.stdout)
  end)

  it("ends at once with os.exit(code), output flushed", function()
    local answer = script "io.write 'kept' os.exit(3)"
    assert.equal(3, answer.status)
    assert.equal("kept", answer.stdout)
  end)

  it("ends with 130 on SIGINT, with 143 on SIGTERM, its clean-up done", function()
    for name, status in pairs { INT = 130, TERM = 143 } do
      local ended, output = signalled([[
        local guard <close> = setmetatable({}, { __close = function() task.sleep(0) io.write "closed" end })
        print "ready" io.flush() pcall(task.sleep, 1000) print "swallowed"]], name)
      assert.equal(status, ended.status)
      assert.equal("ready\nclosed", output)
    end
  end)

  it("is interrupted while it computes, inside pcall too", function()
    local ended = signalled([[print "ready" io.flush()
      while true do pcall(function() while true do end end) end]], "INT")
    assert.equal(130, ended.status)
  end)

  it("answers signals itself where it says so", function()
    local ended, output = signalled([[
      local process, gone = require "nebula.process", task.channel(1)
      process.on_signal("TERM", function(name) gone:send(name) end)
      print "ready" io.flush() print("got " .. gone:receive())]], "TERM")
    assert.equal(0, ended.status)
    assert.truthy(output:find "got TERM")
  end)
end)

describe("nebula -e", function()
  it("prints an expression's values, runs statements, and knows the prompt's names", function()
    assert.equal("2\tx\n", run("-e", "1 + 1, 'x'").stdout)
    assert.equal("7\n", run("-e", "local x = 7 print(x)").stdout)
    assert.equal("function\n", run("-e", "type(task.sleep)").stdout)
  end)

  it("touches no database unless asked", function()
    assert.equal(0, nebula.run { args = { "-e", "" }, env = { DATABASE_URL = "nonsense" } }.status)
    local answer = nebula.run { args = { "-e", "db" }, env = { DATABASE_URL = "nonsense" } }
    assert.equal(2, answer.status)
    assert.truthy(answer.stderr:find("DATABASE_URL", 1, true))
  end)
end)

describe("require", function()
  local function project(files)
    local where = nebula.scratch()
    nebula.write(where, files)
    return nebula.run { args = { where .. "/main.lua" }, cwd = where }
  end

  it("loads a module once, though two tasks ask while it waits", function()
    local answer = project {
      ["slow.lua"] = "loads = (loads or 0) + 1 require('nebula').task.sleep(0.02) return { loads }",
      ["main.lua"] = [[
        local task = require("nebula").task
        local a, b = task.spawn(require, "slow"), task.spawn(require, "slow")
        print(a:join() == b:join(), loads)]],
    }
    assert.equal("true\t1\n", answer.stdout)
  end)

  it("names a loop between modules, within one task and between two", function()
    local answer = project {
      ["one.lua"] = "require('nebula').task.sleep(0.01) return require 'two'",
      ["two.lua"] = "require('nebula').task.sleep(0.01) return require 'one'",
      ["main.lua"] = [[
        local task = require("nebula").task
        print(select(2, pcall(require, "one")))
        local a, b = task.spawn(pcall, require, "one"), task.spawn(pcall, require, "two")
        print(select(2, a:join())) print(select(2, b:join()))]],
    }
    local _, loops = answer.stdout:gsub("loop between modules", "")
    assert.equal(3, loops)
  end)

  it("tries again after a failure, and keeps the error as it was", function()
    local answer = project {
      ["flaky.lua"] = "tries = (tries or 0) + 1 if tries == 1 then error({ 'mine' }) end return tries",
      ["main.lua"] = "print(select(2, pcall(require, 'flaky'))[1], require 'flaky')",
    }
    assert.truthy(answer.stdout:find("^mine\t2"))
  end)

  it("does not lose a module to a cancelled load", function()
    local answer = project {
      ["slow.lua"] = "require('nebula').task.sleep(wait) return 'loaded'",
      ["main.lua"] = [[
        local task = require("nebula").task
        wait = 1000
        local first = task.spawn(require, "slow")
        local second = task.spawn(require, "slow")
        task.sleep(0)
        wait = 0
        first:cancel()
        print((second:join()))]],
    }
    assert.equal("loaded\n", answer.stdout)
  end)

  it("says where it looked", function()
    local answer = project { ["main.lua"] = "require 'no.such.module'" }
    assert.truthy(answer.stderr:find("module 'no.such.module' not found", 1, true))
    assert.truthy(answer.stderr:find("no/such/module.lua", 1, true))
  end)
end)

describe("NEBULA_PATH", function()
  it("names more directories of scripts", function()
    local where = nebula.scratch()
    nebula.write(where, { ["extra.lua"] = "return 'extra'" })
    local answer = nebula.run { args = { "-e", "(require 'extra')" }, env = { NEBULA_PATH = "/nowhere:" .. where } }
    assert.equal("extra\n", answer.stdout)
  end)
end)
