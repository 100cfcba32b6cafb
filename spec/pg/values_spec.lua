-- Every type in both directions, against the server's own text.
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local pg, json = nebula.pg, nebula.json

describe("pg values", function()
  local db

  setup(function() db = pg.connect { url = postgres.database(), max_connections = 2 } end)
  teardown(function() db:close() end)

  it("reads each type as its Lua value", function()
    local row = db:one [[
      SELECT 1::int2 AS a, '-2147483648'::int4 AS b, 9223372036854775807::int8 AS c, 0.1::float4 AS d,
        0.1::float8 AS e, 'NaN'::float8 AS f, '-Infinity'::float8 AS g, true AS h, false AS i,
        12345678901234567890.10::numeric AS j, 'tex''t' AS k, 'c'::char AS l, 'n'::name AS m,
        '0192f0c1-7e1e-7cc3-98c4-dc0c0c07398f'::uuid AS n, NULL::text AS o
    ]]
    assert.not_equal(row.f, row.f)
    row.f = nil
    assert.same({
      a = 1, b = -2147483648, c = math.maxinteger, d = 0.1, e = 0.1, g = -math.huge, h = true,
      i = false, j = "12345678901234567890.10", k = "tex't", l = "c", m = "n",
      n = "0192f0c1-7e1e-7cc3-98c4-dc0c0c07398f",
    }, row)
    assert.equal("integer", math.type(row.c))
  end)

  it("prints times in UTC with six digits", function()
    local row = db:one [[
      SELECT '2026-11-22 18:58:03.12+01'::timestamptz AS a, '2026-11-22 18:58:03'::timestamp AS b,
        '2026-11-22'::date AS c, '1 day 02:03:04.5'::interval AS d, 'infinity'::timestamptz AS e,
        '0044-03-15 00:00:00+00 BC'::timestamptz AS f, '17:58:03'::time AS g
    ]]
    assert.same({
      a = "2026-11-22T17:58:03.120000Z", b = "2026-11-22T18:58:03.000000", c = "2026-11-22",
      d = "1 day 02:03:04.5", e = "infinity", f = "0044-03-15T00:00:00.000000Z BC", g = "17:58:03",
    }, row)
  end)

  it("takes back the times it gave", function()
    for _, text in ipairs { "2026-11-22T17:58:03.123456Z", "infinity", "-infinity",
      "0044-03-15T00:00:00.000000Z BC" } do
      assert.equal(text, db:value("SELECT $1::timestamptz", text))
    end
  end)

  it("carries bytes, whatever they are", function()
    local bytes = {}
    for i = 0, 255 do bytes[#bytes + 1] = string.char(i) end
    local all = table.concat(bytes)
    assert.equal(all, db:value("SELECT $1::bytea", all))
    assert.equal(256, db:value("SELECT length($1::bytea)", pg.bytea(all)))
    assert.equal("", db:value("SELECT $1::bytea", ""))
    assert.equal("\\x00", db:value("SELECT $1::bytea", "\\x00"))
  end)

  it("refuses a NUL byte in a text", function()
    local _, err = nebula.try(db.value, db, "SELECT $1::text", "a\0b")
    assert.equal("validation", err.kind)
    assert.matches("NUL byte", err.message)
  end)

  it("round-trips numbers exactly", function()
    for _, x in ipairs { 0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 1e15, 2.0 ^ 53 } do
      local back = db:value("SELECT $1::float8", x)
      assert.equal(("%a"):format(x), ("%a"):format(back))
    end
    for _, n in ipairs { 0, -1, math.maxinteger, math.mininteger } do
      assert.equal(n, db:value("SELECT $1::int8", n))
    end
    assert.equal(3, db:value("SELECT $1::int4", 3.0))
    assert.equal("0.1", db:value("SELECT $1::numeric", 0.1))
  end)

  it("counts parameters, so that nil is NULL", function()
    assert.same({ a = true, b = true, c = 3 }, db:one("SELECT $1::int IS NULL AS a, $2::int IS NULL AS b, $3::int AS c",
      nil, nebula.null, 3))
    assert.is_true(db:value("SELECT $1::text IS NULL", nil))
  end)

  it("keeps JSON value for value", function()
    local document = {
      big = math.maxinteger, float = 0.1, whole = 2.0, empty_list = json.array(), empty = {}, null = nebula.null,
      list = { 1, "two", { three = true } },
    }
    local back = db:value("SELECT $1::jsonb", document)
    assert.equal(json.encode(document, { sort_keys = true }), json.encode(back, { sort_keys = true }))
    assert.equal("18446744073709551616", tostring(db:value "SELECT '18446744073709551616'::jsonb"))
    assert.equal("x", db:value("SELECT $1::jsonb", pg.json "x"))
    assert.equal("x", db:value("SELECT $1::jsonb", '"x"'))
    assert.equal(nebula.null, db:value "SELECT 'null'::jsonb")
  end)

  it("carries arrays in any dimension", function()
    local awkward = { "", "NULL", "a,b", 'q"uote', "back\\slash", "{brace}", " blank ", nebula.null }
    assert.same(awkward, db:value("SELECT $1::text[]", awkward))
    assert.same({ { 1, 2 }, { 3, nebula.null } }, db:value("SELECT $1::int[]", { { 1, 2 }, { 3, nebula.null } }))
    assert.same({ 1, 2 }, db:value "SELECT '[0:1]={1,2}'::int[]")
    assert.same({ true, false }, db:value("SELECT $1::bool[]", { true, false }))
    assert.same({ "\0\255", "" }, db:value("SELECT $1::bytea[]", { "\0\255", "" }))
    assert.same({ { a = 1 }, "s" }, db:value("SELECT $1::jsonb[]", { { a = 1 }, '"s"' }))
    assert.equal("[]", json.encode(db:value "SELECT '{}'::int[]"))
    assert.equal(2, db:value("SELECT cardinality($1::uuid[])",
      { "0192f0c1-7e1e-7cc3-98c4-dc0c0c07398f", "0192f0c1-7e1e-7cc3-98c4-dc0c0c07398f" }))
  end)

  it("carries arrays of six dimensions, and refuses a seventh", function()
    local deep = { { { { { { 1, 2 } } } } } }
    assert.same(deep, db:value("SELECT $1::int[]", deep))
    local _, err = nebula.try(db.value, db, "SELECT $1::int[]", { deep })
    assert.equal("validation", err.kind)
    assert.matches("six dimensions", err.message)
  end)

  it("gives enums and unknown types as the server's text", function()
    db:exec "CREATE TYPE mood AS ENUM ('sad', 'fine'); CREATE TABLE moods (m mood, p point)"
    db:exec("INSERT INTO moods VALUES ($1, $2)", "fine", "(1,2)")
    assert.same({ m = "fine", p = "(1,2)" }, db:one "SELECT * FROM moods")
  end)

  it("names the parameter that does not fit", function()
    local _, err = nebula.try(db.value, db, "SELECT $1::int, $2::int", 1, { 1 })
    assert.equal("validation", err.kind)
    assert.matches("parameter 2 is a table, but the statement wants int4", err.message)
    _, err = nebula.try(db.value, db, "SELECT $1::int", print)
    assert.matches("parameter 1 is a function", err.message)
    _, err = nebula.try(db.value, db, "SELECT $1::int", 1, 2)
    assert.matches("has 1 parameter, but 2 values were given", err.message)
  end)

  it("stores hostile text verbatim, as parameter, literal, identifier and copied row", function()
    local hostile = { "'; DROP TABLE x; --", "\\'; --", "$1", "$$; $$", "E'\\x41'", "\u{202e}",
      "a\nb\tc\r\\N", "%s", '"' }
    db:exec "CREATE TABLE hostile (t text)"
    for _, text in ipairs(hostile) do
      assert.equal(text, db:value("SELECT $1::text", text))
      assert.equal(text, db:value("SELECT " .. pg.literal(text)))
      assert.equal(text, db:query("SELECT 1 AS " .. pg.ident(text)).fields[1].name)
      db:copy_in("COPY hostile FROM STDIN", { { text } })
      local out = {}
      db:copy_out("SELECT to_json($1::text)", function(piece) out[#out + 1] = piece end,
        { args = { text }, format = "ndjson" })
      assert.equal(text, json.decode(table.concat(out)))
    end
    local stored = db:query "SELECT t FROM hostile"
    assert.equal(#hostile, #stored)
    for i, row in ipairs(stored) do assert.equal(hostile[i], row.t) end
  end)
end)
