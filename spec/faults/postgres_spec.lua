-- A pool under fire: its server restarted, its backends ended, its statements cancelled. The oracle is
-- a list of what each writer was told, held against the table afterwards.
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local fs, pg, task = nebula.fs, nebula.pg, nebula.task

local LONG = os.getenv "NEBULA_SPEC_LONG" == "1"

local function open_files()
  local n = 0
  for _ in fs.list "/proc/self/fd" do n = n + 1 end
  return n
end

-- Writers that insert keys one by one, alone or in a transaction, until stop() is true. The keys begin
-- with the prefix.
local function writers(scope, db, count, told, stop, prefix)
  for writer = 1, count do
    scope:spawn(function()
      local n = 0
      while not stop() do
        n = n + 1
        local key = ("%s%d-%d"):format(prefix or "", writer, n)
        local _, err
        if n % 2 == 0 then
          _, err = nebula.try(db.exec, db, "INSERT INTO keys VALUES ($1)", key)
        else
          _, err = nebula.try(db.transaction, db, function(tx)
            tx:exec("INSERT INTO keys VALUES ($1)", key)
            tx:exec("UPDATE keys SET twice = true WHERE key = $1", key)
          end, { retries = 0 })
        end
        told[key] = err == nil and "acked" or err.kind == "unknown_outcome" and "unknown" or "failed"
        if err ~= nil then
          assert.is_true(err.kind == "unknown_outcome" or err.retryable, tostring(err))
          task.sleep(0.005)
        end
      end
    end)
  end
end

local function check(db, told)
  local counts = { acked = 0, unknown = 0, failed = 0 }
  local found = {}
  local rows, err
  repeat -- the connection that broke last may be noticed by this statement only
    rows, err = nebula.try(db.query, db, "SELECT key, twice FROM keys")
    assert.is_true(err == nil or err.retryable, tostring(err))
  until rows
  for _, row in ipairs(rows) do
    found[row.key] = true
    assert.are_not.equal("failed", told[row.key], row.key)
    assert.equal(tonumber(row.key:match "%d+$") % 2 == 1, row.twice, row.key)
  end
  for key, how in pairs(told) do
    counts[how] = counts[how] + 1
    if how == "acked" then assert.is_true(found[key], key .. " was acknowledged, and is gone") end
  end
  return counts
end

local function acked_of(told)
  local count = 0
  for _, how in pairs(told) do count = count + (how == "acked" and 1 or 0) end
  return count
end

-- Nobody holds a connection or waits for one; what was being opened for those who have ended
-- meanwhile is waited for.
local function assert_settled(db, most)
  task.deadline(60, function()
    while db:stats().connecting > 0 do task.sleep(0.01) end
  end)
  local stats = db:stats()
  assert.is_true(stats.connections <= most)
  assert.same({ 0, 0 }, { stats.held, stats.waiting })
end

describe("pg under faults", function()
  local server

  setup(function() server = postgres.server { fsync = "on", synchronous_commit = "on" } end)
  teardown(function() server:close() end)

  local function fresh(database, options)
    options.url = server:database(database)
    local db = pg.connect(options)
    db:exec "CREATE TABLE keys (key text PRIMARY KEY, twice boolean NOT NULL DEFAULT false)"
    return db
  end

  it("loses nothing it acknowledged over restarts of the server, and serves at once afterwards", function()
    local db <close> = fresh("restarted", { max_connections = 16 })
    local before, rounds = open_files(), LONG and 10 or 6
    local told, stopping = {}, false
    task.scope(function(scope)
      writers(scope, db, 32, told, function() return stopping end)
      for round = 1, rounds do
        task.sleep(LONG and 4 or 0.2)
        task.deadline(60, function() while acked_of(told) < 20 * round do task.sleep(0.01) end end)
        server:stop(round % 3 == 0 and "immediate" or "fast")
        task.sleep(round % 2 == 0 and 1.5 or 0) -- long enough for the pauses to have grown
        server:start()
        assert.equal(round, task.deadline(LONG and 1 or 60, function() return db:value("SELECT $1::int", round) end))
      end
      stopping = true
    end)
    local counts = check(db, told)
    assert.is_true(counts.unknown <= rounds * 32)
    assert_settled(db, 16)
    -- A file for each connection, and nothing else that was not there.
    assert.is_true(open_files() <= before + 16)
  end)

  it("replaces backends that are ended at random, and goes on meanwhile", function()
    local SECONDS, KILLS = LONG and 30 or 0, 250
    local db <close> = fresh("ended", { max_connections = 8 })
    local killer <close> = pg.connect { url = server:url(), max_connections = 1 }
    local told = {}

    -- The server's own time for a new backend, which is a few milliseconds where the machine is not busy.
    local function connect_seconds()
      local began, times = nebula.time.monotonic(), 20
      for _ = 1, times do
        local one <close> = pg.connect { url = server:url(), max_connections = 1 }
        one:value "SELECT 1"
      end
      return (nebula.time.monotonic() - began) / times
    end

    -- Ends a backend (or only asks for one) every 10 ms, or as much later as the server is slower, until
    -- enough of them were and enough was acknowledged meanwhile; gives the keys acknowledged in a second. One
    -- that still starts is left: its connect would fail.
    local pace = LONG and math.max(0.01, 4 * connect_seconds()) or 0.01
    local function speed(verb, prefix)
      local hit, seconds, here = 0, 0, {}
      task.scope(function(scope)
        local over = false
        writers(scope, db, 32, here, function() return over end, prefix)
        local began = nebula.time.monotonic()
        repeat
          hit = hit + killer:value(([[SELECT count(%s(pid)) FROM (SELECT pid FROM pg_stat_activity
            WHERE datname = 'ended' AND state IS NOT NULL ORDER BY random() LIMIT 1) AS one]]):format(verb))
          task.sleep(pace)
          seconds = nebula.time.monotonic() - began
          assert.is_true(seconds < 300, "no 100 keys were acknowledged while backends were ended")
        until hit >= KILLS and seconds >= SECONDS and acked_of(here) >= 100
        over = true
      end)
      for key, how in pairs(here) do told[key] = how end
      return acked_of(here) / seconds, hit
    end

    local calm = speed("abs", "calm-")
    local before = db:stats()
    local disturbed, ended = speed("pg_terminate_backend", "disturbed-")
    local counts, stats = check(db, told), db:stats()
    -- How fast a server makes backends is the machine's affair; that each costs one connect, that none
    -- fails and that only what was in flight does, is not.
    assert.is_true(stats.opened - before.opened <= ended + 8, ("%d for %d"):format(stats.opened - before.opened, ended))
    assert.equal(before.failed, stats.failed)
    assert.is_true(counts.failed + counts.unknown <= ended * 32)
    if LONG then assert.is_true(disturbed > calm / 2, ("%.0f/s of %.0f/s"):format(disturbed, calm)) end
    assert_settled(db, 8)
  end)

  it("cancels 10,000 statements, and never one that comes after", function()
    local db <close> = pg.connect { url = server:url(), max_connections = 6 }
    db:exec "CREATE FUNCTION nap(s float8) RETURNS int LANGUAGE SQL AS 'SELECT 1 FROM pg_sleep(s)'"
    local victims = {
      function() db:query("SELECT nap($1)", math.random() / 500) end,
      function() db:exec "DO $$ BEGIN PERFORM pg_sleep(random() / 500); END $$" end,
      function()
        db:transaction(function(tx)
          for _ = 1, 3 do tx:value("SELECT nap($1)", math.random() / 1000) end
        end)
      end,
      function()
        for _ in db:rows "SELECT generate_series(1, 20000)" do task.sleep(0) end
      end,
      function()
        local held <close> = db:acquire()
        held:exec "SET work_mem = '1MB'"
        held:value("SELECT nap($1)", math.random() / 500)
      end,
    }
    local cut = 0
    task.scope(function(scope)
      for worker = 1, 12 do
        scope:spawn(function()
          for i = 1, 840 do
            local _, err = nebula.try(task.deadline, math.random() / 400, victims[math.random(#victims)])
            if err then
              cut = cut + 1
              assert.equal("timeout", err.kind, tostring(err))
            end
            local number = worker * 10000 + i
            assert.equal(number, db:value("SELECT $1::int", number))
            if i % 10 == 0 then
              assert.equal("x" .. number, db:transaction(function(tx)
                return tx:value("SELECT $1::text", "x" .. number)
              end))
            end
          end
        end)
      end
    end)
    assert.is_true(cut > 1000, tostring(cut))
    assert_settled(db, 6)
  end)

  it("ends a statement at its deadline on a shared connection, and hurts no neighbour", function()
    local db <close> = pg.connect { url = server:url(), max_connections = 1 }
    for _ = 1, 3 do db:value("SELECT $1::int", 0) end -- known, and short
    local slow = [[SELECT count(*) FROM generate_series(1, CASE WHEN $1 THEN 100000000 ELSE 1 END)]]
    for _ = 1, 3 do db:value(slow, false) end
    local before, rounds = db:stats().pipelined, 0
    repeat -- until some have shared it, which a slow machine takes for long at first
      rounds = rounds + 1
      task.scope(function(scope)
        local late = scope:spawn(function() return nebula.try(db.value, db, { slow, deadline = 0.05 }, true) end)
        local others = {}
        for i = 1, 20 do others[i] = scope:spawn(function() return db:value("SELECT $1::int", i) end) end
        for i = 1, 20 do assert.equal(i, others[i]:join()) end
        local value, err = late:join()
        assert.is_nil(value)
        assert.equal("timeout", err.kind)
      end)
    until rounds >= 20 and db:stats().pipelined > before
    assert.equal("0", db:value "SHOW statement_timeout")
  end)

  it("asks a server that has no room under ten times a second", function()
    local full <close> = postgres.server { max_connections = "4", superuser_reserved_connections = "0" }
    local taken = {}
    for i = 1, 4 do
      taken[i] = pg.connect { url = full:url(), max_connections = 1, idle_timeout = 600 }
      taken[i]:value "SELECT 1"
    end
    local db <close> = pg.connect { url = full:url(), max_connections = 4, connection_timeout = 120 }
    local began = nebula.time.monotonic()
    local asking = task.spawn(function() return db:value "SELECT 1" end)
    local seconds = LONG and 20 or 2
    task.deadline(60, function()
      while nebula.time.monotonic() - began < seconds or db:stats().failed < 2 do task.sleep(0.05) end
    end)
    local failed, took = db:stats().failed, nebula.time.monotonic() - began
    assert.is_true(failed <= 10 * took, ("%d in %.1f s"):format(failed, took))
    local impatient <close> = pg.connect { url = full:url(), max_connections = 1, connection_timeout = 0.5 }
    local _, err = nebula.try(impatient.value, impatient, "SELECT 1")
    assert.equal("pool", err.kind, tostring(err))
    for i = 1, 4 do taken[i]:close() end
    assert.equal(1, task.deadline(LONG and 1.5 or 60, function() return asking:join() end))
  end)
end)
