-- What a connection may keep, send and read: each bound, and what happens at it.
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local pg, task = nebula.pg, nebula.task

local PREPARED = {
  "SELECT statement, generic_plans + custom_plans AS runs FROM pg_prepared_statements", prepare = false,
}

-- Who waits for this transaction.
local WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"

local function memory()
  for line in io.lines "/proc/self/status" do
    local kilobytes = line:match "^VmRSS:%s+(%d+)"
    if kilobytes then return tonumber(kilobytes) * 1024 end
  end
end

describe("a connection", function()
  local url

  setup(function() url = postgres.database() end)

  local function prepared(db)
    local runs, count = {}, 0
    for _, row in ipairs(db:query(PREPARED)) do
      runs[row.statement] = row.runs
      count = count + 1
    end
    return runs, count
  end

  -- Runs fn until statements have shared the connection: where the machine is busy, short ones are long at first.
  local function until_shared(db, fn)
    task.deadline(120, function()
      repeat fn() until db:stats().pipelined > 0
    end)
  end

  it("keeps as many prepared statements as it may, and the ones used last", function()
    local db <close> = pg.connect { url = url, max_connections = 1, statement_cache = 4 }
    local function sql(i) return ("SELECT $1::int + %d"):format(i) end
    for i = 1, 20 do
      assert.equal(i, db:value(sql(i), 0))
      assert.equal(1001, db:value(sql(1000), 1))
      local runs, count = prepared(db)
      assert.is_true(count <= 4, count .. " are prepared")
      assert.equal(1, runs[sql(i)])
      assert.equal(i, runs[sql(1000)], "it was prepared again")
    end
    local runs = prepared(db)
    for _, i in ipairs { 18, 19, 20, 1000 } do assert.is_truthy(runs[sql(i)], i) end
    assert.equal(7, db:value(sql(3), 4)) -- one that has left
    assert.equal(1, prepared(db)[sql(3)])
  end)

  it("keeps its bound while many tasks share it", function()
    local db <close> = pg.connect { url = url, max_connections = 1, statement_cache = 3 }
    local list = {}
    for i = 1, 400 do list[i] = i end
    until_shared(db, function()
      task.map(list, function(i)
        assert.equal(i, db:value(("SELECT $1::int + %d"):format(i % 7), i - i % 7))
      end, { concurrency = 40 })
    end)
    assert.equal(3, select(2, prepared(db)))
  end)

  it("prepares nothing without a cache, nor what it was told not to", function()
    local none <close> = pg.connect { url = url, max_connections = 1, statement_cache = false }
    local some <close> = pg.connect { url = url, max_connections = 1 }
    for i = 1, 5 do
      assert.equal(i, none:value("SELECT $1::int", i))
      assert.equal(i, none:batch { { "SELECT $1::int AS i", i } }[1][1].i)
      assert.equal(i, none:transaction(function(tx) return tx:value("SELECT $1::int", i) end))
      assert.equal(i, some:value({ "SELECT $1::int", prepare = false }, i))
    end
    assert.same({}, prepared(none))
    assert.equal(0, select(2, prepared(some)))
    some:value("SELECT $1::int", 1)
    assert.equal(1, select(2, prepared(some)))
  end)

  it("has a bounded number of bytes under way, and sends the rest as the answers come", function()
    local db <close> = pg.connect { url = url, max_connections = 2 }
    local COUNT, text = 600, ("x"):rep(256 << 10)
    db:exec "CREATE TABLE held (id int); INSERT INTO held VALUES (1)"
    local list = { { "SELECT id FROM held FOR UPDATE" } }
    for i = 1, COUNT do list[i + 1] = { "SELECT $1::int AS i, length($2) AS n", i, text } end
    db:value("SELECT length($1)", text)
    local results
    db:transaction(function(tx)
      tx:exec "SELECT id FROM held FOR UPDATE"
      local before = memory()
      task.spawn(function() results = db:batch(list) end)
      while tx:value(WAITING) == 0 do task.sleep(0.01) end
      for _ = 1, 20 do tx:value "SELECT 1" end -- the loop has had time to send all it would
      assert.is_nil(results)
      assert.is_true(memory() - before < 64 << 20, "a copy of all was made")
    end)
    while not results do task.sleep(0.01) end
    for i = 1, COUNT do assert.same({ { i = i, n = #text } }, results[i + 1]) end
  end)

  it("gives tasks with long parameters their own answers, one connection or many", function()
    for _, connections in ipairs { 1, 4 } do
      local db <close> = pg.connect { url = url, max_connections = connections }
      local list = {}
      for i = 1, 120 do list[i] = i end
      db:value("SELECT left($1, 10) || length($1)", "x")
      task.map(list, function(i)
        local text = ("%010d"):format(i) .. ("y"):rep(i % 3 * (700 << 10))
        assert.equal(text:sub(1, 10) .. #text, db:value("SELECT left($1, 10) || length($1)", text))
      end, { concurrency = 60 })
    end
  end)

  it("reads no result beyond its limit, and its neighbours' are whole", function()
    local db <close> = pg.connect { url = url, max_connections = 1, max_bytes = 1 << 20 }
    local sql = "SELECT repeat('x', $1) AS x"
    for _ = 1, 3 do db:value(sql, 10) end
    local pid = db:value "SELECT pg_backend_pid()"
    local list = {}
    for i = 1, 90 do list[i] = i end
    until_shared(db, function()
      task.map(list, function(i)
        local size = i % 9 == 0 and 2 << 20 or i
        local value, err = nebula.try(db.value, db, sql, size)
        if i % 9 == 0 then
          assert.is_nil(value)
          assert.equal("limit", err.kind)
        else
          assert.equal(("x"):rep(i), value)
        end
      end, { concurrency = 30 })
    end)
    assert.equal(pid, db:value "SELECT pg_backend_pid()")
  end)

  it("streams more than its limit, whose rows are each within it", function()
    local db <close> = pg.connect { url = url, max_connections = 1, max_bytes = 100000 }
    local n = 0
    for row in db:rows "SELECT repeat('x', 50000) AS x FROM generate_series(1, 200)" do n = n + #row.x end
    assert.equal(200 * 50000, n)
    local seen = 0
    local _, err = nebula.try(function()
      for _ in db:rows "SELECT repeat('x', i * 1000) AS x FROM generate_series(1, 1000) AS i" do seen = seen + 1 end
    end)
    assert.equal("limit", err.kind)
    assert.is_true(seen > 50 and seen < 200, seen .. " rows were read")
    assert.equal(1, db:value "SELECT 1")
  end)
end)
