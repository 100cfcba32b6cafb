-- The pool: on demand, fair, placed, evicting; and what its errors say.
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local pg, task = nebula.pg, nebula.task

local function failure(fn, ...)
  local value, err = nebula.try(fn, ...)
  assert.is_nil(value)
  return err
end

describe("pg pool", function()
  local url

  setup(function() url = postgres.database() end)

  local function connect(options)
    options.url = options.url or url
    return pg.connect(options)
  end

  it("connects to nothing before it is used", function()
    local db <close> = connect {}
    assert.equal(0, db:stats().connections)
    local nowhere <close> = connect { url = "postgresql://nobody@/none?host=/nonexistent" }
    assert.equal(0, nowhere:stats().connections)
  end)

  it("names what is wrong with its options and its URL, and never a password", function()
    assert.matches("max_connections", failure(pg.connect, { url = url, max_conections = 1 }).message)
    local err = failure(pg.connect, { url = "postgresql://user:se%cret@host/db" })
    assert.equal("config", err.kind)
    assert.not_matches("se%%cret", err.message .. (err.detail or ""))
    err = failure(pg.connect, { url = "host=x passwort=secret" })
    assert.equal("config", err.kind)
    assert.not_matches("secret", err.message)
  end)

  it("says at once that there is no server, no database, no such host", function()
    local none <close> = connect { url = "postgresql://nobody@/none?host=/nonexistent" }
    local err = failure(none.value, none, "SELECT 1")
    assert.equal("database", err.kind)
    assert.is_true(err.retryable)
    assert.matches("DATABASE_URL", err.message)
    local missing <close> = connect { url = (url:gsub("/[%w_]+%?", "/no_such_database?")) }
    assert.matches("no_such_database", failure(missing.value, missing, "SELECT 1").message)
    local unknown <close> = connect { url = "postgresql://nobody@no-such-host.invalid/x" }
    assert.matches("no%-such%-host", failure(unknown.value, unknown, "SELECT 1").message)
  end)

  it("grows to its maximum and no further", function()
    local db <close> = connect { max_connections = 3 }
    local list = {}
    for i = 1, 20 do list[i] = i end
    task.map(list, function()
      db:transaction(function(tx)
        repeat tx:exec "SELECT pg_sleep(0.005)" until db:stats().opened >= 3
      end)
    end, { concurrency = 20 })
    assert.equal(3, db:stats().opened)
  end)

  it("serves its waiters in the order of their coming", function()
    local db <close> = connect { max_connections = 1 }
    db:value("SELECT $1::int", 0) -- a statement that was not seen before asks twice
    local order, held = {}, db:acquire()
    task.scope(function(scope)
      for i = 1, 50 do
        scope:spawn(function()
          if i % 2 == 0 then db:value("SELECT $1::int", i) else db:transaction(function(tx) tx:value "SELECT 1" end) end
          order[#order + 1] = i
        end)
      end
      scope:spawn(function() held:close() end)
    end)
    assert.equal(50, #order)
    for i = 1, 50 do assert.equal(i, order[i]) end
  end)

  it("names the holders where a wait has been too long", function()
    local db <close> = connect { max_connections = 1, connection_timeout = 0.1 }
    local first
    repeat first = nebula.try(db.acquire, db) until first -- connecting may take longer than that, too
    local held <close> = first
    local err = task.spawn(function() return failure(db.value, db, "SELECT 1") end):join()
    assert.equal("pool", err.kind)
    assert.matches("pool_spec.lua:%d+ for %d+%.%d s", err.message)
    assert(held)
  end)

  it("names a task that would wait for itself", function()
    local db <close> = connect { max_connections = 1 }
    db:transaction(function()
      local err = failure(db.transaction, db, function() end)
      assert.equal("pool", err.kind)
      assert.matches("already holds", err.message)
      assert.matches("holds all", failure(db.value, db, "SELECT 1").message)
    end)
  end)

  it("lets a slow statement delay nobody while a connection is idle", function()
    local db <close> = connect { max_connections = 2 }
    local other <close> = connect { max_connections = 1 }
    local lock <close> = other:acquire()
    lock:value "SELECT pg_advisory_lock(7)"
    for _ = 1, 3 do db:value "SELECT 1" end
    local done = {}
    task.scope(function(scope)
      scope:spawn(function()
        db:value "SELECT pg_advisory_xact_lock(7)"
        done[#done + 1] = "slow"
      end)
      scope:spawn(function()
        for _ = 1, 20 do db:value "SELECT 1" end
        done[#done + 1] = "quick"
        lock:value "SELECT pg_advisory_unlock(7)"
      end)
    end)
    assert.same({ "quick", "slow" }, done)
  end)

  it("closes what was idle or old, and opens anew", function()
    local db <close> = connect { max_connections = 2, idle_timeout = 0.1 }
    db:value "SELECT 1"
    while db:stats().connections > 0 do task.sleep(0.02) end
    assert.equal(1, db:value "SELECT 1")
    local short <close> = connect { max_connections = 1, max_lifetime = 0.05 }
    local first = short:value "SELECT pg_backend_pid()"
    while short:value "SELECT pg_backend_pid()" == first do task.sleep(0.02) end
  end)

  it("keeps a reader from writing", function()
    local db <close> = connect { read_only = true }
    assert.equal("25006", failure(db.exec, db, "CREATE TABLE nope (a int)").code)
    assert.equal(1, db:value "SELECT 1")
  end)

  it("is refused by name once it is closed", function()
    local db = connect {}
    db:value "SELECT 1"
    db:close()
    assert.matches("the pool is closed", failure(db.value, db, "SELECT 1").message)
  end)

  it("goes on after its backends were ended", function()
    local db <close> = connect { max_connections = 4 }
    local killer <close> = connect { max_connections = 1 }
    local list, unknown, lost = {}, 0, 0
    for i = 1, 2000 do list[i] = i end
    local stop = false
    task.scope(function(scope)
      scope:spawn(function()
        for _ = 1, 20 do -- each takes 32 statements along at most
          if stop then break end
          killer:query [[SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()
            ORDER BY random() LIMIT 1]]
          task.sleep(0.01)
        end
      end)
      task.map(list, function(i)
        local value, err = nebula.try(db.value, db, "SELECT $1::int", i)
        if err == nil then assert.equal(i, value)
        elseif err.kind == "unknown_outcome" then unknown = unknown + 1
        else
          assert.is_true(err.retryable, tostring(err))
          lost = lost + 1
        end
      end, { concurrency = 32 })
      stop = true
    end)
    assert.equal(0, unknown) -- a SELECT that was cut off is no unknown write
    assert.is_true(lost < 1000)
    while not nebula.try(db.value, db, "SELECT 1") do task.yield() end -- those that were ended last are still noticed
  end)

  it("calls a lost answer to a write unknown, and to a commit too", function()
    local server <close> = postgres.server()
    local own <close> = connect { url = server:url(), max_connections = 2 }
    own:exec "CREATE TABLE t (a int)"
    own:exec [[CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(30); RETURN NEW; END';
      CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION slow()]]
    local writer = task.spawn(function() return failure(own.exec, own, "INSERT INTO t VALUES (1)") end)
    local committer = task.spawn(function()
      return failure(own.transaction, own, function(tx) tx:exec "INSERT INTO t VALUES (2)" end)
    end)
    local watcher <close> = connect { url = server:url(), max_connections = 1 }
    while watcher:value "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'" < 2 do task.sleep(0.01) end
    server:signal(3) -- immediate: nobody gets an answer worth the name
    for _, waiting in ipairs { writer, committer } do
      local err = waiting:join()
      assert.is_true(err.kind == "unknown_outcome" or err.code == "57P02", tostring(err))
    end
    server.process:wait()
    server.process = nil
  end)
end)
