local nebula = require "nebula"
local task = nebula.task

describe("a generator that waits", function()
  local function numbers(n)
    for i = 1, n do
      task.sleep(0.0005)
      coroutine.yield(i, i * i)
    end
    return "end"
  end

  it("works through wrap", function()
    local got = {}
    for i, square in coroutine.wrap(function()
      numbers(3)
    end) do
      got[i] = square
    end
    assert.same({ 1, 4, 9 }, got)
  end)

  it("works through create and resume, and ends dead", function()
    local co = coroutine.create(numbers)
    assert.same({ true, 1, 1 }, { coroutine.resume(co, 2) })
    assert.equal("suspended", coroutine.status(co))
    assert.same({ true, 2, 4 }, { coroutine.resume(co) })
    assert.same({ true, "end" }, { coroutine.resume(co) })
    assert.equal("dead", coroutine.status(co))
    assert.same({ false, "cannot resume dead coroutine" }, { coroutine.resume(co) })
  end)

  it("receives what is sent into it", function()
    local echo = coroutine.wrap(function(first)
      local got = first
      while true do
        task.yield()
        got = coroutine.yield("got " .. got)
      end
    end)
    assert.equal("got 1", echo(1))
    assert.equal("got 2", echo(2))
  end)

  it("nests 500 deep, and says so where it is too deep", function()
    local function nest(depth)
      if depth == 0 then
        task.sleep(0.001)
        coroutine.yield "bottom"
      else
        for value in coroutine.wrap(function()
          nest(depth - 1)
        end) do
          coroutine.yield(value)
        end
      end
    end
    local got = {}
    for value in coroutine.wrap(function()
      nest(500)
    end) do
      got[#got + 1] = value
    end
    assert.same({ "bottom" }, got)
    local ok, err = pcall(nest, 1e6)
    assert.is_false(ok)
    assert.matches("C stack overflow", err)
  end)

  it("gives its error to who resumes it, after its <close> handlers ran", function()
    local order = {}
    local co = coroutine.create(function()
      local _ <close> = setmetatable({}, { __close = function()
        task.sleep(0.001)
        order[#order + 1] = "closed"
      end })
      task.sleep(0.001)
      error({ mine = 1 })
    end)
    local ok, err = coroutine.resume(co)
    assert.is_false(ok)
    assert.same({ mine = 1 }, err)
    assert.same({ "closed" }, order)
    assert.equal("dead", coroutine.status(co))
  end)

  it("cannot be resumed by another task while it waits", function()
    local co = coroutine.create(function()
      task.sleep(0.1)
      return "mine"
    end)
    local owner = task.spawn(coroutine.resume, co)
    task.yield()
    assert.same({ false, "cannot resume a coroutine that waits" }, { coroutine.resume(co) })
    local _, value = owner:join()
    assert.equal("mine", value)
  end)

  it("unwinds its <close> variables when its task is cancelled", function()
    local closed = 0
    local consumer = task.spawn(function()
      for _ in coroutine.wrap(function()
        local _ <close> = setmetatable({}, { __close = function()
          task.sleep(0.001)
          closed = closed + 1
        end })
        task.sleep(60)
      end) do
        error("never")
      end
    end)
    task.yield()
    consumer:cancel()
    nebula.try(consumer.join, consumer)
    assert.equal(1, closed)
  end)

  it("is refused by name where its consumer cannot wait", function()
    local wait = coroutine.wrap(function()
      task.sleep(0)
    end)
    local _, err = nebula.try(string.gsub, "a", "a", function()
      wait()
    end)
    assert.matches("task.sleep cannot wait here", err.message)
  end)
end)

describe("task.generator", function()
  local function counted(log)
    return task.generator(function()
      local _ <close> = setmetatable({}, { __close = function()
        task.sleep(0.001)
        log[#log + 1] = "closed"
      end })
      for i = 1, 3 do
        coroutine.yield(i)
      end
    end)
  end

  it("is closed, waiting, where the loop is left early", function()
    local log = {}
    for i in counted(log) do
      if i == 2 then
        break
      end
    end
    assert.same({ "closed" }, log)
  end)

  it("is closed where the loop's body raises", function()
    local log = {}
    local _, err = nebula.try(function()
      for _ in counted(log) do
        error("body")
      end
    end)
    assert.matches("body", err.message)
    assert.same({ "closed" }, log)
  end)

  it("is closed once where the loop runs to its end", function()
    local log = {}
    for _ in counted(log) do
      log[#log + 1] = "turn"
    end
    assert.same({ "turn", "turn", "turn", "closed" }, log)
  end)

  it("closes through a pcall inside it", function()
    local order = {}
    for _ in
      task.generator(function()
        pcall(coroutine.yield, 1)
        order[#order + 1] = "swallowed"
      end)
    do
      break
    end
    assert.same({}, order)
  end)
end)

describe("coroutine.close", function()
  it("runs handlers that wait", function()
    local closed = false
    local co = coroutine.create(function()
      local _ <close> = setmetatable({}, { __close = function()
        task.sleep(0.001)
        closed = true
      end })
      coroutine.yield()
    end)
    coroutine.resume(co)
    assert.is_true(coroutine.close(co))
    assert.is_true(closed)
    assert.equal("dead", coroutine.status(co))
  end)

  it("returns false and the error of a handler", function()
    local co = coroutine.create(function()
      local _ <close> = setmetatable({}, { __close = function()
        error("in close", 0)
      end })
      coroutine.yield()
    end)
    coroutine.resume(co)
    assert.same({ false, "in close" }, { coroutine.close(co) })
  end)

  it("closes one that never began, and one that is dead", function()
    local co = coroutine.create(print)
    assert.is_true(coroutine.close(co))
    assert.is_true(coroutine.close(co))
  end)
end)

describe("coroutine.yield", function()
  it("straight in a task is an error that says so", function()
    local _, err = nebula.try(function()
      task.spawn(coroutine.yield, 1):join()
    end)
    assert.matches("outside a coroutine", err.message)
  end)
end)
