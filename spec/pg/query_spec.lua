-- query, one, value, exec, rows: shapes, errors, prepared statements, limits.
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local pg, task = nebula.pg, nebula.task

local function failure(fn, ...)
  local value, err = nebula.try(fn, ...)
  assert.is_nil(value)
  return err
end

describe("pg queries", function()
  local db, url

  setup(function()
    url = postgres.database()
    db = pg.connect { url = url, max_connections = 4 }
    db:exec "CREATE TABLE things (id int PRIMARY KEY, name text)"
  end)
  teardown(function() db:close() end)

  it("gives rows that count and describe themselves out of the way", function()
    local rows = db:query "SELECT g AS id, 'n' || g AS name FROM generate_series(1, 3) g"
    assert.same({ { id = 1, name = "n1" }, { id = 2, name = "n2" }, { id = 3, name = "n3" } }, rows)
    assert.equal(3, rows.count)
    assert.equal("id", rows.fields[1].name)
    assert.equal("int4", rows.fields[1].type)
    assert.equal("text", rows.fields[2].type)
    assert.equal(3, #rows)
  end)

  it("gives nil where there is nothing", function()
    assert.is_nil(db:one "SELECT 1 AS x WHERE false")
    assert.is_nil(db:value "SELECT 1 WHERE false")
    assert.is_nil(db:value "SELECT NULL")
    assert.same({}, db:query "SELECT 1 WHERE false")
  end)

  it("counts affected rows", function()
    assert.equal(2, db:exec("INSERT INTO things VALUES ($1, 'a'), ($2, 'b')", 101, 102))
    assert.equal(2, db:exec "UPDATE things SET name = 'c' WHERE id > 100")
    assert.equal(2, db:exec "DELETE FROM things WHERE id > 100")
    assert.equal(0, db:exec "CREATE TABLE IF NOT EXISTS things (id int)")
  end)

  it("runs several statements in one text", function()
    db:exec "CREATE TABLE one_ (a int); INSERT INTO one_ VALUES (1); -- a comment; with a semicolon\n SELECT ';'"
    assert.equal(1, db:value "SELECT a FROM one_")
    assert.matches("take no parameters", failure(db.exec, db, "SELECT 1; SELECT $1", 1).message)
  end)

  it("tells what the server said", function()
    db:exec "INSERT INTO things VALUES (1, 'x') ON CONFLICT DO NOTHING"
    local err = failure(db.exec, db, "INSERT INTO things VALUES ($1, 'y')", 1)
    assert.equal("conflict", err.kind)
    assert.equal("23505", err.code)
    assert.equal("database", err.source)
    assert.equal("things_pkey", err.constraint)
    assert.matches("Key %(id%)=%(1%) already exists", err.detail)
    err = failure(db.query, db, "SELECT nope FROM things")
    assert.equal("database", err.kind)
    assert.equal("42703", err.code)
    assert.is_false(err.retryable)
    assert.equal("8", err.position)
  end)

  it("refuses transaction control on a shared connection by name", function()
    for _, sql in ipairs { "BEGIN", "commit", "/* x */ ROLLBACK", "START TRANSACTION", "SAVEPOINT a",
      "SELECT 1; COMMIT", "PREPARE TRANSACTION 'x'", "END", "abort", "RELEASE a" } do
      local err = failure(db.exec, db, sql)
      assert.equal("validation", err.kind, sql)
      assert.matches("transaction", err.message)
    end
    assert.equal(0, db:exec "CREATE FUNCTION f() RETURNS int LANGUAGE SQL BEGIN ATOMIC SELECT 1; SELECT 2; END")
    assert.equal(0, db:exec "DO $$ BEGIN PERFORM 1; END $$")
  end)

  it("refuses an unknown option of a statement", function()
    assert.matches("deadline, prepare and max_bytes", failure(db.query, db, { "SELECT 1", dedline = 1 }).message)
    assert.matches("wants SQL", failure(db.query, db, 5).message)
    assert.matches("empty", failure(db.query, db, " -- nothing").message)
  end)

  it("never lets an error touch a neighbour", function()
    local one = pg.connect { url = url, max_connections = 1 }
    for _ = 1, 2 do
      one:value("SELECT $1::int", 1)
      nebula.try(one.value, one, "SELECT 1 / $1::int", 1)
    end
    local list = {}
    for i = 1, 200 do list[i] = i end
    task.deadline(120, function()
      repeat -- until some have shared the connection, which a busy machine takes for long at first
        task.map(list, function(i)
          if i % 3 == 0 then
            local _, err = nebula.try(one.value, one, "SELECT 1 / $1::int", 0)
            assert.equal("22012", err.code)
          else
            assert.equal(i, one:value("SELECT $1::int", i))
          end
        end, { concurrency = 200 })
      until one:stats().pipelined > 0
    end)
    one:close()
  end)

  it("prepares again once where a plan became stale", function()
    local one = pg.connect { url = url, max_connections = 1 }
    one:exec "CREATE TABLE shifting (a int)"
    one:exec "INSERT INTO shifting VALUES (1)"
    for _ = 1, 3 do one:one "SELECT * FROM shifting" end
    for i = 1, 20 do
      one:exec(("ALTER TABLE shifting ADD COLUMN b%d int DEFAULT %d"):format(i, i))
      assert.equal(i, one:one("SELECT * FROM shifting")["b" .. i])
    end
    one:close()
  end)

  it("prepares again where the server forgot", function()
    local one = pg.connect { url = url, max_connections = 1 }
    for i = 1, 3 do assert.equal(i, one:value("SELECT $1::int", i)) end
    one:exec "DEALLOCATE ALL"
    assert.equal(4, one:value("SELECT $1::int", 4))
    one:close()
  end)

  it("works without a statement cache", function()
    local one = pg.connect { url = url, max_connections = 1, statement_cache = false }
    for i = 1, 3 do assert.equal(i, one:value("SELECT $1::int", i)) end
    assert.same({ 1, 2 }, one:value("SELECT $1::int[]", { 1, 2 }))
    assert.equal("UTC", one:value "SHOW TimeZone")
    one:close()
  end)

  it("refuses a result over its limit, and goes on", function()
    local err = failure(db.query, db, { "SELECT repeat('x', 1000) FROM generate_series(1, 5000)", max_bytes = 100000 })
    assert.equal("limit", err.kind)
    assert.matches("rows", err.message)
    assert.equal(1, db:value "SELECT 1")
  end)

  it("ends a statement at its deadline", function()
    local err = failure(db.value, db, { "SELECT pg_sleep(10)", deadline = 0.1 })
    assert.equal("timeout", err.kind)
    assert.is_nil(nebula.try(db.value, db, { "SELECT pg_sleep($1)", deadline = "100ms" }, 10))
    assert.equal("0", db:value "SHOW statement_timeout")
  end)

  it("streams rows, and cancels what is left early", function()
    local sum = 0
    for row in db:rows("SELECT g FROM generate_series(1, $1) g", 5000) do sum = sum + row.g end
    assert.equal(12502500, sum)
    for row in db:rows "SELECT generate_series(1, 1000000000) AS g" do
      if row.g == 3 then break end
    end
    assert.matches("division by zero", failure(function()
      for row in db:rows "SELECT 1 / (3 - g) FROM generate_series(1, 5) g" do assert(row) end
    end).message)
    local one = pg.connect { url = url, max_connections = 1, connection_timeout = 20 }
    for row in one:rows "SELECT generate_series(1, 1000000000) AS g" do
      if row.g == 3 then break end
    end
    assert.equal(1, one:value "SELECT 1")
    one:close()
  end)

  it("tells a reader who is behind of its deadline, and keeps the connection", function()
    local sql = "SELECT repeat('x', 1000) AS x FROM generate_series(1, 100000)"
    local before, read = db:stats().closed, 0
    local err = failure(function()
      for _ in db:rows { sql, deadline = 0.2 } do
        read = read + 1
        if read == 1 then task.sleep(0.5) end -- the stream is full, and the deadline passes
      end
    end)
    assert.equal("timeout", err.kind, err.message)
    assert.is_true(read < 100000)
    assert.equal(1, db:value "SELECT 1")
    assert.equal(before, db:stats().closed)
  end)

  it("gives a stream with a deadline its own rows alone", function()
    local got = {}
    for row in db:rows({ "SELECT $1::int + i AS x FROM generate_series(1, 3) AS i", deadline = 60 }, 10) do
      got[#got + 1] = row
    end
    assert.same({ { x = 11 }, { x = 12 }, { x = 13 } }, got)
  end)

  it("streams inside a transaction without disturbing it", function()
    local sum = db:transaction(function(tx)
      local sum = 0
      for row in tx:rows("SELECT g FROM generate_series(1, $1) g", 600) do
        sum = sum + tx:value("SELECT $1::int", row.g)
      end
      for row in tx:rows "SELECT generate_series(1, 1000000000) AS g" do
        if row.g == 3 then break end
      end
      for row in tx:rows "INSERT INTO things VALUES (900, 'r') RETURNING id" do sum = sum + row.id end
      return sum
    end)
    assert.equal(180300 + 900, sum)
  end)
end)
