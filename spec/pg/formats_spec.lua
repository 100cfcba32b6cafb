-- Results come as text or in binary, as the columns have it: nobody can tell by the values.
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local pg = nebula.pg

local ROWS = 400
local SEED = tonumber(os.getenv "NEBULA_SPEC_SEED") or os.time()

-- Per type: values at its edges, and SQL that makes one at random.
local BITS = "('x' || substr(md5(random()::text), 1, 16))::bit(64)::int8"
local TYPES = {
  bool = { "true", "false", random = "random() < 0.5" },
  int2 = { "-32768", "32767", "0", random = "(random() * 65535 - 32768)::int2" },
  int4 = { "-2147483648", "2147483647", "-1", random = "(random() * 4e9 - 2e9)::int4" },
  int8 = { "-9223372036854775808", "9223372036854775807", "-1", random = BITS },
  oid = { "0", "4294967295", "2147483648", random = "(random() * 4e9)::int8::oid" },
  float8 = { "NaN", "Infinity", "-Infinity", "-0", "0.1", "5e-324", "1.7976931348623157e308", "1",
    random = ("(%s)::float8 / (1 + (%s & 1023))"):format(BITS, BITS) },
  bytea = { "", "\\x00", "\\xff00", random = "decode(repeat(md5(random()::text), (random() * 5)::int), 'hex')" },
  text = { "", "漢\n\\x00", random = "md5(random()::text)" },
  varchar = { "", " x ", random = "md5(random()::text)" },
  ["char(5)"] = { "", "ab", random = "substr(md5(random()::text), 1, 3)" },
  name = { "", "pg", random = "md5(random()::text)" },
  uuid = { "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff",
    random = "gen_random_uuid()" },
  json = { "null", "[]", '{"a": [1.50, 1e400, 9007199254740993, "\\u00e9"]}',
    random = "json_build_array(random(), md5(random()::text))" },
  jsonb = { "null", "{}", '{"a": [1.50, 1e400, 9007199254740993, "\\u00e9"]}',
    random = "jsonb_build_object(md5(random()::text), random())" },
  timestamp = { "infinity", "-infinity", "4713-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999",
    "0001-12-31 23:59:59.999999 BC", "0001-01-01", "2000-01-01", "1999-12-31 23:59:59.999999", "2024-02-29 12:00:00.5",
    random = "timestamp '0300-01-01 BC' + random() * interval '20000 years'" },
  timestamptz = { "infinity", "-infinity", "4713-01-01 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00",
    "0001-02-29 00:00:00+00 BC", "1900-02-28 23:59:59.999999+05:30", "2000-02-29 00:00:00-11",
    random = "timestamptz '0300-01-01 00:00:00+00 BC' + random() * interval '20000 years'" },
}

describe("pg result formats (NEBULA_SPEC_SEED=" .. SEED .. ")", function()
  local db

  setup(function() db = pg.connect { url = postgres.database(), max_connections = 1 } end)
  teardown(function() db:close() end)

  local function same(text, binary, where)
    if type(text) == "table" and nebula.json.encode(text) == nebula.json.encode(binary) then return end
    if text ~= text then
      assert.is_true(binary ~= binary, where)
      return
    end
    assert.same(text, binary, where)
    assert.equal(math.type(text), math.type(binary), where)
    if text == 0 then assert.equal(1 / text, 1 / binary, where) end
  end

  -- A column beside it makes binary pay, whatever the type is.
  for name, cases in pairs(TYPES) do
    it("give the same value: " .. name, function()
      db:exec(("DROP TABLE IF EXISTS v; CREATE TABLE v (i int8, v %s)"):format(name))
      for i, case in ipairs(cases) do
        db:exec(("INSERT INTO v VALUES (%d, %s)"):format(-i, pg.literal(case)))
      end
      db:exec("SELECT setseed($1)", SEED % 1000 / 1000)
      db:exec(("INSERT INTO v SELECT i, %s FROM generate_series(1, %d) AS i"):format(cases.random, ROWS))
      db:exec "INSERT INTO v VALUES (0, NULL)"
      local sql = "SELECT i, v FROM v WHERE i > $1 ORDER BY i"
      local text, binary = db:query({ sql, prepare = false }, -1000), db:query(sql, -1000)
      assert.equal(#cases + ROWS + 1, #text)
      assert.equal(#text, #binary)
      for i, row in ipairs(text) do
        assert.equal(row.i, binary[i].i)
        same(row.v, binary[i].v, ("%s, row %d"):format(name, row.i))
      end
      local at = 0
      for row in db:rows(sql, -1000) do
        at = at + 1
        same(text[at].v, row.v, name)
      end
      assert.equal(#text, at)
    end)
  end

  it("are binary where that pays: bytes come as they are, not in hex", function()
    local size, limit = 8 << 20, 12 << 20
    local sql = "SELECT decode(repeat('00', $1), 'hex') AS bytes"
    assert.equal(size, #db:value({ sql, max_bytes = limit }, size))
    local _, err = nebula.try(db.value, db, { sql, max_bytes = limit, prepare = false }, size)
    assert.equal("limit", err.kind)
  end)

  it("are text where one column has no binary reader, and where nothing is prepared", function()
    local row = db:one("SELECT $1::int8 AS i, 0.1::float4 AS f, 1.50::numeric AS n, '{1,2}'::int[] AS list", 7)
    assert.same({ i = 7, f = 0.1, n = "1.50", list = { 1, 2 } }, row)
    local plain = pg.connect { url = postgres.url(), max_connections = 1, statement_cache = false }
    for _ = 1, 3 do assert.equal(1 << 62, plain:value("SELECT $1::int8", 1 << 62)) end
    plain:close()
  end)

  it("follow a column that changes its type, on every connection", function()
    local many <close> = pg.connect { url = postgres.database(), max_connections = 4 }
    many:exec "CREATE TABLE changing (k int PRIMARY KEY, v int8); INSERT INTO changing VALUES (1, 5)"
    local expected = { int8 = 5, numeric = "5", text = "5", float8 = 5.0, float4 = 5.0 }
    for _ = 1, 4 do
      for _, name in ipairs { "numeric", "int8", "text", "float8", "float4", "int8" } do
        many:exec(("ALTER TABLE changing ALTER v TYPE %s USING v::text::%s"):format(name, name))
        local list = {}
        for i = 1, 12 do list[i] = i end
        nebula.task.map(list, function()
          local row = many:one("SELECT * FROM changing WHERE k = $1", 1)
          assert.equal(expected[name], row.v)
          assert.equal(math.type(expected[name]), math.type(row.v))
        end, { concurrency = 12 })
      end
    end
  end)
end)
