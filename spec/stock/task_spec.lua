-- build/nebula.so in a stock lua5.4, whose main chunk is no task and whose pcall and coroutines are
-- Lua's own.
local nebula = require "spec.support.nebula"

local PRELUDE = [[
  local nebula = require "nebula"
  local task = nebula.task
  local function check(ok, what) if not ok then error(what or "wrong", 2) end end
]]

local function stock(code, options)
  options = options or {}
  options.args = { "-e", PRELUDE .. code }
  return nebula.stock(options)
end

local function works(code)
  local answer = stock(code .. "\nio.write 'done'")
  assert.equal("", answer.stderr)
  assert.equal("done", answer.stdout)
  assert.equal(0, answer.status)
end

describe("the module in a stock lua5.4", function()
  it("waits in the main chunk, turning the loop", function()
    works [[
      local began = nebula.time.monotonic()
      task.sleep(0.01)
      check(nebula.time.monotonic() - began >= 0.01)
      check(task.current() == nil)]]
  end)

  it("runs tasks while the main chunk waits", function()
    works [[
      local ticks = 0
      local ticker = task.spawn(function() for i = 1, 3 do task.sleep(0.001) ticks = i end return "t" end)
      check(ticker:join() == "t" and ticks == 3)
      local results = task.map({ 1, 2, 3 }, function(x) task.yield() return x * x end)
      check(results[3] == 9)
      check(task.scope(function(s) s:spawn(task.sleep, 0.001) return "body" end) == "body")]]
  end)

  it("raises a task's error in the main chunk", function()
    works [[
      local ok, err = pcall(function() task.spawn(error, "boom"):join() end)
      check(not ok and err.kind == "script" and err.message == "boom", err)]]
  end)

  it("refuses a wait in a foreign coroutine by name, while the loop turns", function()
    works [[
      local err
      task.spawn(function()
        local co = coroutine.create(function() task.sleep(0) end)
        local ok
        ok, err = coroutine.resume(co)
        check(not ok)
      end):join()
      check(err.message:find("task.sleep cannot wait in a coroutine that belongs to no task", 1, true), err.message)
      check(err.message:find("nebula.task.generator", 1, true))]]
  end)

  it("refuses a deadline there before its function has begun", function()
    works [[
      local began = false
      task.spawn(function()
        local wrapped = coroutine.wrap(function() return pcall(task.deadline, 1, function() began = true end) end)
        check(wrapped() == false)
        task.sleep(0.002)
      end):join()
      check(not began)]]
  end)

  it("waits in its own generators, which stock coroutine.yield may feed", function()
    works [[
      local got = {}
      task.spawn(function()
        for value in task.generator(function()
          for i = 1, 3 do task.sleep(0.001) coroutine.yield(i) end
        end) do got[#got + 1] = value end
      end):join()
      check(#got == 3)
      local co = task.coroutine
      local wrapped = co.wrap(function() co.yield(1) task.sleep(0) co.yield(2) end)
      task.spawn(function() check(wrapped() == 1 and wrapped() == 2) end):join()]]
  end)

  it("resumes a stock coroutine like any other", function()
    works [[
      local resume = task.coroutine.resume
      task.spawn(function()
        local co = coroutine.create(function(a, b) local c = coroutine.yield(a + b) return c end)
        local ok, sum = resume(co, 1, 2)
        check(ok and sum == 3)
        local again, value = resume(co, "c")
        check(again and value == "c")
      end):join()
      local ok, sum = resume(coroutine.create(function(a, b) return a + b end), 3, 4)
      check(ok and sum == 7)]]
  end)

  it("ends a deadline in the main chunk and in tasks", function()
    works [[
      local ok, err = pcall(task.deadline, 0.003, task.sleep, 60)
      check(not ok and err.kind == "timeout", err)
      check(task.deadline(60, function(x) task.sleep(0) return x end, 5) == 5)
      task.spawn(function()
        local inner, why = pcall(task.deadline, 0.003, task.sleep, 60)
        check(not inner and why.kind == "timeout")
        task.sleep(0.001)
      end):join()]]
  end)

  it("unwinds a deadline in a generator fed by stock coroutine.yield", function()
    works [[
      task.spawn(function()
        local caught
        for _ in task.generator(function()
          local _, err = nebula.try(task.deadline, 0.002, function() coroutine.yield(1) task.sleep(60) end)
          caught = err.kind
        end) do task.sleep(0.004) end
        check(caught == "timeout", caught)
      end):join()]]
  end)

  it("says where the main chunk would wait for ever", function()
    works [[
      local ok, err = pcall(function() task.channel():receive() end)
      check(not ok and err.message:find("channel:receive waits for ever", 1, true), err)
      task.sleep(0)]]
  end)

  it("ends with tasks alive, in every state, and without a word", function()
    local answer = stock [[
      local channel, full = task.channel(), task.channel(1)
      full:send(1)
      local keep = {}
      local function start(fn, ...) keep[#keep + 1] = task.spawn(fn, ...) end
      start(task.sleep, 60)
      start(channel.receive, channel)
      start(full.send, full, 2)
      start(task.deadline, 60, task.sleep, 60)
      start(task.scope, function(scope) scope:spawn(task.sleep, 60) task.sleep(60) end)
      start(function() for _ in task.generator(function() task.sleep(60) end) do end end)
      local iterator = task.generator(function() task.deadline(60, task.coroutine.yield, 1) end)
      start(function() iterator() task.sleep(60) end)
      start(function() task.map({ 1, 2 }, function() task.sleep(60) end) end)
      task.sleep(0.002)
      keep[1]:cancel()
      task.spawn(print)
      io.write "done"]]
    assert.equal("", answer.stderr)
    assert.equal("done", answer.stdout)
    assert.equal(0, answer.status)
  end)

  it("ends where finalizers spawn and wait at the very end, naming the refusal", function()
    local answer = stock [[
      local first = setmetatable({}, { __gc = function()
        local ok, err = pcall(task.sleep, 0)
        io.write(tostring(ok), " ", err.message:match("a finalizer") or err.message, "\n")
        io.write(tostring((pcall(task.spawn, print))), "\n")
      end })
      _G.keep = first]]
    assert.equal("", answer.stderr)
    assert.matches("^false a finalizer\n", answer.stdout)
    assert.equal(0, answer.status)
  end)

  it("refuses to begin anything once its loop is gone", function()
    local answer = nebula.stock { args = { "-e", [[
      local late = setmetatable({}, { __gc = function()
        local ok, err = pcall(nebula.task.spawn, print)
        io.write(tostring(ok), " ", tostring(err.message))
      end }) -- made before the module, so collected after it
      _G.keep = late
      nebula = require "nebula"
      nebula.task.spawn(nebula.task.sleep, 60)]] } }
    assert.equal("", answer.stderr)
    assert.equal("false no task can begin: the Lua state is closing", answer.stdout)
    assert.equal(0, answer.status)
  end)
end)
