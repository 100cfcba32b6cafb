-- Values of each type by the thousand, made at random from a printed seed: what comes back is what the
-- server itself has for it, as a parameter, in a row and inside arrays.
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local json, pg = nebula.json, nebula.pg

local COUNT = 150
local SEED = tonumber(os.getenv "NEBULA_SPEC_SEED") or os.time()

local ALPHABET = { "a", "Z", "0", " ", "'", '"', "\\", "{", "}", ",", "NULL", "\n", "\t", "\r", "$1", ";", "--", "/*",
  "%", "é", "漢", "😀", "\u{1}", "(", ")", "[1:2]=", "\\x", "\\N", "\\.", "::", "E'" }

local function text()
  local parts = {}
  for i = 1, math.random(0, 12) do parts[i] = ALPHABET[math.random(#ALPHABET)] end
  return table.concat(parts)
end

local function bytes()
  local parts = {}
  for i = 1, math.random(0, 40) do parts[i] = string.char(math.random(0, 255)) end
  return table.concat(parts)
end

local function one_of(list) return function() return list[math.random(#list)] end end

local function integer(bits)
  local least = -(1 << (bits - 1))
  local edges = one_of { 0, 1, -1, least, -(least + 1), least + 1 }
  return function()
    if math.random(4) == 1 then return edges() end
    return math.random(0) >> (64 - math.random(bits - 1)) -- any length
  end
end

local function double()
  if math.random(5) == 1 then
    return one_of { 0.0, -0.0, 1 / 0, -1 / 0, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 0.1, 1e22,
      9007199254740993.0, 1e15, 123456789012345680.0 }()
  end
  local value = string.unpack("<d", string.pack("<I8", math.random(0)))
  return value == value and value or 0.5
end

local function float4()
  local value = string.unpack("<f", string.pack("<I4", math.random(0) & 0xffffffff))
  if value ~= value then value = 0.1 end
  return tonumber(("%.9g"):format(value))
end

local function digits(most)
  local parts = {}
  for i = 1, math.random(1, most) do parts[i] = math.random(0, 9) end
  return table.concat(parts)
end

local function numeric()
  if math.random(8) == 1 then return one_of { "NaN", "Infinity", "-Infinity", "0", "0.000", "-0.5" }() end
  return (math.random(2) == 1 and "-" or "") .. digits(40) .. (math.random(2) == 1 and "." .. digits(30) or "")
end

local function stamp(zone)
  return function()
    if math.random(10) == 1 then return one_of { "infinity", "-infinity" }() end
    local year = math.random(6) == 1 and math.random(10000, 200000) or math.random(1, 9999)
    return ("%04d-%02d-%02d %02d:%02d:%02d.%06d%s%s"):format(year, math.random(12), math.random(28),
      math.random(0, 23), math.random(0, 59), math.random(0, 59), math.random(0, 999999),
      zone and one_of { "+00", "+05:30", "-11" }() or "", math.random(6) == 1 and year < 4000 and " BC" or "")
  end
end

local function document(depth)
  local kind = math.random(depth > 3 and 6 or 8)
  if kind == 1 then return text() end
  if kind == 2 then return integer(64)() end
  if kind == 3 then
    local value = double()
    return value ~= 0 and value - value == 0 and value or 0.25 -- jsonb knows no -0.0
  end
  if kind == 4 then return math.random(2) == 1 end
  if kind == 5 then return json.null end
  if kind == 6 then return json.array {} end
  local value = {}
  if kind == 7 then
    for i = 1, math.random(1, 4) do value[i] = document(depth + 1) end
    return json.array(value)
  end
  for _ = 1, math.random(1, 4) do value["k" .. text()] = document(depth + 1) end
  return value
end

-- The types whose Lua value is the server's own text.
local function interval()
  return ("%d years %d mons %d days %02d:%02d:%02d.%06d"):format(math.random(-99, 99), math.random(-11, 11),
    math.random(-40, 40), math.random(0, 99), math.random(0, 59), math.random(0, 59), math.random(0, 999999))
end

local function uuid()
  return (("xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"):gsub("x", function() return ("%x"):format(math.random(0, 15)) end))
end

local TYPES = {
  { "int2", integer(16) }, { "int4", integer(32) }, { "int8", integer(64) },
  { "oid", function() return math.random(0, 0xffffffff) end },
  { "float8", double }, { "float4", float4, as = "number" }, { "bool", function() return math.random(2) == 1 end },
  { "text", text }, { "varchar", text }, { "bytea", bytes },
  { "numeric", numeric, as = "text" }, { "uuid", uuid, as = "text" }, { "interval", interval, as = "text" },
  { "date", function() return stamp(false)():match "^[^ ]+" end, as = "text" },
  { "time", function() return stamp(false)():match " ([^ ]+)" or "00:00:00" end, as = "text" },
  { "timestamp", stamp(false), as = "iso" }, { "timestamptz", stamp(true), as = "iso" },
  { "jsonb", function() return document(1) end, as = "json" },
  { "json", function() return document(1) end, as = "json" },
  { "mood", one_of { "sad", "so so", 'qu"ote', "back\\slash", "NULL", "ha,ppy" }, as = "text", bare = true },
  { "tame", text, as = "text", bare = true },
  { "inet", one_of { "10.0.0.1", "::1", "192.168.0.0/16" }, as = "text" },
  { "int4range", one_of { "[1,5)", "empty", "(,3)", "(,)" }, as = "text" },
  { "pair", one_of { "(1,x)", '(,"a b")', '(3,"q""q")' }, as = "text", bare = true },
}

describe("pg values made at random (NEBULA_SPEC_SEED=" .. SEED .. ")", function()
  local db

  setup(function()
    math.randomseed(SEED)
    db = pg.connect { url = postgres.database(), max_connections = 2 }
    db:exec [[CREATE TYPE mood AS ENUM ('sad', 'so so', 'qu"ote', E'back\\slash', 'NULL', 'ha,ppy');
      CREATE DOMAIN tame AS text; CREATE TYPE pair AS (a int, b text)]]
  end)
  teardown(function() db:close() end)

  local function same(given, got, as, where)
    if as == "json" then
      assert.equal(json.encode(given, { sort_keys = true }), json.encode(got, { sort_keys = true }), where)
    else
      assert.equal(given, got, where)
      assert.equal(math.type(given), math.type(got), where)
      if given == 0 then assert.equal(1 / given, 1 / got, where) end
    end
  end

  for _, kind in ipairs(TYPES) do
    local name, make, as = kind[1], kind[2], kind.as
    it("are the server's own: " .. name, function()
      for i = 1, COUNT do
        local given = make()
        local where = ("%s %d: %s"):format(name, i, as == "json" and json.encode(given) or ("%q"):format(given))
        local sent = as == "json" and pg.json(given) or given
        -- The value, the server's text of it, and whether what we were given means the same to the server.
        local row = db:one(([[SELECT $1::%s AS value, format('%%s', $1::%s) AS text,
          ARRAY[$1::%s, NULL, $1::%s] AS list]]):format(name, name, name, name), sent)
        if as == nil or as == "json" then
          same(given, row.value, as, where)
        elseif as == "text" then
          assert.equal(row.text, row.value, where)
        elseif as == "number" then
          assert.equal(tonumber(row.text), row.value, where)
        else
          assert.equal(row.text, db:value(("SELECT format('%%s', $1::%s)"):format(name), row.value), where)
        end
        if not kind.bare then
          assert.equal(3, #row.list, where)
          same(row.value, row.list[1], as, where)
          same(row.value, row.list[3], as, where)
          assert.equal(nebula.null, row.list[2], where)
        end
        if not kind.bare and as ~= "json" then
          local nested = { { row.value, nebula.null }, { row.value, row.value } }
          local back = db:value(("SELECT $1::%s[]"):format(name), nested)
          same(row.value, back[1][1], as, where)
          same(row.value, back[2][2], as, where)
          assert.equal(nebula.null, back[1][2], where)
          assert.is_true(db:value(("SELECT $1::%s[]::text = ARRAY[[$2::%s, NULL], [$2, $2]]::text"):format(name, name),
            nested, row.value), where)
        end
        -- The same without a prepared statement, and through a literal where it has one.
        local again = db:value({ ("SELECT $1::%s"):format(name), prepare = false }, sent)
        same(row.value, again, as, where)
        if as ~= "json" and name ~= "bytea" then
          same(row.value, db:value(("SELECT %s::%s"):format(pg.literal(given), name)), as, where)
        end
      end
    end)
  end

  it("survive a table, a cursor and a stream alike", function()
    db:exec [[CREATE TABLE all_of_them (id int, a int8, b float8, c text, d bytea, e jsonb, f timestamptz,
      g numeric, h text[])]]
    local given = {}
    for i = 1, COUNT do
      given[i] = { a = integer(64)(), b = double(), c = text(), d = bytes(), e = document(1), g = digits(20) .. ".5",
        h = { text(), nebula.null, text() } }
      db:exec("INSERT INTO all_of_them VALUES ($1, $2, $3, $4, $5, $6, now(), $7, $8)", i, given[i].a, given[i].b,
        given[i].c, given[i].d, pg.json(given[i].e), given[i].g, given[i].h)
    end
    local sql = "SELECT * FROM all_of_them ORDER BY id"
    local function compare(rows)
      assert.equal(COUNT, #rows)
      for i, row in ipairs(rows) do
        for _, field in ipairs { "a", "b", "c", "d" } do same(given[i][field], row[field], nil, field .. i) end
        same(given[i].e, row.e, "json", "e" .. i)
        assert.equal((given[i].g:gsub("^0+(%d)", "%1")), row.g)
        assert.same(given[i].h, { row.h[1], row.h[2], row.h[3] })
      end
    end
    local function collect(handle)
      local rows = {}
      for row in handle:rows(sql) do rows[#rows + 1] = row end
      return rows
    end
    compare(db:query(sql))
    compare(collect(db))
    db:transaction(function(tx) compare(collect(tx)) end)
  end)
end)
