local nebula = require "nebula"
local task = nebula.task

describe("task.channel", function()
  for _, capacity in ipairs { 0, 1, 7 } do
    it("of " .. capacity .. " delivers every value once, in order, to many receivers", function()
      local channel = task.channel(capacity)
      local got = {}
      task.scope(function(scope)
        for _ = 1, 5 do
          scope:spawn(function()
            for value in channel do
              got[#got + 1] = value
              if value % 3 == 0 then
                task.yield()
              end
            end
          end)
        end
        for i = 1, 1000 do
          channel:send(i)
        end
        channel:close()
      end)
      local expected = {}
      for i = 1, 1000 do
        expected[i] = i
      end
      table.sort(got)
      assert.same(expected, got)
    end)
  end

  it("of 0 lets a sender go on only when a receiver is there", function()
    local channel = task.channel()
    local sent = false
    local sender = task.spawn(function()
      channel:send("x")
      sent = true
    end)
    task.yield()
    task.yield()
    assert.is_false(sent)
    assert.equal("x", channel:receive())
    sender:join()
    assert.is_true(sent)
  end)

  it("holds a sender back once it is full", function()
    local channel = task.channel(2)
    local sent = 0
    local sender = task.spawn(function()
      for i = 1, 5 do
        channel:send(i)
        sent = i
      end
    end)
    task.yield()
    task.yield()
    assert.equal(2, sent)
    assert.equal(2, #channel)
    for i = 1, 5 do
      assert.equal(i, channel:receive())
    end
    sender:join()
  end)

  it("gives what is queued after close, then nil, and refuses more", function()
    local channel = task.channel(2)
    channel:send(1)
    channel:close()
    assert.equal(1, channel:receive())
    assert.is_nil(channel:receive())
    local _, err = nebula.try(channel.send, channel, 2)
    assert.matches("closed", err.message)
  end)

  it("wakes waiting receivers and senders on close", function()
    local channel = task.channel(1)
    local receiver = task.spawn(channel.receive, channel)
    task.yield()
    channel:close()
    assert.is_nil(receiver:join())

    local full = task.channel(1)
    full:send(1)
    local sender = task.spawn(nebula.try, full.send, full, 2)
    task.yield()
    full:close()
    local _, err = sender:join()
    assert.matches("closed", err.message)
    assert.equal(1, full:receive())
    assert.is_nil(full:receive())
  end)

  it("loses nothing to cancelled receivers and senders", function()
    math.randomseed(3)
    local channel = task.channel(2)
    local sent, received = 0, 0
    local others = {}
    for i = 1, 400 do
      others[i] = task.spawn(function()
        if i % 2 == 0 then
          channel:send(i)
          sent = sent + 1
        else
          channel:receive()
          received = received + 1
        end
      end)
      if math.random() < 0.3 then
        task.yield()
      end
      if math.random() < 0.5 then
        others[math.random(i)]:cancel()
      end
    end
    for i = 1, 400 do
      others[i]:cancel()
      nebula.try(others[i].join, others[i])
    end
    assert.equal(sent - received, #channel)
  end)

  it("refuses nil", function()
    local channel = task.channel(1)
    local _, err = nebula.try(channel.send, channel, nil)
    assert.equal("validation", err.kind)
  end)
end)

describe("task.semaphore", function()
  it("admits as many as it has permits, first come, first served", function()
    local semaphore = task.semaphore(2)
    local order, inside, most = {}, 0, 0
    task.scope(function(scope)
      for i = 1, 6 do
        scope:spawn(function()
          local _ <close> = semaphore:acquire()
          order[#order + 1] = i
          inside = inside + 1
          most = math.max(most, inside)
          task.sleep(0.001)
          inside = inside - 1
        end)
      end
    end)
    assert.same({ 1, 2, 3, 4, 5, 6 }, order)
    assert.equal(2, most)
  end)

  it("gives a permit back once, however often it is released", function()
    local semaphore = task.semaphore(1)
    local permit = semaphore:acquire()
    permit:release()
    permit:release()
    local _, err = nebula.try(semaphore.release, semaphore)
    assert.matches("free already", err.message)
  end)

  it("passes over a waiter that was cancelled", function()
    local semaphore = task.semaphore(1)
    local permit = semaphore:acquire()
    local first = task.spawn(semaphore.acquire, semaphore)
    local second = task.spawn(semaphore.acquire, semaphore)
    task.yield()
    first:cancel()
    permit:release()
    second:join()
    assert.equal("done", second:state())
  end)
end)
