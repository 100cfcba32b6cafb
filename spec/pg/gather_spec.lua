-- Large results are decoded as they come, once a statement is known to give many rows: what is seen
-- of it must not differ from what one result gives.
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local task = nebula.task

local ROWS = 5000
local SQL = [[
  SELECT i, 'text ' || i AS t, CASE WHEN i % 3 = 0 THEN i / 2.0::float8 END AS f
  FROM generate_series(1, $1) AS i
]]

describe("a large result", function()
  local db

  setup(function() db = nebula.pg.connect { url = postgres.database(), max_connections = 2 } end)
  teardown(function() db:close() end)

  local function check(rows, count)
    assert.equal(count, #rows)
    assert.equal(count, rows.count)
    assert.same({ "i", "t", "f" }, { rows.fields[1].name, rows.fields[2].name, rows.fields[3].name })
    for i = 1, count do
      local row = rows[i]
      if row.i ~= i or row.t ~= "text " .. i or row.f ~= (i % 3 == 0 and i / 2 or nil) then
        assert.same({ i = i, t = "text " .. i, f = i % 3 == 0 and i / 2 or nil }, row)
      end
    end
  end

  it("is the same at the first time and later, whatever its size then is", function()
    for _, count in ipairs { ROWS, ROWS, 100 * ROWS, 1, 0, 511, 512, 513, ROWS } do
      check(db:query(SQL, count), count)
    end
  end)

  it("comes to many tasks at once, and on a held connection", function()
    check(db:query(SQL, ROWS), ROWS)
    task.map({ 1, 2, 3, 4, 5, 6, 7, 8 }, function(i) check(db:query(SQL, ROWS + i), ROWS + i) end)
    db:transaction(function(tx)
      check(tx:query(SQL, ROWS), ROWS)
      assert.equal(1, tx:value "SELECT 1")
    end)
  end)

  it("is whole where its plan became stale, gathered and streamed", function()
    local own <close> = nebula.pg.connect { url = postgres.database(), max_connections = 1 }
    own:exec(("CREATE TABLE shifting AS SELECT i FROM generate_series(1, %d) AS i"):format(ROWS))
    for change = 1, 6 do
      assert.equal(ROWS, #own:query "SELECT * FROM shifting")
      own:exec(("ALTER TABLE shifting ADD COLUMN c%d int DEFAULT %d"):format(change, change))
      if change % 2 == 0 then
        local n = 0
        for row in own:rows "SELECT * FROM shifting" do n = n + row["c" .. change] // change end
        assert.equal(ROWS, n)
      end
    end
  end)

  it("that passes its limit raises, and the connection goes on", function()
    check(db:query(SQL, ROWS), ROWS)
    local _, err = nebula.try(db.query, db, { SQL, max_bytes = 1 << 20 }, 100 * ROWS)
    assert.equal("limit", err.kind)
    check(db:query(SQL, ROWS), ROWS)
  end)

  it("that fails in the middle raises, and nothing of it is seen", function()
    local failing = "SELECT i, 1 / (i - $1::int) AS x FROM generate_series(1, $2) AS i"
    assert.equal(ROWS, #db:query(failing, ROWS + 1, ROWS))
    local _, err = nebula.try(db.query, db, failing, ROWS - 1, ROWS)
    assert.equal("22012", err.code)
    assert.equal(ROWS, #db:query(failing, ROWS + 1, ROWS))
  end)

  it("can be cancelled while it comes, and held up by no one", function()
    check(db:query(SQL, ROWS), ROWS)
    for _ = 1, 20 do
      local reading = task.spawn(function() return db:query(SQL, 200 * ROWS) end)
      task.sleep(math.random() * 0.05)
      reading:cancel()
      assert.equal("cancelled", select(2, nebula.try(reading.join, reading)).kind)
    end
    check(db:query(SQL, ROWS), ROWS)
  end)

  it("gives its connection back also where it is cancelled in the very turn in which rows came", function()
    local own <close> = nebula.pg.connect { url = postgres.database(), max_connections = 2, connection_timeout = 60 }
    check(own:query(SQL, ROWS), ROWS)
    for _ = 1, 60 do
      local reading = task.spawn(function() return own:query(SQL, 60 * ROWS) end)
      local stop = nebula.time.monotonic() + math.random() * 0.03
      while nebula.time.monotonic() < stop do task.yield() end
      reading:cancel()
      nebula.try(reading.join, reading)
      assert.equal(1, own:value "SELECT 1")
    end
  end)

  it("with a value that cannot be decoded raises, and gives its connection back", function()
    local own <close> = nebula.pg.connect { url = postgres.database(), max_connections = 1 }
    local deep = [[
      SELECT (repeat('[', depth) || repeat(']', depth))::json AS j
      FROM (SELECT CASE WHEN i = $1 THEN 20000 ELSE 1 END AS depth FROM generate_series(1, 3000) AS i) AS d
    ]]
    assert.equal(3000, #own:query(deep, 0))
    for _ = 1, 3 do
      local _, err = nebula.try(own.query, own, deep, 100)
      assert.is_truthy(err)
      assert.equal(1, own:value "SELECT 1")
    end
  end)
end)
