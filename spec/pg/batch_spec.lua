-- batch: several statements in one round trip.
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local pg, task = nebula.pg, nebula.task

local function failure(fn, ...)
  local value, err = nebula.try(fn, ...)
  assert.is_nil(value)
  return err
end

describe("pg batch", function()
  local url = postgres.database()
  local db = pg.connect { url = url, max_connections = 2 }
  db:exec [[CREATE TABLE items (id int PRIMARY KEY, name text, tags text[], data jsonb);
    CREATE TABLE parents (id int PRIMARY KEY);
    CREATE TABLE children (id int REFERENCES parents DEFERRABLE INITIALLY DEFERRED)]]

  before_each(function() db:exec "TRUNCATE items" end)
  teardown(function() db:close() end)

  it("says what the server refused a statement with whose table cannot be sent without its type", function()
    local connection <close> = db:acquire()
    for _, on in ipairs { db, connection } do
      local err = failure(on.batch, on, { "SELECT 1", { "SELECT * FROM nowhere WHERE id = ANY ($1)", { 1, 2 } } })
      assert.same({ "database", "42P01" }, { err.kind, err.code })
    end
    assert.equal(1, db:value "SELECT 1")
  end)

  it("gives the results in order, with typed parameters", function()
    local results = db:batch {
      { "INSERT INTO items VALUES ($1, $2, $3, $4)", 1, "a", { "x", "y" }, { deep = { true } } },
      { "INSERT INTO items VALUES ($1, $2, $3, $4)", 2, nebula.null, {}, nebula.null },
      { "INSERT INTO items VALUES ($1, $2, $3, $4)", 3, nil, nil, nil, n = 5 },
      { "SELECT * FROM items WHERE id = $1", 1 },
      "SELECT count(*) AS n FROM items",
      { "DELETE FROM items" },
    }
    assert.equal(6, #results)
    assert.equal(0, results.failed)
    assert.equal(1, results[1].count)
    assert.same({ { id = 1, name = "a", tags = { "x", "y" }, data = { deep = { true } } } }, results[4])
    assert.equal("text[]", results[4].fields[3].type)
    assert.same({ { n = 3 } }, results[5])
    assert.equal(3, results[6].count)
    assert.same({ failed = 0 }, db:batch {})
  end)

  it("does all or nothing, and tells which failed", function()
    local err = failure(db.batch, db, {
      { "INSERT INTO items VALUES (1)" },
      { "INSERT INTO items VALUES ($1)", 1 },
      { "INSERT INTO items VALUES (2)" },
    })
    assert.equal("conflict", err.kind)
    assert.equal("23505", err.code)
    assert.equal(2, err.index)
    assert.equal(0, db:value "SELECT count(*) FROM items")
    assert.equal("23503", failure(db.batch, db, { { "INSERT INTO children VALUES (7)" } }).code) -- at COMMIT
    assert.equal(0, db:value "SELECT count(*) FROM children")
  end)

  it("lets each statement stand for itself where it is told to", function()
    local results = db:batch({
      { "INSERT INTO items VALUES ($1)", 1 },
      { "INSERT INTO items VALUES ($1)", 1 },
      { "SELECT nope" },
      { "INSERT INTO items VALUES ($1)", 2 },
    }, { transaction = false })
    assert.equal(2, results.failed)
    assert.equal(1, results[1].count)
    assert.equal("conflict", results[2].kind)
    assert.equal(2, results[2].index)
    assert.equal("42703", results[3].code)
    assert.equal(1, results[4].count)
    assert.equal(2, db:value "SELECT count(*) FROM items")
  end)

  it("is a part of the transaction it is called in", function()
    local err = failure(db.transaction, db, function(tx)
      tx:batch { { "INSERT INTO items VALUES (1)" }, { "INSERT INTO items VALUES ($1)", 2 } }
      assert.equal(2, tx:value "SELECT count(*) FROM items")
      assert.equal(0, db:value "SELECT count(*) FROM items")
      local inner = failure(tx.transaction, tx, function(savepoint)
        savepoint:batch { { "INSERT INTO items VALUES (3)" }, { "INSERT INTO items VALUES ($1)", 3 } }
      end)
      assert.equal(2, inner.index)
      assert.equal(2, tx:value "SELECT count(*) FROM items")
      assert.equal("validation", failure(tx.batch, tx, { { "SELECT 1" } }, { transaction = false }).kind)
      error "undone"
    end)
    assert.matches("undone", err.message)
    assert.equal(0, db:value "SELECT count(*) FROM items")
  end)

  it("runs on an acquired connection", function()
    local own <close> = db:acquire()
    own:exec "SET application_name = 'batch'"
    local results = own:batch { { "SELECT current_setting('application_name') AS name" }, { "SELECT $1::int AS x", 5 } }
    assert.equal("batch", results[1][1].name)
    assert.equal(5, results[2][1].x)
    assert.equal("conflict", failure(own.batch, own,
      { { "INSERT INTO items VALUES (1)" }, { "INSERT INTO items VALUES (1)" } }).kind)
    assert.equal(0, own:value "SELECT count(*) FROM items")
  end)

  it("may use what an earlier statement makes", function()
    local results = db:batch {
      { "CREATE TEMP TABLE made (a int, b text) ON COMMIT DROP" },
      { "INSERT INTO made VALUES ($1, $2)", 1, "x" },
      { "SELECT * FROM made" },
    }
    assert.same({ { a = 1, b = "x" } }, results[3])
  end)

  it("takes one round trip, however many statements there are", function()
    local list = {}
    for i = 1, 5000 do list[i] = { "INSERT INTO items VALUES ($1, $2)", i, ("x"):rep(100) } end
    local before = db:stats().requests
    assert.equal(5000, #db:batch(list))
    assert.equal(before + 1, db:stats().requests) -- the connection it holds
    assert.equal(5000, db:value "SELECT count(*) FROM items")
  end)

  it("keeps each statement's deadline", function()
    local err = failure(db.batch, db, { { "INSERT INTO items VALUES (1)" }, { "SELECT pg_sleep(60)" } },
      { deadline = 1 })
    assert.equal("timeout", err.kind)
    assert.equal(2, err.index)
    local results = db:batch({ { "SELECT pg_sleep(60)" }, { "SELECT 1 AS x" } },
      { deadline = 1, transaction = false })
    assert.equal("timeout", results[1].kind)
    assert.equal(1, results[2][1].x)
    assert.equal(0, db:value "SELECT count(*) FROM items")
    assert.equal("0", db:value "SELECT current_setting('statement_timeout')")
  end)

  it("begins and ends transactions on an acquired connection, each statement for itself", function()
    local conn <close> = db:acquire()
    local results = conn:batch({
      { "BEGIN" }, { "INSERT INTO items VALUES ($1)", 1 }, { "COMMIT AND CHAIN" }, { "INSERT INTO items VALUES (1)" },
      { "COMMIT AND CHAIN" }, { "SELECT count(*)::int AS n FROM items" }, { "COMMIT" },
    }, { transaction = false })
    assert.equal(1, results.failed)
    assert.equal("23505", results[4].code)
    assert.equal(4, results[4].index)
    assert.equal(1, results[6][1].n)
    assert.equal(1, db:value "SELECT count(*) FROM items")
    for _, own in ipairs { db, conn } do
      assert.equal("validation", failure(own.batch, own, { { "BEGIN" } }, { transaction = own == conn or false }).kind)
    end
  end)

  it("tells rows that cannot be read in their place, where each statement stands for itself", function()
    local deep = ("SELECT (repeat('[', %d) || repeat(']', %d))::jsonb AS deep"):format(5000, 5000)
    local results = db:batch({ { "INSERT INTO items VALUES (1)" }, { deep }, { "SELECT 7 AS x" } },
      { transaction = false })
    assert.same({ "limit", 2 }, { results[2].kind, results[2].index })
    assert.equal(7, results[3][1].x)
    assert.equal("limit", failure(db.batch, db, { { "INSERT INTO items VALUES (2)" }, { deep } }).kind)
  end)

  it("leaves nothing behind where its task is cancelled", function()
    local batch = task.spawn(function()
      db:batch { { "INSERT INTO items VALUES (1)" }, { "SELECT pg_sleep(60) /* here */" }, { "SELECT 1" } }
    end)
    while db:value [[SELECT count(*) FROM pg_stat_activity
      WHERE datname = current_database() AND query LIKE 'SELECT pg_sleep%here */']] == 0 do
      task.sleep(0.01)
    end
    batch:cancel()
    assert.equal("cancelled", failure(batch.join, batch).kind)
    task.deadline(40, function()
      while db:stats().held + db:stats().busy > 0 do task.sleep(0.01) end
    end)
    assert.equal(0, db:value "SELECT count(*) FROM items")
  end)

  it("calls the outcome unknown where the answers were lost", function()
    local own <close> = pg.connect { url = url, max_connections = 1 }
    local batch = task.spawn(function()
      return failure(own.batch, own, { { "SELECT 1" }, { "INSERT INTO items SELECT 1 FROM pg_sleep(60)" } })
    end)
    local pid
    while not pid do
      pid = db:value [[SELECT pid FROM pg_stat_activity
        WHERE datname = current_database() AND query LIKE 'INSERT INTO items SELECT 1 FROM%']]
    end
    db:value("SELECT pg_terminate_backend($1)", pid)
    local err = batch:join()
    assert.truthy(err.kind == "unknown_outcome" or err.code == "57P01", tostring(err))
    assert.equal(0, db:value "SELECT count(*) FROM items")
    assert.equal(1, own:value "SELECT 1")
  end)

  it("refuses what is no batch, before anything is sent", function()
    for _, list in ipairs {
      "SELECT 1", { "SELECT $1::int", 5 }, { { 5 } }, { { "" } }, { { "BEGIN" } }, { { "SELECT 1; SELECT 2" } },
      { { "COPY items TO STDOUT" } }, { { "SELECT $1::int", function() end } },
      { { "INSERT INTO items VALUES (1)" }, { "SELECT $1::int" } },
    } do
      local err = failure(db.batch, db, list)
      assert.is_true(err.kind == "validation" or err.code == "08P01", tostring(err))
    end
    assert.matches("transaction", failure(db.batch, db, {}, { transactoin = true }).message)
    assert.equal(0, db:value "SELECT count(*) FROM items")
  end)
end)
