-- Boundaries (scope, deadline) in generators: they count while their generator runs or waits, and
-- leave the code alone that consumes it.
local nebula = require "nebula"
local task = nebula.task

local function closing(fn)
  return setmetatable({}, { __close = fn })
end

local function compute(seconds)
  local till = nebula.time.monotonic() + seconds
  while nebula.time.monotonic() < till do
  end
end

describe("a deadline in a generator", function()
  local function guarded(log)
    return task.generator(function()
      local ok, err = pcall(task.deadline, 0.005, function()
        local _ <close> = closing(function()
          task.sleep(0.001)
          log[#log + 1] = "closed"
        end)
        coroutine.yield "first"
        log[#log + 1] = "went on"
        task.sleep(60)
      end)
      log[#log + 1] = not ok and err.kind
      coroutine.yield "second"
    end)
  end

  it("that passes while its consumer waits is raised when the generator goes on", function()
    local log, got = {}, {}
    for value in guarded(log) do
      got[#got + 1] = value
      task.sleep(0.01)
    end
    assert.same({ "first", "second" }, got)
    assert.same({ "closed", "timeout" }, log)
  end)

  it("that passes while its consumer computes leaves the consumer alone", function()
    local log, got = {}, {}
    for value in guarded(log) do
      compute(0.12) -- longer than two ticks of the host
      got[#got + 1] = value
    end
    assert.same({ "first", "second" }, got)
    assert.same({ "closed", "timeout" }, log)
  end)

  it("ends the generator's own wait, and its consumer goes on", function()
    local caught
    for value in
      task.generator(function()
        local ok, err = pcall(task.deadline, 0.002, task.sleep, 60)
        caught = not ok and err.kind
        coroutine.yield(1)
      end)
    do
      assert.equal(1, value)
      task.sleep(0.003)
    end
    assert.equal("timeout", caught)
  end)

  it("does not cut the clean-up short where the generator is left after it has passed", function()
    local log = {}
    for _ in
      task.generator(function()
        task.deadline(0.001, function()
          local _ <close> = closing(function()
            task.sleep(0.003)
            log[#log + 1] = "closed"
          end)
          coroutine.yield(1)
        end)
      end)
    do
      task.sleep(0.004)
      break
    end
    assert.same({ "closed" }, log)
  end)

  it("goes with a generator that another task resumes", function()
    local log = {}
    local iterator, _, _, closer = guarded(log)
    local _closed <close> = closer
    assert.equal("first", task.spawn(iterator):join())
    task.sleep(0.006)
    assert.equal("second", task.spawn(iterator):join())
    assert.same({ "closed", "timeout" }, log)
  end)

  it("is forgotten with a generator that is garbage", function()
    for _ = 1, 50 do
      coroutine.wrap(function()
        task.deadline(0.001, coroutine.yield)
      end)()
    end
    collectgarbage()
    task.sleep(0.003)
    collectgarbage()
    task.sleep(0.001)
  end)

  it("inside a deadline of its consumer yields to that one", function()
    local log = {}
    local _, err = nebula.try(task.deadline, 0.004, function()
      for _ in guarded(log) do
        task.sleep(60)
      end
    end)
    assert.equal("timeout", err.kind)
    assert.matches("0.004", err.message)
    assert.same({ "closed" }, log)
  end)

  it("that the consumer enters between two values does not confuse the two", function()
    local iterator = coroutine.wrap(function()
      task.deadline(60, function()
        coroutine.yield(1)
        task.sleep(60)
      end)
    end)
    assert.equal(1, iterator())
    local _, err = nebula.try(task.deadline, 0.002, iterator)
    assert.equal("timeout", err.kind)
    assert.matches("0.002", err.message)
    task.sleep(0.001)
  end)
end)

describe("a scope in a generator", function()
  it("raises its child's error when the generator goes on, not in the consumer", function()
    local seen
    for _ in
      task.generator(function()
        local _, err = nebula.try(task.scope, function(scope)
          scope:spawn(function()
            task.yield()
            error("the child")
          end)
          coroutine.yield(1)
          task.sleep(60)
        end)
        seen = err
      end)
    do
      task.sleep(0.002)
    end
    assert.matches("the child", seen.message)
  end)

  it("ends its children where the generator is left", function()
    local before = #task.list()
    for _ in
      task.generator(function()
        task.scope(function(scope)
          scope:spawn(task.sleep, 60)
          coroutine.yield(1)
        end)
      end)
    do
      break
    end
    assert.equal(before, #task.list())
  end)

  it("cancels what a clean-up spawns into it after it was cancelled", function()
    local before = #task.list()
    local ran = false
    local outer = task.spawn(task.scope, function(scope)
      scope:spawn(function()
        local _ <close> = closing(function()
          scope:spawn(function()
            ran = true
            task.sleep(60)
          end)
        end)
        task.sleep(60)
      end)
    end)
    task.yield()
    task.yield()
    outer:cancel()
    nebula.try(outer.join, outer)
    assert.is_false(ran)
    assert.equal(before, #task.list())
  end)
end)

describe("a deadline that passes while a <close> handler computes", function()
  it("lets the handler end", function()
    local log = {}
    local _, err = nebula.try(task.deadline, 0.01, function()
      do
        local _ <close> = closing(function()
          compute(0.15) -- longer than two ticks of the host
          log[#log + 1] = "closed"
        end)
      end
      compute(60)
    end)
    assert.equal("timeout", err.kind)
    assert.same({ "closed" }, log)
  end)
end)

describe("a deadline whose clean-up takes too long", function()
  it("ends at the deadline's boundary, as a timeout, and the task goes on", function()
    local _, err = nebula.try(task.deadline, 0.001, function()
      local _ <close> = closing(function()
        while true do
          pcall(task.sleep, 60)
        end
      end)
      task.sleep(60)
    end)
    assert.equal("timeout", err.kind)
    assert.matches("clean%-up took longer", err.message)
    local rounds = 0
    for _ = 1, 1000 do
      rounds = rounds + 1
    end
    task.sleep(0.001)
    assert.equal(1000, rounds)
  end)
end)
