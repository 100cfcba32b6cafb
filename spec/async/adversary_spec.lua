-- What a script may do to the scheduler that it was not made for.
local nebula = require "nebula"
local task = nebula.task

local function closing(fn)
  return setmetatable({}, { __close = fn })
end

local function collected(fn)
  return setmetatable({}, { __gc = fn })
end

describe("a generator shared by tasks", function()
  it("is refused by name to the second while the first waits in it", function()
    local iterator = task.generator(function()
      task.sleep(0.1)
      coroutine.yield "mine"
    end)
    local first = task.spawn(iterator)
    task.yield()
    local _, err = nebula.try(iterator)
    assert.matches("cannot resume a coroutine that waits", err.message)
    assert.equal("mine", first:join())
  end)

  it("cannot call itself, and can wait afterwards", function()
    local iterator, caught
    iterator = task.generator(function()
      caught = select(2, pcall(iterator))
      task.sleep(0)
      coroutine.yield "value"
    end)
    assert.equal("value", iterator())
    assert.matches("non%-suspended", caught)
  end)

  it("passes a cancel through a pcall that another task has entered", function()
    local swallowed = false
    local iterator = task.generator(function()
      pcall(function()
        coroutine.yield(1)
        task.sleep(60)
      end)
      swallowed = true
    end)
    assert.equal(1, iterator())
    local other = task.spawn(iterator)
    task.yield()
    other:cancel()
    local _, err = nebula.try(other.join, other)
    assert.equal("cancelled", err.kind)
    assert.is_false(swallowed)
  end)
end)

describe("a finalizer", function()
  it("that spawns tasks while tasks are being made loses none", function()
    local ended, made = 0, 0
    collectgarbage("generational")
    for _ = 1, 3000 do
      collected(function()
        made = made + 1
        task.spawn(function()
          task.yield()
          ended = ended + 1
        end)
      end)
      made = made + 1
      task.spawn(function()
        task.yield()
        ended = ended + 1
      end)
    end
    collectgarbage("incremental")
    collectgarbage()
    while #task.list() > 1 do
      task.yield()
    end
    assert.equal(made, ended)
  end)

  it("that waits is refused by name", function()
    local message
    collected(function()
      message = select(2, pcall(task.sleep, 0)).message
    end)
    collectgarbage()
    assert.matches("task.sleep cannot wait here.*a finalizer", message)
  end)

  it("that cancels the task in which it happens to run does not lose the cancel", function()
    local own = task.spawn(function()
      collected(function()
        task.current():cancel()
      end)
      collectgarbage()
      task.sleep(60)
    end)
    local _, err = nebula.try(own.join, own)
    assert.equal("cancelled", err.kind)
    assert.equal("cancelled", own:state())
  end)
end)

describe("a refused wait", function()
  it("names what keeps it, not a pcall on the way", function()
    local err, _
    string.gsub("a", "a", function()
      pcall(function()
        _, err = nebula.try(task.sleep, 0)
      end)
    end)
    assert.matches("string.gsub", err.message)
  end)
end)

describe("Task:join", function()
  it("returns 10,000 values, more than once", function()
    local values = {}
    for i = 1, 10000 do
      values[i] = i
    end
    local many = task.spawn(table.unpack, values)
    for _ = 1, 3 do
      local got = table.pack(many:join())
      assert.equal(10000, got.n)
      assert.equal(10000, got[10000])
    end
  end)
end)

describe("closing a generator", function()
  it("passes through xpcall whatever its handler returns", function()
    local swallowed = false
    for _ in
      task.generator(function()
        xpcall(coroutine.yield, tostring, 1)
        swallowed = true
      end)
    do
      break
    end
    assert.is_false(swallowed)
  end)

  it("passes through a pcall where a <close> handler raises another error", function()
    local swallowed = false
    for _ in
      task.generator(function()
        pcall(function()
          local _ <close> = closing(function()
            error("from close")
          end)
          coroutine.yield(1)
        end)
        swallowed = true
      end)
    do
      break
    end
    assert.is_false(swallowed)
  end)

  it("lets its handlers catch their own errors and run generators of their own", function()
    local log = {}
    for _ in
      task.generator(function()
        local _ <close> = closing(function()
          log[#log + 1] = tostring(pcall(error, "own"))
          for i in
            coroutine.wrap(function()
              log[#log + 1] = tostring(pcall(error, "inner"))
              coroutine.yield(1)
              task.sleep(0)
            end)
          do
            log[#log + 1] = i
          end
        end)
        coroutine.yield(1)
      end)
    do
      break
    end
    assert.same({ "false", "false", 1 }, log)
  end)

  it("does not keep the cancel that comes while its handlers wait", function()
    local went_on = false
    local leaving = task.spawn(function()
      local co = coroutine.create(function()
        local _ <close> = closing(function()
          pcall(task.sleep, 60)
        end)
        coroutine.yield()
      end)
      coroutine.resume(co)
      coroutine.close(co)
      went_on = true
    end)
    task.yield()
    leaving:cancel()
    local _, err = nebula.try(leaving.join, leaving)
    assert.equal("cancelled", err.kind)
    assert.is_false(went_on)
  end)
end)

describe("a clean-up", function()
  it("uses a generator that was suspended in a pcall before the cancel", function()
    local log = {}
    local sleeper = task.spawn(function()
      local reader = coroutine.wrap(function()
        table.insert(log, tostring(pcall(function()
          coroutine.yield(1)
          error("its own")
        end)))
        coroutine.yield(2)
      end)
      reader()
      local _ <close> = closing(function()
        task.sleep(0.001)
        table.insert(log, reader())
      end)
      task.sleep(60)
    end)
    task.yield()
    sleeper:cancel()
    nebula.try(sleeper.join, sleeper)
    assert.same({ "false", 2 }, log)
  end)

  it("cannot give a value from a generator that is being cancelled", function()
    local got = {}
    local consumer = task.spawn(function()
      for value in
        coroutine.wrap(function()
          local _ <close> = closing(function()
            coroutine.yield("from close")
          end)
          task.sleep(60)
        end)
      do
        got[#got + 1] = value
      end
    end)
    task.yield()
    consumer:cancel()
    local _, err = nebula.try(consumer.join, consumer)
    assert.equal("cancelled", err.kind)
    assert.matches("its clean%-up failed: coroutine.yield in the clean%-up", err.detail)
    assert.same({}, got)
  end)
end)

describe("an error of a clean-up", function()
  it("does not take the place of the cancel or the timeout, but is their detail", function()
    local function failing()
      local _ <close> = closing(function()
        error(nebula.error { kind = "database", message = "no ROLLBACK" })
      end)
      task.sleep(60)
    end
    local _, late = nebula.try(task.deadline, 0.001, failing)
    assert.equal("timeout", late.kind)
    assert.equal("its clean-up failed: no ROLLBACK", late.detail)
    local sleeper = task.spawn(pcall, failing)
    task.yield()
    sleeper:cancel()
    local _, err = nebula.try(sleeper.join, sleeper)
    assert.equal("cancelled", err.kind)
    assert.equal("its clean-up failed: no ROLLBACK", err.detail)
  end)

  it("is raised where nothing was interrupted", function()
    local _, err = nebula.try(task.deadline, 60, function()
      local _ <close> = closing(function()
        error(nebula.error { kind = "database", message = "no ROLLBACK" })
      end)
    end)
    assert.equal("database", err.kind)
  end)
end)

describe("an interrupt of a computation", function()
  it("never comes between a value and its <close> variable", function()
    local semaphore = task.semaphore(1)
    for _ = 1, 20 do
      nebula.try(task.deadline, 0.01, function()
        while true do
          local _ <close> = semaphore:acquire()
        end
      end)
      local permit = semaphore:acquire()
      permit:release()
    end
  end)
end)

describe("a closed channel", function()
  it("gives its last value to the receiver that was woken for it", function()
    local channel = task.channel(1)
    local woken = task.spawn(channel.receive, channel)
    task.yield()
    channel:send "value"
    channel:close()
    assert.is_nil(channel:receive())
    assert.equal("value", woken:join())
  end)
end)
