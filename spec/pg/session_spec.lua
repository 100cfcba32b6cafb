-- What one caller does to a session never reaches the next one: settings, locks, prepared statements,
-- plans, transactions that were left in the middle.
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local pg, task = nebula.pg, nebula.task

local function failure(fn, ...)
  local value, err = nebula.try(fn, ...)
  assert.is_nil(value)
  return err
end

describe("pg sessions", function()
  local url

  local function connect(count) return pg.connect { url = url, max_connections = count or 1 } end

  setup(function() url = postgres.database() end)

  local ADVISORY = [[
    SELECT count(*) FROM pg_locks
    WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  ]]

  it("undo what a statement on the pool changed", function()
    local db <close> = connect()
    db:exec "SET TimeZone = 'Europe/Berlin'"
    assert.equal("UTC", db:value "SHOW TimeZone")
    db:query "SELECT set_config('TimeZone', 'Europe/Berlin', false)"
    assert.equal("2020-01-01T00:00:00.000000Z", db:value "SELECT '2020-01-01T00:00:00Z'::timestamptz")
    db:query "SELECT pg_advisory_lock(1)"
    assert.is_true(db:value("SELECT pg_try_advisory_lock_shared($1)", 2))
    assert.equal(0, db:value(ADVISORY))
    assert.equal(1, db:stats().opened)
  end)

  it("undo what the holder of a connection changed by a function", function()
    local db <close> = connect()
    do
      local held <close> = db:acquire()
      held:value "SELECT pg_advisory_lock(3)"
      assert.equal(1, held:value(ADVISORY))
    end
    db:transaction(function(tx) tx:value "SELECT set_config('work_mem', '1MB', false)" end)
    assert.equal(0, db:value(ADVISORY))
    assert.are_not.equal("1MB", db:value "SHOW work_mem")
    assert.equal(1, db:stats().opened)
  end)

  it("are closed where they cannot be cleaned", function()
    local db <close> = connect()
    do
      local held <close> = db:acquire()
      held:exec "CREATE TEMP TABLE parent (a int); CREATE VIEW child AS SELECT a FROM parent"
      held:exec "SET statement_timeout = '1ms'; SET lock_timeout = '1ms'"
    end
    assert.equal("0", db:value "SHOW statement_timeout")
  end)

  it("keep their statements where the script drops its own", function()
    local db <close> = connect()
    db:value("SELECT $1::int", 1)
    do
      local held <close> = db:acquire()
      held:exec "PREPARE own AS SELECT 1"
      held:exec "DEALLOCATE own"
    end
    assert.equal(2, db:value("SELECT $1::int", 2))
    db:exec "DISCARD ALL"
    assert.equal(3, db:transaction(function(tx) return tx:value("SELECT $1::int", 3) end))
    db:exec "SELECT 1; DEALLOCATE ALL"
    assert.equal(3, db:transaction(function(tx) return tx:value("SELECT $1::int", 3) end))
    db:exec "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$"
    for i = 4, 6 do assert.equal(i, db:value("SELECT $1::int", i)) end
    assert.equal(7, db:transaction(function(tx) return tx:value("SELECT $1::int", 7) end))
  end)

  it("prepare a stale plan again: at once outside a transaction, for the next one inside", function()
    local db <close> = connect()
    local other <close> = connect()
    other:exec "CREATE TABLE stale (a int); INSERT INTO stale VALUES (1)"
    local sql = "SELECT * FROM stale WHERE a = $1"
    local function inside() return db:transaction(function(tx) return tx:one(sql, 1) end) end
    inside()
    other:exec "ALTER TABLE stale ADD b int DEFAULT 2"
    assert.equal("0A000", failure(inside).code)
    assert.same({ a = 1, b = 2 }, inside())
    local held <close> = db:acquire()
    other:exec "ALTER TABLE stale ADD c int DEFAULT 3"
    assert.same({ a = 1, b = 2, c = 3 }, held:one(sql, 1))
  end)

  it("never run an on_commit function of another transaction", function()
    local db <close> = connect()
    local held <close> = db:acquire()
    local calls = {}
    local function run(name, err)
      return held:transaction(function(tx)
        tx:exec "SELECT 1"
        if name then tx:on_commit(function() calls[#calls + 1] = name end) end
        if err then error(err) end
      end)
    end
    run "first"
    failure(run, "undone", "no")
    run()
    assert.same({ "first" }, calls)
  end)

  it("undo a transaction that was interrupted on an acquired connection", function()
    local db <close> = connect(2)
    db:exec "CREATE TABLE interrupted (a int)"
    local held = db:acquire()
    for i, wait in ipairs { function() task.sleep(60) end, function(tx) tx:exec "SELECT pg_sleep(60)" end } do
      local waiting = task.channel(1)
      local cut = task.spawn(function()
        held:transaction(function(tx)
          tx:exec("INSERT INTO interrupted VALUES ($1)", i)
          waiting:send(true)
          wait(tx)
        end)
      end)
      waiting:receive()
      cut:cancel()
      nebula.try(cut.join, cut)
      held:transaction(function(tx) tx:exec("INSERT INTO interrupted VALUES ($1)", 10 * i) end)
      failure(held.transaction, held, function(tx)
        tx:exec("INSERT INTO interrupted VALUES ($1)", 100 * i)
        task.deadline(0.05, function() wait(tx) end)
      end)
      held:exec("INSERT INTO interrupted VALUES ($1)", 1000 * i)
    end
    held:close()
    assert.same({ 10, 20, 1000, 2000 }, db:value "SELECT array_agg(a ORDER BY a) FROM interrupted")
  end)

  it("refuse a handle that its function has closed, and two transactions side by side in one", function()
    local db <close> = connect(2)
    db:exec "CREATE TABLE nested (a int)"
    assert.matches("closed the handle", failure(db.transaction, db, function(tx)
      tx:exec "INSERT INTO nested VALUES (1)"
      tx:close()
    end).message)
    db:transaction(function(tx)
      tx:exec "INSERT INTO nested VALUES (2)"
      assert.matches("closed the handle", failure(tx.transaction, tx, function(inner)
        inner:exec "INSERT INTO nested VALUES (3)"
        inner:close()
      end).message)
      tx:transaction(function(inner)
        inner:exec "INSERT INTO nested VALUES (4)"
        local err = failure(tx.transaction, tx, function() end)
        assert.equal("validation", err.kind)
        assert.matches("nest the inner one's handle", err.message)
      end)
      tx:transaction(function(inner) inner:exec "INSERT INTO nested VALUES (5)" end)
    end)
    assert.same({ 2, 4, 5 }, db:value "SELECT array_agg(a ORDER BY a) FROM nested")
  end)

  it("take nothing more from a task that comes after the end of the function", function()
    local db <close> = connect(2)
    db:exec "CREATE TABLE late (a int)"
    for _ = 1, 100 do
      local handle, late
      task.scope(function(scope)
        db:transaction(function(tx)
          handle = tx
          tx:exec "SELECT 1"
          late = scope:spawn(function() return nebula.try(handle.exec, handle, "INSERT INTO late VALUES (1)") end)
        end)
      end)
      local done, err = late:join()
      assert.is_nil(done)
      assert.matches("has ended", err.message)
    end
    assert.equal(0, db:value "SELECT count(*) FROM late")
  end)

  it("do not nest deeper with each failure inside", function()
    local db <close> = connect()
    db:exec "CREATE TABLE deep (a int)"
    db:transaction(function(tx)
      local locks
      for _ = 1, 50 do
        failure(tx.transaction, tx, function(inner)
          inner:exec "INSERT INTO deep VALUES (1)" -- each open subtransaction around it locks its number
          locks = inner:value [[SELECT count(*) FROM pg_locks
            WHERE pid = pg_backend_pid() AND locktype = 'transactionid']]
          error "no"
        end)
      end
      assert.equal(2, locks)
    end)
  end)

  it("are safe from finalizers", function()
    local db <close> = connect(2)
    local refused = 0
    local function litter()
      for _ = 1, 20 do
        setmetatable({}, { __gc = function()
          local _, err = nebula.try(db.value, db, "SELECT $1::jsonb[]", { { "evil" } })
          if err and err.kind == "script" then refused = refused + 1 end
        end })
      end
    end
    for _ = 1, 20 do
      local big = {}
      for i = 1, 2000 do big[i] = { "v" .. i } end
      litter()
      local got = db:value("SELECT $1::jsonb[]", big)
      assert.equal(2000, #got)
      assert.same({ "v2000" }, got[2000])
    end
    collectgarbage()
    assert.is_true(refused > 0)
  end)

  it("leave nothing behind where a pool is dropped while a name is looked up", function()
    for _ = 1, 5 do
      local db = pg.connect { url = "postgresql://nowhere.invalid/x" }
      do
        local asking = task.spawn(function() return nebula.try(db.value, db, "SELECT 1") end)
        task.sleep(0)
        asking:cancel()
        nebula.try(asking.join, asking)
      end
      db = nil -- luacheck: ignore 311
      collectgarbage()
      collectgarbage()
    end
  end)
end)
