-- LISTEN on a connection of its own: what arrives, what outlives the connection, and how it ends.
local host = require "spec.support.nebula"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local system = require "nebula.system"
local pg, task = nebula.pg, nebula.task

local function failure(fn, ...)
  local value, err = nebula.try(fn, ...)
  assert.is_nil(value)
  return err
end

--- Waits until the channel has given that many values.
local function take(channel, count)
  local list = {}
  task.deadline(60, function()
    for i = 1, count do list[i] = channel:receive() end
  end)
  return list
end

describe("pool:listen", function()
  local url = postgres.database()
  local db = pg.connect { url = url, max_connections = 2 }

  teardown(function() db:close() end)

  local LISTENERS = [[SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND query ~ '^(LISTEN|UNLISTEN)']]

  -- A connection that was closed is seen at the server until its process has ended.
  before_each(function()
    task.deadline(60, function()
      while #db:query(LISTENERS) > 0 do task.sleep(0.01) end
    end)
  end)

  it("runs the function for each notification, in the order of their coming", function()
    local got = task.channel(100)
    local handle <close> = db:listen("orders", function(payload, channel, pid) got:send { payload, channel, pid } end)
    for i = 1, 50 do db:notify("orders", "n" .. i) end
    db:transaction(function(tx)
      tx:notify("orders", "committed")
      nebula.try(tx.transaction, tx, function(inner)
        inner:notify("orders", "never")
        error "undone"
      end)
    end)
    local list = take(got, 51)
    for i = 1, 50 do assert.equal("n" .. i, list[i][1]) end
    assert.equal("committed", list[51][1])
    assert.equal("orders", list[1][2])
    assert.equal("integer", math.type(list[1][3]))
    assert.matches("listener of orders", tostring(handle))
  end)

  it("shares one connection, which takes none of the pool's", function()
    local got = task.channel(10)
    local held <close> = db:acquire()
    local other <close> = db:acquire()
    local name = 'a "quoted" näme; --'
    local first <close> = db:listen("one", function(payload) got:send("one " .. payload) end)
    local second <close> = db:listen(name, function(payload) got:send("two " .. payload) end)
    local third <close> = db:listen("one", function(payload) got:send("three " .. payload) end)
    assert.equal(1, #held:query(LISTENERS))
    other:notify(name, "x")
    assert.same({ "two x" }, take(got, 1))
    other:notify("one", "y")
    assert.same({ "one y", "three y" }, take(got, 2))
    third:close()
    third:close()
    other:notify("one", "z")
    assert.same({ "one z" }, take(got, 1))
    assert.matches("ended", tostring(third))
    assert(first and second)
  end)

  it("lets the function wait", function()
    local got = task.channel(10)
    local handle <close> = db:listen("slow", function(payload)
      got:send(db:value("SELECT $1::text || '!'", payload))
    end)
    db:notify("slow", "a")
    assert.same({ "a!" }, take(got, 1))
    assert(handle)
  end)

  it("closes its connection with the last handle", function()
    local handle = db:listen("short", function() end)
    assert.equal(1, #db:query(LISTENERS))
    handle:close()
    task.deadline(60, function()
      while #db:query(LISTENERS) > 0 do task.sleep(0.01) end
    end)
  end)

  it("listens again where its backend was ended, and says so", function()
    local got, again = task.channel(10), task.channel(10)
    local one <close> = db:listen("kill", function(payload) got:send(payload) end,
      { on_reconnect = function(channel) again:send(channel) end })
    for round = 1, 5 do
      db:query("SELECT pg_terminate_backend(pid) FROM (" .. LISTENERS .. ") AS l")
      assert.same({ "kill" }, take(again, 1))
      db:notify("kill", "round " .. round)
      assert.same({ "round " .. round }, take(got, 1))
    end
    assert(one)
  end)

  it("listens again once a restarted server is back", function()
    local server <close> = postgres.server()
    local own <close> = pg.connect { url = server:url(), max_connections = 1 }
    local got, again = task.channel(10), task.channel(10)
    own:listen("work", function(payload) got:send(payload) end,
      { on_reconnect = function(channel) again:send(channel) end })
    own:listen("other", function() end, { on_reconnect = function(channel) again:send(channel) end })
    server:stop "immediate"
    local err = failure(own.listen, own, "new", function() end)
    assert.equal("database", err.kind)
    assert.is_true(err.retryable)
    server:start()
    local list = take(again, 2)
    table.sort(list)
    assert.same({ "other", "work" }, list)
    local sender <close> = pg.connect { url = server:url() }
    sender:notify("work", "after")
    assert.same({ "after" }, take(got, 1))
  end)

  it("notices a server that is silent", function()
    local again, got = task.channel(10000), task.channel(10000) -- a slow machine is silent now and then, too
    local one <close> = db:listen("frozen", function(payload) got:send(payload) end,
      { ping = 0.05, on_reconnect = function(channel) again:send(channel) end })
    local pid = db:value [[SELECT pid FROM pg_stat_activity
      WHERE datname = current_database() AND query IN ('LISTEN "frozen"', 'SELECT 1')]]
    system.kill(pid, "STOP")
    local ok, list = pcall(take, again, 1)
    system.kill(pid, "CONT")
    assert.is_true(ok)
    assert.same({ "frozen" }, list)
    task.deadline(60, function()
      repeat
        db:notify("frozen", "thawed")
        task.sleep(0.01)
      until #got > 0
    end)
    assert.equal("thawed", got:receive())
    assert(one)
  end)

  it("says that there is no server", function()
    local none <close> = pg.connect { url = "postgresql://nobody@/none?host=/nonexistent" }
    local err = failure(none.listen, none, "x", function() end)
    assert.equal("database", err.kind)
    assert.matches("cannot connect", err.message)
  end)

  it("ends with its pool", function()
    local own = pg.connect { url = url }
    local handle = own:listen("gone", function() end)
    own:close()
    assert.matches("ended", tostring(handle))
    handle:close()
    local closing = pg.connect { url = url }
    local waiting = task.spawn(function() return failure(closing.listen, closing, "x", function() end) end)
    task.yield()
    closing:close()
    assert.equal("pool", waiting:join().kind)
  end)

  it("ends where its caller is cancelled while it waits", function()
    local own <close> = pg.connect { url = url }
    local waiting = task.spawn(function() own:listen("x", function() end) end)
    task.yield()
    waiting:cancel()
    assert.equal("cancelled", failure(waiting.join, waiting).kind)
  end)

  it("does not keep a program from its end", function()
    local result = host.run { env = { DATABASE_URL = url }, args = { "-e", [[
      local db = require("nebula").pg.connect(os.getenv "DATABASE_URL")
      db:listen("x", function() end, { on_reconnect = function() end })
      print "done"]] } }
    assert.equal("done\n", result.stdout, result.stderr)
    assert.equal(0, result.status)
  end)

  it("refuses names that the server would cut, and what is no function", function()
    assert.equal("validation", failure(db.listen, db, ("x"):rep(64), function() end).kind)
    assert.equal("validation", failure(db.listen, db, "", function() end).kind)
    assert.matches("on_reconnect", failure(db.listen, db, "x", function() end, { on_reconect = 1 }).message)
    assert.is_nil((nebula.try(db.listen, db, "x")))
  end)
end)
