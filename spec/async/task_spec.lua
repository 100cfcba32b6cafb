local nebula = require "nebula"
local task = nebula.task

--- A <close> handler that may wait: runs fn when it is closed.
local function closing(fn)
  return setmetatable({}, { __close = fn })
end

describe("task", function()
  it("returns what its function returns", function()
    local sum, text = task.spawn(function(a, b)
      task.sleep(0.001)
      return a + b, "x"
    end, 1, 2):join()
    assert.equal(3, sum)
    assert.equal("x", text)
  end)

  it("gives the same result to everyone who joins", function()
    local shared = task.spawn(function()
      task.sleep(0.002)
      return 7
    end)
    local first, second = task.spawn(shared.join, shared), task.spawn(shared.join, shared)
    assert.equal(7, first:join())
    assert.equal(7, second:join())
    assert.equal(7, shared:join())
  end)

  it("raises its error, with the traceback of where it happened, in the one who joins", function()
    local failing = task.spawn(function()
      local function deeper()
        error("boom")
      end
      task.sleep(0)
      deeper()
    end)
    local _, err = nebula.try(failing.join, failing)
    assert.equal("script", err.kind)
    assert.matches("task_spec.lua:%d+: boom", err.message)
    assert.matches("deeper", err.traceback)
    assert.equal("failed", failing:state())
  end)

  it("keeps the traceback of an error inside a generator", function()
    local failing = task.spawn(function()
      for _ in coroutine.wrap(function()
        local function inside()
          error("in the generator")
        end
        inside()
      end) do
        error("never reached")
      end
    end)
    local _, err = nebula.try(failing.join, failing)
    assert.matches("in the generator", err.message)
    assert.matches("inside", err.traceback)
  end)

  it("leaves a script's own error value alone", function()
    local value = { mine = true }
    local _, got = pcall(function()
      task.spawn(error, value):join()
    end)
    assert.equal(value, got)
  end)

  it("refuses to join itself", function()
    local _, err = nebula.try(function()
      task.current():join()
    end)
    assert.matches("cannot join itself", err.message)
  end)

  it("wants a function", function()
    local _, err = nebula.try(task.spawn, 7)
    assert.equal("validation", err.kind)
    assert.matches("got number", err.message)
  end)

  it("lists every task with its state, what it waits for and a traceback", function()
    local sleeper = task.spawn(function()
      task.sleep(60)
    end)
    task.yield()
    local found
    for _, entry in ipairs(task.list()) do
      if entry.task == sleeper then
        found = entry
      end
    end
    assert.equal("waiting", found.state)
    assert.equal("task.sleep", found.waits_for)
    assert.matches("task_spec.lua", found.traceback)
    sleeper:cancel()
    nebula.try(sleeper.join, sleeper)
  end)

  it("is atomic between two waits", function()
    local inside, most = 0, 0
    task.map({ 1, 2, 3, 4, 5, 6, 7, 8 }, function()
      inside = inside + 1
      most = math.max(most, inside)
      for _ = 1, 1e5 do
        most = most + 0
      end
      inside = inside - 1
      task.yield()
    end)
    assert.equal(1, most)
  end)

  it("sleeps in order of time, not of start", function()
    local order = {}
    task.map({ 0.3, 0.1, 0.2 }, function(seconds)
      task.sleep(seconds)
      order[#order + 1] = seconds
    end)
    assert.same({ 0.1, 0.2, 0.3 }, order)
  end)

  it("takes durations as text and refuses nonsense", function()
    task.sleep("1ms")
    local _, err = nebula.try(task.sleep, "soon")
    assert.equal("validation", err.kind)
    assert.matches("duration", err.message)
    assert.is_nil((nebula.try(task.sleep, -1)))
  end)

  it("costs at most 2.5 KB asleep", function()
    collectgarbage()
    collectgarbage()
    local before = collectgarbage("count")
    local tasks = {}
    for i = 1, 10000 do
      tasks[i] = task.spawn(task.sleep, 3600)
    end
    task.yield()
    collectgarbage()
    local each = (collectgarbage("count") - before) / 10000
    for i = 1, 10000 do
      tasks[i]:cancel()
    end
    for i = 1, 10000 do
      nebula.try(tasks[i].join, tasks[i])
    end
    -- Lua's heap; the C side adds one pooled timer of under 200 bytes.
    assert.is_true(each + 0.2 <= 2.5, each .. " KB")
  end)
end)

describe("cancelling", function()
  it("raises `cancelled` at the wait point and in the one who joins", function()
    local seen
    local sleeper = task.spawn(function()
      local ok, err = xpcall(task.sleep, function(e)
        seen = e
        return e
      end, 60)
      return ok, err
    end)
    task.yield()
    assert.is_true(sleeper:cancel())
    local _, err = nebula.try(sleeper.join, sleeper)
    assert.equal("cancelled", err.kind)
    assert.equal("cancelled", seen.kind)
    assert.equal("cancelled", sleeper:state())
    assert.is_false(sleeper:cancel())
  end)

  it("passes through pcall, xpcall, try, resume and wrap", function()
    local passed = {}
    local function swallowing(name, protect)
      local sleeper = task.spawn(function()
        protect(function()
          task.sleep(60)
        end)
        passed[name] = "swallowed"
      end)
      task.yield()
      sleeper:cancel()
      nebula.try(sleeper.join, sleeper)
    end
    swallowing("pcall", pcall)
    swallowing("xpcall", function(fn)
      return xpcall(fn, tostring)
    end)
    swallowing("try", nebula.try)
    swallowing("resume", function(fn)
      return coroutine.resume(coroutine.create(fn))
    end)
    swallowing("wrap", function(fn)
      return pcall(coroutine.wrap(fn))
    end)
    assert.same({}, passed)
  end)

  it("is not lost where a <close> handler raises another error on the way", function()
    local swallowed = false
    local sleeper = task.spawn(function()
      pcall(function()
        local _ <close> = closing(function()
          error("from close")
        end)
        task.sleep(60)
      end)
      swallowed = true
    end)
    task.yield()
    sleeper:cancel()
    local _, err = nebula.try(sleeper.join, sleeper)
    assert.equal("cancelled", err.kind)
    assert.is_false(swallowed)
  end)

  it("lets <close> handlers wait and catch their own errors; a second cancel does not disturb them", function()
    local order = {}
    local sleeper = task.spawn(function()
      local _ <close> = closing(function()
        order[#order + 1] = "outer begins"
        task.sleep(0.005)
        order[#order + 1] = "outer ends"
      end)
      local _ <close> = closing(function()
        order[#order + 1] = tostring(pcall(error, "its own"))
        task.sleep(0.005)
        order[#order + 1] = "inner ends"
      end)
      task.sleep(60)
    end)
    task.yield()
    sleeper:cancel()
    task.yield()
    sleeper:cancel()
    nebula.try(sleeper.join, sleeper)
    assert.same({ "false", "inner ends", "outer begins", "outer ends" }, order)
  end)

  it("ends a task that has not begun without running it", function()
    local ran = false
    local early = task.spawn(function()
      ran = true
    end)
    early:cancel()
    local _, err = nebula.try(early.join, early)
    assert.equal("cancelled", err.kind)
    assert.is_false(ran)
  end)

  it("of the running task raises at once", function()
    local own = task.spawn(function()
      task.current():cancel()
      error("not reached")
    end)
    local _, err = nebula.try(own.join, own)
    assert.equal("cancelled", err.kind)
  end)

  it("does not take back what had already completed", function()
    local gate = task.channel(1)
    local got
    local receiver = task.spawn(function()
      got = gate:receive()
      task.yield()
      got = "not reached"
    end)
    task.yield()
    gate:send("value") -- completes the wait ...
    receiver:cancel() -- ... before this
    nebula.try(receiver.join, receiver)
    assert.equal("value", got)
  end)

  it("ends a clean-up that swallows everything and never ends, within its time", function()
    local stubborn = task.spawn(function()
      local _ <close> = closing(function()
        while true do
          pcall(task.sleep, 60)
        end
      end)
      task.sleep(60)
    end)
    task.yield()
    stubborn:cancel()
    local _, err = nebula.try(stubborn.join, stubborn)
    assert.equal("cancelled", err.kind)
    assert.matches("clean%-up took longer", err.message)
  end)

  it("ends a clean-up that computes for ever, within its time", function()
    local stubborn = task.spawn(function()
      local _ <close> = closing(function()
        while true do
          pcall(function()
            while true do
            end
          end)
        end
      end)
      task.sleep(60)
    end)
    task.yield()
    stubborn:cancel()
    local _, err = nebula.try(stubborn.join, stubborn)
    assert.matches("clean%-up took longer", err.message)
  end)

  it("at 10,000 random moments resumes nobody twice and closes everything once", function()
    math.randomseed(42)
    local opened, closed, finished = {}, {}, {}
    local semaphore = task.semaphore(50)
    local pipe = task.channel(10)
    local drain = task.spawn(function()
      for _ in pipe do
        task.yield()
      end
    end)
    local function work(id)
      opened[id] = (opened[id] or 0) + 1
      local _ <close> = closing(function()
        closed[id] = (closed[id] or 0) + 1
        if id % 3 == 0 then -- a cancel may still come here, where the body had ended by itself
          task.sleep(math.random() * 0.002)
        end
      end)
      local _permit <close> = semaphore:acquire()
      task.sleep(math.random() * 0.004)
      for _ in
        task.generator(function()
          local _ <close> = closing(function()
            closed[-id] = (closed[-id] or 0) + 1
          end)
          opened[-id] = (opened[-id] or 0) + 1
          task.yield()
          coroutine.yield(1)
          task.sleep(math.random() * 0.002)
          coroutine.yield(2)
        end)
      do
        pipe:send(id)
        if math.random() < 0.2 then
          break
        end
      end
      finished[id] = (finished[id] or 0) + 1
      return id
    end
    local tasks = {}
    local next_id = 0
    task.map({ 1, 2, 3, 4, 5, 6, 7, 8 }, function()
      while next_id < 10000 do
        next_id = next_id + 1
        local id = next_id
        tasks[id] = task.spawn(work, id)
        if math.random() < 0.5 then
          task.yield()
        end
        tasks[math.random(math.max(1, id - 60), id)]:cancel()
      end
    end)
    local cancelled = 0
    for id = 1, 10000 do
      local value, err = nebula.try(tasks[id].join, tasks[id])
      if value then
        assert.equal(id, value)
        assert.equal(1, finished[id])
      else
        assert.equal("cancelled", err.kind)
        cancelled = cancelled + 1
      end
    end
    pipe:close()
    drain:join()
    assert.same(opened, closed)
    for id, count in pairs(closed) do
      assert.equal(1, count, id)
    end
    assert.is_true(cancelled > 100 and cancelled < 10000)
    -- Every permit came back.
    for _ = 1, 50 do
      semaphore:acquire()
    end
  end)
end)
