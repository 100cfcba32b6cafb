-- Readers of a type's values that a script brings itself.
local child = require "spec.support.child"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local pg, task = nebula.pg, nebula.task

local function failure(fn, ...)
  local value, err = nebula.try(fn, ...)
  assert.is_nil(value)
  return err
end

local function point(text)
  local x, y = text:match "^%((.-),(.-)%)$"
  return { x = tonumber(x), y = tonumber(y) }
end

describe("a decoder of a script's own", function()
  local url, db

  setup(function() url = postgres.database() end)
  before_each(function() db = pg.connect { url = url, max_connections = 2 } end)
  after_each(function() db:close() end)

  it("reads its type in every shape of a result", function()
    local sql = "SELECT 1 AS i, point(1.5, $1) AS p, NULL::point AS none, 'x' AS p2"
    assert.equal("(1.5,2)", db:one(sql, 2).p)
    db:decoder("point", point)
    local row = { i = 1, p = { x = 1.5, y = 2 }, p2 = "x" }
    assert.same({ row }, db:query(sql, 2))
    assert.same(row, db:one(sql, 2))
    assert.same(row.p, db:value "SELECT point(1.5, 2), 'x'")
    assert.equal("x", db:value "SELECT 'x', point(1, 2)")
    assert.is_nil(db:value "SELECT NULL::point")
    assert.equal(1, db:exec(sql, 2))
    assert.same({ row }, db:batch { { sql, 2 } }[1])
    for read in db:rows(sql, 2) do assert.same(row, read) end
    db:transaction(function(tx)
      assert.same(row, tx:one(sql, 2))
      for read in tx:rows(sql, 2) do assert.same(row, read) end
    end)
    local many = "SELECT i, point(i, -i) AS p FROM generate_series(1, $1) AS i"
    for _ = 1, 2 do -- the second time row by row
      local rows = db:query(many, 1000)
      assert.equal(1000, #rows)
      for i = 1, 1000 do assert.same({ i = i, p = { x = i, y = -i } }, rows[i]) end
    end
  end)

  it("reads arrays of its type, in any dimension, and nil is NULL", function()
    db:decoder("point", function(text)
      if text ~= "(0,0)" then return point(text) end
    end)
    local a, b = { x = 1, y = 2 }, { x = 3, y = 4 }
    assert.same({ a, nebula.null, b }, db:value "SELECT ARRAY[point(1, 2), NULL, point(3, 4)]")
    assert.same({ { a }, { b } }, db:value "SELECT ARRAY[[point(1, 2)], [point(3, 4)]]")
    assert.same({}, db:value "SELECT '{}'::point[]")
    assert.same({ nebula.null }, db:value "SELECT ARRAY[point(0, 0)]")
    assert.is_nil(db:one("SELECT point(0, 0) AS p").p)
  end)

  it("gets the server's exact text, of types that the pool reads itself too", function()
    local sql = [[SELECT $1::int8 AS i, '1.50'::numeric AS n, ARRAY[7]::int8[] AS list, 'NULL'::text AS t,
      '2026-11-22 17:58:03.12+00'::timestamptz AS at]]
    for _ = 1, 3 do assert.equal(5, db:one(sql, 5).i) end -- prepared, in binary where that pays
    for _, name in ipairs { "int8", "numeric", "text", "timestamp with time zone" } do
      db:decoder(name, function(text) return { name, text } end)
    end
    local expected = {
      i = { "int8", "5" }, n = { "numeric", "1.50" }, list = { { "int8", "7" } }, t = { "text", "NULL" },
      at = { "timestamp with time zone", "2026-11-22 17:58:03.12+00" },
    }
    for _ = 1, 3 do assert.same(expected, db:one(sql, 5)) end
    for _ = 1, 3 do assert.same({ "int8", "9" }, db:value("SELECT $1::int8", 9)) end
    db:decoder("int8", nil)
    for _ = 1, 3 do assert.equal(9, db:value("SELECT $1::int8", 9)) end
  end)

  it("reads what extensions and schemas define, by any name that SQL knows", function()
    db:exec "CREATE SCHEMA s; CREATE TYPE s.mood AS ENUM ('sad', 'ok'); CREATE DOMAIN s.age AS int"
    db:decoder("s.mood", string.upper)
    assert.equal("OK", db:value "SELECT 'ok'::s.mood")
    assert.same({ "SAD", "OK" }, db:value "SELECT ARRAY['sad', 'ok']::s.mood[]")
    assert.matches("is a domain", failure(db.decoder, db, "s.age", tonumber).message)
    assert.matches("knows no type s.moods", failure(db.decoder, db, "s.moods", tonumber).message)
    assert.matches("wants a function", failure(db.decoder, db, "s.mood", "upper").message)
    assert.matches("wants the name of a type, got number", failure(db.decoder, db, 600, point).message)
  end)

  it("that raises fails its call alone, and the connection goes on", function()
    local own = setmetatable({ kind = "mine" }, { __tostring = function() return "mine" end })
    db:decoder("point", function(text)
      if text == "(1,1)" then error(own) end
      error "no point"
    end)
    local calls = {
      function(sql) return db:query(sql) end,
      function(sql) return db:one(sql) end,
      function(sql) return db:batch { { sql } } end,
      function(sql) for _ in db:rows(sql) do error "a row" end end,
      function(sql) db:transaction(function(tx) return tx:query(sql) end) end,
    }
    for _ = 1, 3 do
      for _, call in ipairs(calls) do
        local err = failure(call, "SELECT point(1, 2) AS p")
        assert.equal("script", err.kind)
        assert.matches("column p: its decoder failed: .*decoders_spec.lua:%d+: no point", err.message)
        local _, raised = pcall(call, "SELECT point(1, 1) AS p")
        assert.equal("mine", raised.kind)
      end
    end
    local results = db:batch({ { "SELECT 1 AS i" }, { "SELECT point(1, 2) AS p" } }, { transaction = false })
    assert.same({ { i = 1 } }, results[1])
    assert.equal("script", results[2].kind)
    child.await("every connection back", 60, function() -- one is still cancelling the loop that was left
      local stats = db:stats()
      return stats.held == 0 and stats.busy == 0
    end)
  end)

  it("cannot wait, and whatever it asks of the pool harms no result", function()
    local one <close> = pg.connect { url = url, max_connections = 1 }
    one:decoder("point", function() return one:value "SELECT 1" end)
    for _ = 1, 3 do
      local err = failure(one.query, one, "SELECT point(1, 2) AS p")
      assert.matches("pool:value cannot wait here", err.message)
    end
    local inner
    one:decoder("point", function(text)
      local ok = pcall(one.value, one, "SELECT 1")
      local wrapped = pcall(coroutine.wrap(function() return one:value "SELECT 1" end))
      pcall(task.sleep, 0.01)
      if inner then pcall(inner) end
      return { text, ok, wrapped }
    end)
    local sql = "SELECT point(i, i) AS p, 'row ' || i AS t FROM generate_series(1, 600) AS i"
    for _ = 1, 3 do
      local rows = one:query(sql)
      for i = 1, 600 do
        assert.same({ p = { ("(%d,%d)"):format(i, i), false, false }, t = "row " .. i }, rows[i])
      end
    end
    local n, next, state, _, closing = 0, one:rows(sql)
    for row in next, state, nil, closing do
      n = n + 1
      assert.equal("table", type(row.p))
      inner = n % 50 == 0 and function()
        inner = nil
        next(state)
      end or nil
    end
    assert.is_true(n > 500)
    assert.equal(1, one:value "SELECT 1")
  end)
end)
