-- A pool under its users: too many of them, forgetful ones, hostile ones, and a schema that changes
-- under their statements.
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local proxy = require "spec.support.proxy"
local stopwatch = require "spec.support.stopwatch"
local json, pg, task = nebula.json, nebula.pg, nebula.task

local LONG = os.getenv "NEBULA_SPEC_LONG"

local function failure(fn, ...)
  local value, err = nebula.try(fn, ...)
  assert.is_nil(value)
  return err
end

local function numbers(n)
  local list = {}
  for i = 1, n do list[i] = i end
  return list
end

describe("pg pool under its users", function()
  local url = postgres.database()

  it("serves 1,000 waiters on 4 connections in the order of their coming", function()
    local db <close> = pg.connect { url = url, max_connections = 4 }
    local held = {}
    for i = 1, 4 do held[i] = db:acquire() end
    local order, waiting = {}, {}
    for i = 1, 1000 do
      waiting[i] = task.spawn(function()
        local connection <close> = db:acquire()
        order[#order + 1] = i
        return connection:value("SELECT $1::int", i)
      end)
    end
    task.yield()
    assert.equal(1000, db:stats().waiting)
    for _, connection in ipairs(held) do connection:close() end
    for i, one in ipairs(waiting) do assert.equal(i, one:join()) end
    assert.same(numbers(1000), order)
  end)

  it("tells 1,000 waiters who holds the connections, when their time is over", function()
    local db <close> = pg.connect { url = url, max_connections = 4, connection_timeout = 0.3 }
    local held = {}
    while #held < 4 do held[#held + 1] = nebula.try(db.acquire, db) end -- connecting may take longer
    local timeouts, began, elapsed, cpu = db:stats().timeouts, nebula.time.monotonic(), stopwatch(), os.clock()
    local errors = task.map(numbers(1000), function() return failure(db.value, db, "SELECT 1") end,
      { concurrency = 1000 })
    local took = elapsed() - (os.clock() - cpu) -- 1,000 errors with their tracebacks are made as well
    assert.is_true(nebula.time.monotonic() - began >= 0.3)
    if LONG then assert.is_true(took < 0.35, took) end
    assert.equal(1000, #errors)
    for _, err in ipairs(errors) do
      assert.equal("pool", err.kind)
      assert.matches("pool_spec.lua:%d+ for %d+%.%d s, ", err.message)
    end
    assert.equal(1000, db:stats().timeouts - timeouts)
    for _, connection in ipairs(held) do connection:close() end
    assert.equal(1, db:value "SELECT 1")
  end)

  it("names a task that waits for itself inside its transaction, whatever it asks for", function()
    local db <close> = pg.connect { url = url, max_connections = 1, connection_timeout = 30 }
    db:transaction(function(tx)
      assert.equal(1, tx:value "SELECT 1")
      for _, call in ipairs {
        function() return db:value "SELECT 1" end,
        function() return db:acquire() end,
        function() return db:transaction(function() end) end,
        function() return db:batch { { "SELECT 1" } } end,
        function() return db:copy_out("SELECT 1", print) end,
        function() for _ in db:rows "SELECT 1" do break end return nil end,
      } do
        local _, err = nebula.try(call)
        assert.equal("pool", err and err.kind)
        assert.matches("this task", err.message)
      end
    end)
  end)

  it("gets back what is dropped, left by an error or cancelled, thousands of times", function()
    local db <close> = pg.connect { url = url, max_connections = 4 }
    db:exec "CREATE TABLE dropped (n int)"
    local ways = {
      function(n) -- forgotten: the collector gives it back
        db:acquire():exec("INSERT INTO dropped SELECT $1::int WHERE false", n)
        collectgarbage()
      end,
      function(n)
        db:transaction(function(tx)
          tx:exec("INSERT INTO dropped VALUES ($1)", n)
          error "on purpose"
        end)
      end,
      function(n)
        local connection <close> = db:acquire()
        connection:exec "BEGIN"
        connection:exec("INSERT INTO dropped VALUES ($1)", n)
        error "in its own transaction"
      end,
      function(n)
        db:transaction(function(tx)
          tx:exec("INSERT INTO dropped VALUES ($1)", n)
          tx:transaction(function(inner) inner:exec "SELECT no_such_column" end)
        end)
      end,
      function(n)
        local one = task.spawn(function()
          db:transaction(function(tx)
            tx:exec("INSERT INTO dropped VALUES ($1)", n)
            task.sleep(60)
          end)
        end)
        task.yield()
        one:cancel()
        nebula.try(one.join, one)
      end,
    }
    task.map(numbers(LONG and 10000 or 1500), function(n) nebula.try(ways[n % #ways + 1], n) end, { concurrency = 16 })
    collectgarbage()
    assert.equal(0, db:value "SELECT count(*) FROM dropped")
    task.deadline(40, function() while db:stats().held + db:stats().busy > 0 do task.sleep(0.01) end end)
    assert.is_true(db:stats().connections <= 4)
    assert.equal(0, db:value [[SELECT count(*) FROM pg_stat_activity
      WHERE datname = current_database() AND state LIKE 'idle in transaction%']])
  end)

  it("shows no error of 50 changes of a table under statements that use it", function()
    local db <close> = pg.connect { url = url, max_connections = 6 }
    db:exec "CREATE TABLE changing (id int PRIMARY KEY, a int)"
    db:exec "INSERT INTO changing SELECT i, i FROM generate_series(1, 10) AS i"
    local over, read = false, 0
    task.scope(function(scope)
      for _ = 1, 12 do
        scope:spawn(function()
          while not over do
            local id = math.random(10)
            local row = db:one("SELECT * FROM changing WHERE id = $1", id)
            assert.equal(id, row.id)
            assert.equal(1, db:exec("UPDATE changing SET a = a + 1 WHERE id = $1", id))
            read = read + 1
          end
        end)
      end
      for i = 1, 50 do
        local before = read
        db:exec(("ALTER TABLE changing %s"):format(i % 2 == 1 and "ADD COLUMN b text DEFAULT 'x'" or "DROP COLUMN b"))
        while read < before + 24 do task.sleep(0.001) end
      end
      over = true
    end)
    assert.equal(read + 55, db:value "SELECT sum(a) FROM changing")
  end)

  it("commits every one of 16 serializable writers on 4 rows, and the sum is exact", function()
    local db <close> = pg.connect { url = url, max_connections = 16 }
    db:exec "CREATE TABLE accounts (id int PRIMARY KEY, n int NOT NULL)"
    db:exec "INSERT INTO accounts SELECT i, 100 FROM generate_series(1, 4) AS i"
    local runs, each = 0, LONG and 60 or 12
    task.map(numbers(16), function(writer)
      for _ = 1, each do
        local from, to = math.random(4), math.random(4)
        db:transaction(function(tx)
          runs = runs + 1
          local n = tx:value("SELECT n FROM accounts WHERE id = $1", from)
          tx:exec("UPDATE accounts SET n = $2::int - 1 WHERE id = $1", from, n)
          n = tx:value("SELECT n FROM accounts WHERE id = $1", to)
          tx:exec("UPDATE accounts SET n = $2::int + 2 WHERE id = $1", to, n)
        end, { isolation = "serializable", retries = 1000 })
      end
    end, { concurrency = 16 })
    assert.is_true(runs > 16 * each)
    assert.equal(400 + 16 * each, db:value "SELECT sum(n) FROM accounts")
  end)

  it("starts without a server, or a name that nobody knows, and is ready once there is one", function()
    local server <close> = postgres.server()
    local between <close> = proxy.postgres(server)
    between:accept "refuse"
    local db <close> = pg.connect { url = between:url(), max_connections = 2, min_connections = 1 }
    assert.equal("database", failure(db.value, db, "SELECT 1").kind)
    task.deadline(60, function() while db:stats().failed < 5 do task.sleep(0.01) end end)
    between:accept "open"
    task.deadline(60, function() while db:stats().idle == 0 do task.sleep(0.01) end end)
    assert.equal(1, db:value "SELECT 1")
    local nowhere <close> = pg.connect { url = "postgresql://nobody@no-such-host.invalid/x" }
    assert.matches("no%-such%-host.invalid cannot be resolved", failure(nowhere.value, nowhere, "SELECT 1").message)
    local either <close> = pg.connect {
      url = ("postgresql://nebula@no-such-host.invalid,127.0.0.1:%d/nebula?sslmode=disable"):format(between.port),
    }
    assert.equal(1, either:value "SELECT 1")
  end)

  it("stores 200 hostile texts as they are, through every door, and runs none of them", function()
    local db <close> = pg.connect { url = url, max_connections = 2 }
    db:exec "CREATE TABLE doors (n int, t text); CREATE TABLE canary (t text)"
    local pieces = { "'", "''", '"', "\\", "\\'", ";", "--", "/*", "*/", "$$", "$1", "$a$", "E'", "\n", "\r", "\t",
      "\\.", "\\N", "%", "\u{2019}", "\u{FF07}", "DROP TABLE canary", "INSERT INTO canary VALUES ('x')", "COMMIT", "x" }
    local heard, order = {}, {}
    local _listening <close> = db:listen("doors", function(payload) heard[#heard + 1] = payload end)
    for n = 1, 200 do
      local parts = {}
      for i = 1, math.random(2, 6) do parts[i] = pieces[math.random(#pieces)] end
      local text = table.concat(parts, math.random(2) == 1 and " " or "")
      order[n] = text
      assert.equal(text, db:value("SELECT $1::text", text))
      assert.equal(text, db:value("SELECT " .. pg.literal(text)))
      assert.equal(text, db:value("SELECT $1::jsonb", pg.json { text })[1])
      assert.equal(text, db:value("SELECT $1::text[]", { text })[1])
      assert.equal(text, db:value("SELECT $1::bytea", pg.bytea(text)))
      local name = text:sub(1, 40)
      if utf8.len(name) then assert.equal(name, db:query("SELECT 1 AS " .. pg.ident(name)).fields[1].name) end
      db:copy_in("COPY doors FROM STDIN", { { n, text } })
      local out = {}
      db:copy_out("SELECT to_json($1::text)", function(piece) out[#out + 1] = piece end,
        { args = { text }, format = "ndjson" })
      assert.equal(text, json.decode(table.concat(out)))
      db:notify("doors", text)
    end
    for _, row in ipairs(db:query "SELECT n, t FROM doors") do assert.equal(order[row.n], row.t) end
    assert.equal(200, db:value "SELECT count(*) FROM doors")
    assert.equal(0, db:value "SELECT count(*) FROM canary")
    task.deadline(60, function() while #heard < 200 do task.sleep(0.01) end end)
    assert.same(order, heard)
  end)
end)
