-- Results into Lua tables, against lua-dbi in a stock Lua, against a loop in C that makes nothing of the
-- values, and against the making of such tables alone, without a server: what any client of Lua's pays;
-- and how much memory a stream of ten million rows takes.
--
--   NEBULA_BENCH_ROWS   rows of the stream (10000000)
local nebula = require "nebula"
local directory = require "spec.support.directory"
local program = require "spec.support.nebula"

local ROWS, QUERIES = 100000, 5
local STREAMED = tonumber(os.getenv "NEBULA_BENCH_ROWS") or 10000000
local MOST_MB = 64
local SQL = "SELECT id, name, ok, weight, note FROM decoded"

return function(bench)
  local url = bench.postgres():database()
  local db <close> = nebula.pg.connect { url = url, max_connections = 1 }
  db:exec [[
    CREATE TABLE decoded AS
    SELECT i AS id, 'name ' || i AS name, i % 2 = 0 AS ok, sqrt(i)::float8 AS weight, md5(i::text) AS note
    FROM generate_series(1, 100000) AS i
  ]]
  db:exec "VACUUM ANALYZE decoded"
  db:query(SQL)

  local function ours()
    return bench.rate(QUERIES * ROWS, function()
      for _ = 1, QUERIES do assert(#db:query(SQL) == ROWS) end
    end)
  end

  local function per_second(text) return ROWS / tonumber(text:match "^[%d.]+") end

  local function dbi()
    return per_second(bench.child.must {
      file = "lua5.4", args = { "spec/bench/pg/dbi.lua", url, SQL, tostring(QUERIES) },
    })
  end

  -- What a program of spec/bench did a second; it prints the seconds of each of its rounds.
  local function by(file, ...)
    local total, text = 0, bench.child.must {
      file = directory.build .. "/bench/" .. file, args = { ... },
    }
    for seconds in text:gmatch "[%d.]+" do total = total + tonumber(seconds) end
    return QUERIES * ROWS / total
  end

  local function in_c() return by("decode", url, SQL, tostring(QUERIES)) end

  local function tables_alone() return by("tables", tostring(ROWS), tostring(QUERIES)) end

  local name = "100,000 rows x 5 columns into tables"
  bench.compare { name = name, peer = "lua-dbi-postgresql", unit = " rows/s", ours = ours, theirs = dbi }
  bench.compare { name = name, peer = "a C loop over libpq", unit = " rows/s", ours = ours, theirs = in_c }
  bench.compare {
    name = name, peer = "such tables made in memory, without a server", unit = " rows/s", ours = ours,
    theirs = tables_alone,
  }

  local got = nebula.json.decode((bench.child.must {
    file = program.program, args = { "spec/bench/pg/stream.lua", url, tostring(STREAMED) }, timeout = 600,
  }))
  print(("streaming %d rows\n  %.2f M rows/s, peak memory %d MB (at most %d wanted)"):format(STREAMED,
    STREAMED / got.seconds / 1e6, got.rss, MOST_MB))
end
