-- COPY in and out: formats, sources, sinks, args, failures on either side.
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local pg = nebula.pg

local function failure(fn, ...)
  local value, err = nebula.try(fn, ...)
  assert.is_nil(value)
  return err
end

describe("pg copy", function()
  local db

  setup(function() db = pg.connect { url = postgres.database(), max_connections = 2 } end)
  teardown(function() db:close() end)
  before_each(function() db:exec "DROP TABLE IF EXISTS c; CREATE TABLE c (a int, b text, j jsonb)" end)

  local function out(...)
    local pieces = {}
    local sql, options = ...
    local count = db:copy_out(sql, function(piece) pieces[#pieces + 1] = piece end, options)
    return table.concat(pieces), count
  end

  it("writes each format", function()
    assert.equal("1\tx\n2\t\\N\n", out "SELECT * FROM (VALUES (1, 'x'), (2, NULL)) v")
    assert.equal('1,"a,b"\n', out("SELECT 1, 'a,b'", { format = "csv" }))
    assert.equal("PGCOPY\n\255\r\n\0", out("SELECT 1", { format = "binary" }):sub(1, 11))
    assert.equal('{"a": "\\\\ \\n \\" \\t"}\nnull\n',
      out("SELECT v::jsonb FROM (VALUES ('{\"a\":\"\\\\ \\n \\\" \\t\"}'), (NULL)) AS x(v)", { format = "ndjson" }))
  end)

  it("writes rows as JSON objects, as the server would, without their NULLs", function()
    local values = {
      small = "'-5'::int2", large = "9007199254740993", double = "0.1::float8",
      no_number = "'NaN'::float8", endless = "'-Infinity'::float8", yes = "true", bytes = [['\x00ff'::bytea]],
      id = "'0a17f1c4-3d0c-4a4b-9c56-6d1c5f3a3b1e'::uuid", name = "'n'::name",
      text = [[E'a"\n\\ \u00e9 \u0001 😀'::varchar]], at = "'2026-11-30T12:44:08.424017Z'::timestamptz",
      plain = "'1999-12-31T23:59:59'::timestamp", never = "'infinity'::timestamptz",
      document = [['{"a": [1, "\n", null]}'::jsonb]], written = "E'{\\n \"q\":\\t1.50}'::json", null = "'null'::jsonb",
    }
    local columns = {}
    for name, value in pairs(values) do columns[#columns + 1] = ('%s AS "%s"'):format(value, name) end
    local list = table.concat(columns, ", ")
    local text, count = out(("SELECT %s, NULL::int AS absent FROM generate_series(1, 3)"):format(list),
      { format = "ndjson", as = 'row "x"' })
    assert.equal(3, count)
    local lines = 0
    for line in text:gmatch "([^\n]*)\n" do
      lines = lines + 1
      local body = line:match '^{"row \\"x\\"":(.*)}$'
      -- the server reads each value as the one it wrote itself
      for name, value in pairs(values) do
        local cast = ({ at = "timestamptz", plain = "timestamp" })[name]
        local read = cast and ("($1::jsonb ->> '%s')::%s = %s"):format(name, cast, value)
          or ("$1::jsonb -> '%s' = to_jsonb(%s)"):format(name, value)
        assert.is_true(db:value("SELECT " .. read, body), name .. ": " .. body)
      end
      assert.is_nil(nebula.json.decode(body).absent)
    end
    assert.equal(3, lines)
    assert.equal('{"a":1,"b":"x"}\n{"a":2}\n',
      out("SELECT * FROM (VALUES (1, $1), (2, NULL)) AS v (a, b)", { format = "ndjson", args = { "x" } }))
    assert.equal('{"n":{"a":1}}\n', out("SELECT 1 AS a", { format = "ndjson", as = "n" }))
    assert.equal("", out("SELECT 1 AS a, 2 AS b WHERE false", { format = "ndjson" }))
    db:exec "INSERT INTO c VALUES (1, 'moved')"
    assert.equal('{"a":1,"b":"moved"}\n', out("DELETE FROM c RETURNING a, b", { format = "ndjson" }))
    assert.equal(0, db:value "SELECT count(*) FROM c")
  end)

  it("says which column of a row has no form as JSON", function()
    assert.matches("no form for the numeric of column price: select to_json%(price%) AS price",
      failure(out, "SELECT 1 AS a, 1.5 AS price", { format = "ndjson" }).message)
    assert.equal('{"a":1,"price":1.50}\n',
      out("SELECT 1 AS a, to_json(1.50) AS price", { format = "ndjson" }))
    assert.matches("for the format ndjson", failure(out, "SELECT 1", { format = "csv", as = "x" }).message)
    assert.matches("query alone", failure(out, "COPY c TO STDOUT", { format = "ndjson", as = "x" }).message)
  end)

  it("puts args into the query by their types", function()
    local text, count = out("SELECT g FROM generate_series(1, $1) g WHERE g = ANY ($2) AND $3 = '$1 -- $2'",
      { args = { 10, { 2, 3, 99 }, "$1 -- $2" } })
    assert.equal("2\n3\n", text)
    assert.equal(2, count)
    -- an untyped literal would be taken for an interval here
    text = out("SELECT $1 + interval '1 day' FROM (SELECT $1::timestamptz) t",
      { args = { "2026-11-22T17:58:03.000000Z" } })
    assert.equal("2026-11-23 17:58:03+00\n", text)
    assert.matches("has 1 parameter", failure(out, "SELECT $1::int", { args = { 1, 2 } }).message)
  end)

  it("reads text, rows, functions and readers", function()
    assert.equal(1, db:copy_in("COPY c FROM STDIN", "1\tx\t{}\n"))
    assert.equal(2, db:copy_in("COPY c FROM STDIN", { { 2, "tab\there\\", { k = "\n" } }, { 3 } }))
    local i = 0
    assert.equal(1000, db:copy_in("COPY c (a) FROM STDIN", function()
      i = i + 1
      if i <= 1000 then return (i + 10) .. "\n" end
    end))
    local pieces = { "5000,\"a", "\"\"b\"\n" }
    assert.equal(1, db:copy_in("COPY c (a, b) FROM STDIN (FORMAT csv)",
      { read = function() return table.remove(pieces, 1) end }))
    assert.same({ a = 2, b = "tab\there\\", j = { k = "\n" } }, db:one "SELECT * FROM c WHERE a = 2")
    assert.equal('a"b', db:value "SELECT b FROM c WHERE a = 5000")
  end)

  it("moves much with little memory", function()
    local size, sink = 0, {}
    function sink.write(_, piece) size = size + #piece end
    collectgarbage()
    local before = collectgarbage "count"
    assert.equal(300000, db:copy_out("SELECT repeat('x', 99) FROM generate_series(1, 300000)", sink))
    assert.equal(30000000, size)
    collectgarbage()
    assert.is_true(collectgarbage "count" - before < 8192)
  end)

  it("brings back what it wrote, in each format, through a file", function()
    db:exec [[INSERT INTO c SELECT i, CASE WHEN i % 3 > 0 THEN E'a,"b"\\\n\t' || i END, jsonb_build_object('i', i)
      FROM generate_series(1, 20000) AS i]]
    local sum = "SELECT md5(string_agg(c::text, '|' ORDER BY a)) FROM c"
    local before = db:value(sum)
    local path = os.tmpname()
    for _, format in ipairs { "text", "csv", "binary" } do
      local file = nebula.fs.open(path, "w")
      assert.equal(20000, db:copy_out("SELECT * FROM c WHERE a > $1", file, { format = format, args = { 0 } }))
      file:close()
      db:exec "TRUNCATE c"
      local source <close> = nebula.fs.open(path)
      assert.equal(20000, db:copy_in(("COPY c FROM STDIN (FORMAT %s)"):format(format), source))
      assert.equal(before, db:value(sum), format)
    end
    os.remove(path)
  end)

  it("waits for a slow sink, which the server then waits for too", function()
    local taken, sent = 0, 0
    local sink = function(piece)
      taken = taken + #piece
      if taken > 1 << 20 and sent == 0 then
        -- what the server could send without us is bounded by the buffers between
        local before = -1
        while sent > before do
          before = sent
          nebula.task.sleep(0.05)
          sent = db:value [[SELECT coalesce(max(tuples_processed), 0) FROM pg_stat_progress_copy
            WHERE datid = (SELECT oid FROM pg_database WHERE datname = current_database())]]
        end
      end
    end
    local rows = 1000000
    assert.equal(rows, db:copy_out(("SELECT repeat('x', 99) FROM generate_series(1, %d)"):format(rows), sink))
    assert.is_true(sent > 0 and sent < rows / 2, sent)
    assert.equal(rows * 100, taken)
  end)

  it("undoes what a failing source began, and goes on", function()
    local err = failure(db.copy_in, db, "COPY c (a) FROM STDIN", function() error "source broke" end)
    assert.matches("source broke", err.message)
    assert.equal("22P02", failure(db.copy_in, db, "COPY c (a) FROM STDIN", "oops\n").code)
    db:transaction(function(tx)
      failure(tx.transaction, tx, function(inner)
        local sent = false
        inner:copy_in("COPY c (a) FROM STDIN", function()
          if sent then error "source broke" end
          sent = true
          return "1\n"
        end)
      end)
      tx:copy_in("COPY c (a) FROM STDIN", "2\n")
    end)
    assert.equal(2, db:value "SELECT sum(a) FROM c")
  end)

  it("goes on after a failing sink", function()
    local err = failure(db.copy_out, db, "SELECT generate_series(1, 100000000) AS g", function() error "sink broke" end)
    assert.matches("sink broke", err.message)
    assert.equal(1, db:value "SELECT 1")
  end)

  it("refuses the wrong direction and the wrong place", function()
    assert.matches("use copy_in", failure(db.copy_out, db, "COPY c FROM STDIN", print).message)
    assert.matches("use copy_out", failure(db.copy_in, db, "COPY c TO STDOUT", "x").message)
    assert.matches("copy_in or copy_out", failure(db.exec, db, "COPY c FROM STDIN").message)
    assert.equal(1, db:value "SELECT 1")
  end)
end)
