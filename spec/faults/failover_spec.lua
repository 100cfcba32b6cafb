-- A pool over a server and its synchronous standby: one falls, the other takes its place. The oracle is
-- a list of what each writer was told, held against the table of whoever is the primary afterwards.
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local proxy = require "spec.support.proxy"
local pg, task = nebula.pg, nebula.task

local LONG = os.getenv "NEBULA_SPEC_LONG" == "1"
local ROUNDS = LONG and 10 or 2
local SETTINGS = { fsync = "on", synchronous_commit = "on" }

local function wait_until(condition)
  task.deadline(60, function() while not condition() do task.sleep(0.02) end end)
end

local function both(first, second)
  return ("postgresql://nebula@/nebula?host=%s,%s"):format(first.directory, second.directory)
end

-- Makes `primary` wait for its standby from now on, and waits until it does.
local function synchronise(primary)
  primary:set { synchronous_standby_names = "*" }
  local db <close> = pg.connect { url = primary:url(), max_connections = 1 }
  wait_until(function()
    return db:value "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'" == 1
  end)
end

-- Writes keys one after the other, until stop() is true.
local function writers(scope, db, round, told, stop, on_ack)
  for writer = 1, 16 do
    scope:spawn(function()
      local n = 0
      while not stop() do
        n = n + 1
        local key = ("%d-%d-%d"):format(round, writer, n)
        told[key] = "begun"
        local _, err = nebula.try(db.exec, db, "INSERT INTO keys VALUES ($1)", key)
        told[key] = err == nil and "acked" or err.kind == "unknown_outcome" and "unknown" or "failed"
        if err == nil then
          on_ack()
        else
          assert.is_true(err.kind == "unknown_outcome" or err.retryable or err.code == "25006", tostring(err))
          task.sleep(0.005)
        end
      end
    end)
  end
end

local function check(url, told)
  local db <close> = pg.connect { url = url, max_connections = 1 }
  local found, acked = {}, 0
  for _, row in ipairs(db:query "SELECT key FROM keys") do
    found[row.key] = true
    assert.are_not.equal("failed", told[row.key], row.key)
  end
  for key, how in pairs(told) do
    if how == "acked" then
      acked = acked + 1
      assert.is_true(found[key], key .. " was acknowledged, and is gone")
    end
  end
  return acked
end

describe("pg over a failover", function()
  local started = {}

  local function keep(server)
    started[#started + 1] = server
    return server
  end

  teardown(function() for _, server in ipairs(started) do server:close() end end)

  it("loses nothing it acknowledged, and finds the new primary", function()
    local primary = keep(postgres.server(SETTINGS))
    local standby = keep(primary:standby())
    do
      local db <close> = pg.connect(primary:url())
      db:exec "CREATE TABLE keys (key text PRIMARY KEY)"
    end
    local told = {}
    for round = 1, ROUNDS do
      synchronise(primary)
      local db <close> = pg.connect { url = both(primary, standby), max_connections = 8 }
      local stopping, acks, earlier = false, 0, {}
      task.scope(function(scope)
        writers(scope, db, round, told, function() return stopping end, function() acks = acks + 1 end)
        wait_until(function() return acks > 100 end)
        primary:stop "immediate"
        local fell = nebula.time.monotonic()
        standby:promote()
        local before = acks
        wait_until(function() return acks > before end)
        local gap = nebula.time.monotonic() - fell
        if LONG then assert.is_true(gap <= 2, gap) end
        for key in pairs(told) do earlier[key] = true end
        primary:start() -- it does not know that it is none any more
        before = acks
        wait_until(function() return acks > before + 100 end)
        stopping = true
      end)
      assert.is_true(check(standby:url(), told) >= acks)
      local old <close> = pg.connect { url = primary:url(), max_connections = 1 }
      for row in old:rows "SELECT key FROM keys" do assert.is_true(earlier[row.key], row.key) end
      primary:close()
      primary = standby
      if round < ROUNDS then standby = keep(primary:standby()) end
    end
  end)

  it("leaves a primary that became read-only after at most one failed write a connection", function()
    local primary = keep(postgres.server())
    local other = keep(postgres.server())
    for _, server in ipairs { primary, other } do
      local db <close> = pg.connect(server:url())
      db:exec "CREATE TABLE keys (key text PRIMARY KEY)"
    end
    local db <close> = pg.connect { url = both(primary, other), max_connections = 4, min_connections = 4 }
    wait_until(function() return db:stats().idle == 4 end)
    local where = db:value "SHOW unix_socket_directories"
    assert.equal(primary.directory, where)
    primary:set { default_transaction_read_only = "on" }
    local watch <close> = pg.connect(primary:url())
    local held = {}
    for i = 1, 4 do held[i] = db:acquire() end
    for _, each in ipairs(held) do -- one after the other is told
      wait_until(function() return each:value "SHOW default_transaction_read_only" == "on" end)
    end
    for _, each in ipairs(held) do each:close() end
    local refused, written = 0, 0
    local list = {}
    for i = 1, 100 do list[i] = i end
    task.map(list, function(i)
      local _, err = nebula.try(db.exec, db, "INSERT INTO keys VALUES ($1)", tostring(i))
      if err then
        assert.equal("25006", err.code, tostring(err))
        refused = refused + 1
      else
        written = written + 1
      end
    end, { concurrency = 1 })
    assert.is_true(refused <= 4, tostring(refused))
    local elsewhere <close> = pg.connect(other:url())
    assert.equal(written, elsewhere:value "SELECT count(*) FROM keys")
    assert.equal(0, watch:value "SELECT count(*) FROM keys")
  end)

  it("does not write to a standby, and reads from one where it is asked to", function()
    local primary = keep(postgres.server())
    local standby = keep(primary:standby())
    local db <close> = pg.connect { url = both(standby, primary), max_connections = 2 }
    assert.is_false(db:value "SELECT pg_is_in_recovery()")
    local reader <close> = pg.connect { url = both(standby, primary), read_only = true }
    assert.is_true(reader:value "SELECT pg_is_in_recovery()")
    -- What a URL for writers asks for is the primary, also where the session itself only reads.
    local asked = both(standby, primary) .. "&target_session_attrs=read-write"
    local careful <close> = pg.connect { url = asked, read_only = true }
    assert.is_false(careful:value "SELECT pg_is_in_recovery()")
    assert.equal("on", careful:value "SHOW transaction_read_only")
    local alone <close> = pg.connect { url = standby:url() .. "&target_session_attrs=primary", connection_timeout = 1 }
    wait_until(function() -- once it has answered at all
      local _, err = nebula.try(alone.value, alone, "SELECT 1")
      return err.message:find("server is in hot standby mode", 1, true)
    end)
  end)

  it("passes over a host that is silent", function()
    local server = keep(postgres.server())
    local silent <close> = proxy.postgres(server)
    local good <close> = proxy.postgres(server)
    silent:accept "silent"
    local url = ("postgresql://nebula@127.0.0.1,127.0.0.1:%d/nebula?sslmode=disable"):format(good.port)
      :gsub(",", (":%d,"):format(silent.port))
    local db <close> = pg.connect { url = url, max_connections = 2, connection_timeout = 12 }
    assert.equal(1, db:value "SELECT 1") -- within these seconds, though the first one says nothing
    -- The next connection begins with the one that answered.
    local before = silent:counts().accepted
    local held <close> = db:acquire()
    assert.equal(1, held:value "SELECT 1")
    assert.equal(2, db:value "SELECT 2")
    assert.equal(before, silent:counts().accepted)
  end)
end)
