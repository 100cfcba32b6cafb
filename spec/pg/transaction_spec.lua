-- Transactions: commit, rollback, savepoints, reruns, handles after their end, cancels.
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local pg, task = nebula.pg, nebula.task

local function failure(fn, ...)
  local value, err = nebula.try(fn, ...)
  assert.is_nil(value)
  return err
end

describe("pg transactions", function()
  local db, url

  setup(function()
    url = postgres.database()
    db = pg.connect { url = url, max_connections = 8 }
    db:exec "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)"
  end)
  teardown(function() db:close() end)
  before_each(function() db:exec "TRUNCATE t" end)

  local function ids() return db:value "SELECT coalesce(array_agg(id ORDER BY id), '{}') FROM t" end

  it("commits and returns all results", function()
    local a, b, c = db:transaction(function(tx)
      tx:exec "INSERT INTO t VALUES (1)"
      return 1, nil, "three"
    end)
    assert.same({ 1, nil, "three" }, { a, b, c })
    assert.same({ 1 }, ids())
  end)

  it("rolls back on an error, which it raises again", function()
    local err = failure(db.transaction, db, function(tx)
      tx:exec "INSERT INTO t VALUES (1)"
      error(nebula.error { kind = "validation", message = "no" })
    end)
    assert.equal("validation", err.kind)
    assert.same({}, ids())
  end)

  it("nests as savepoints", function()
    db:transaction(function(tx)
      tx:exec "INSERT INTO t VALUES (1)"
      local err = failure(tx.transaction, tx, function(inner)
        inner:exec "INSERT INTO t VALUES (2)"
        inner:exec "INSERT INTO t VALUES (1)"
      end)
      assert.equal("conflict", err.kind)
      tx:transaction(function(inner)
        inner:exec "INSERT INTO t VALUES (3)"
        failure(inner.transaction, inner, function(deeper)
          deeper:exec "INSERT INTO t VALUES (4)"
          error "no"
        end)
      end)
      failure(tx.transaction, tx, function(inner)
        inner:exec "INSERT INTO t VALUES (5)"
        error "the last thing before COMMIT"
      end)
    end)
    assert.same({ 1, 3 }, ids())
  end)

  it("says so where a caught error has aborted it", function()
    local err = failure(db.transaction, db, function(tx)
      tx:exec "INSERT INTO t VALUES (1)"
      nebula.try(tx.exec, tx, "INSERT INTO t VALUES (1)")
    end)
    assert.equal("25P02", err.code)
    assert.same({}, ids())
  end)

  it("refuses its handle after its end, by name", function()
    local kept
    db:transaction(function(tx)
      kept = tx
      tx:exec "INSERT INTO t VALUES (1)"
    end)
    local err = failure(kept.exec, kept, "INSERT INTO t VALUES (2)")
    assert.equal("validation", err.kind)
    assert.matches("has ended", err.message)
    local inner_kept
    db:transaction(function(tx)
      tx:transaction(function(inner) inner_kept = inner end)
      assert.matches("has ended", failure(inner_kept.value, inner_kept, "SELECT 1").message)
    end)
  end)

  it("refuses COMMIT inside, by name", function()
    failure(db.transaction, db, function(tx)
      assert.matches("COMMIT is done by :transaction", failure(tx.exec, tx, "COMMIT").message)
      error "no"
    end)
  end)

  it("sends nothing where nothing is done", function()
    local before = db:stats().requests
    assert.equal(5, db:transaction(function() return 5 end))
    assert.is_true(db:stats().requests <= before + 1)
  end)

  it("takes its level and its mode", function()
    local level = db:transaction(function(tx) return tx:value "SHOW transaction_isolation" end,
      { isolation = "serializable" })
    assert.equal("serializable", level)
    local err = failure(db.transaction, db, function(tx) tx:exec "INSERT INTO t VALUES (1)" end, { read_only = true })
    assert.equal("25006", err.code)
    assert.matches("isolation", failure(db.transaction, db, print, { isolation = "snapshot" }).message)
    assert.matches("isolation", failure(db.transaction, db, print, { isolatoin = "serializable" }).message)
  end)

  it("ends at its deadline, rolled back", function()
    local err = failure(db.transaction, db, function(tx)
      tx:exec "INSERT INTO t VALUES (1)"
      tx:exec "SELECT pg_sleep(30)"
    end, { deadline = "100ms" })
    assert.equal("timeout", err.kind)
    assert.same({}, ids())
    assert.same({ 1, 2 }, { db:transaction(function(tx) return 1, tx:value "SELECT 2" end, { deadline = 10 }) })
  end)

  it("and an acquired connection show their name to the server, and lose it at their end", function()
    local one <close> = nebula.pg.connect { url = postgres.database(), max_connections = 1, application_name = "mine" }
    local function shown(what) return what:value "SELECT current_setting('application_name')" end
    assert.equal("mine: nightly", one:transaction(shown, { name = "nightly" }))
    assert.equal("mine: o?brien? DROP", one:transaction(shown, { name = "o'brien; DROP", isolation = "serializable" }))
    assert.equal("mine", shown(one))
    do
      local held <close> = one:acquire { name = "import" }
      assert.equal("mine: import", shown(held))
      assert.equal("mine: part", held:transaction(shown, { name = "part" }))
      assert.equal("mine: import", shown(held))
    end
    do
      local copying <close> = one:acquire { name = "copy" }
      local out = {}
      copying:copy_out("SELECT current_setting('application_name')", function(piece) out[#out + 1] = piece end)
      assert.equal("mine: copy\n", table.concat(out))
    end
    assert.equal("mine", shown(one))
    assert.matches("did you mean 'name'", select(2, nebula.try(one.acquire, one, { nane = "x" })).message)
  end)

  it("runs again after a serialization failure, until the sum is exact", function()
    for i = 1, 4 do db:exec("INSERT INTO t VALUES ($1)", i) end
    local list = {}
    for i = 1, 64 do list[i] = i end
    task.map(list, function(i)
      db:transaction(function(tx)
        local n = tx:value("SELECT sum(n) FROM t")
        tx:exec("UPDATE t SET n = n + 1 + 0 * $2::int WHERE id = $1", i % 4 + 1, tonumber(n))
      end, { isolation = "serializable", retries = 1000 })
    end, { concurrency = 16 })
    assert.equal(64, db:value "SELECT sum(n) FROM t")
  end)

  it("calls on_commit functions after the commit alone", function()
    local calls = {}
    db:transaction(function(tx)
      tx:exec "INSERT INTO t VALUES (1)"
      tx:on_commit(function() calls[#calls + 1] = db:value "SELECT count(*) FROM t" end)
      nebula.try(tx.transaction, tx, function(inner)
        inner:on_commit(function() calls[#calls + 1] = "undone" end)
        error "no"
      end)
      tx:transaction(function(inner) inner:on_commit(function() calls[#calls + 1] = "inner" end) end)
    end)
    nebula.try(db.transaction, db, function(tx)
      tx:exec "INSERT INTO t VALUES (2)"
      tx:on_commit(function() calls[#calls + 1] = "never" end)
      error "no"
    end)
    assert.same({ 1, "inner" }, calls)
  end)

  it("rolls back where its task is cancelled, and hits nobody else", function()
    local one = pg.connect { url = url, max_connections = 2 }
    for i = 1, 60 do
      local started = task.channel(1)
      local victim = task.spawn(function()
        one:transaction(function(tx)
          tx:exec("INSERT INTO t VALUES ($1)", i)
          started:send(true)
          tx:exec "SELECT pg_sleep(30)"
        end)
      end)
      started:receive()
      victim:cancel()
      assert.equal("cancelled", failure(victim.join, victim).kind)
      assert.equal(i, one:value("SELECT $1::int", i))
    end
    assert.same({}, ids())
    one:close()
  end)

  it("keeps an acquired connection's state to itself", function()
    local one = pg.connect { url = url, max_connections = 1 }
    do
      local c <close> = one:acquire()
      c:exec "SET search_path = pg_catalog"
      c:exec "CREATE TEMP TABLE mine (a int)"
      c:exec "BEGIN"
      c:exec "INSERT INTO public.t VALUES (1)"
    end
    assert.equal('"$user", public', one:value "SHOW search_path")
    assert.is_nil(one:value "SELECT to_regclass('mine')")
    assert.same({}, ids())
    do
      local c <close> = one:acquire()
      c:transaction(function(tx) tx:exec "INSERT INTO t VALUES (2)" end)
      failure(c.transaction, c, function(tx)
        tx:exec "INSERT INTO t VALUES (3)"
        error "no"
      end)
      assert.equal(1, c:value "SELECT count(*) FROM t")
    end
    assert.same({ 2 }, ids())
    one:close()
  end)
end)
