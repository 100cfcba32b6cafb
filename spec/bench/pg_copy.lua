-- COPY of a million rows from a file, against psql's \copy of the same file.
local nebula = require "nebula"

local ROWS = 1000000

return function(bench)
  local url = bench.postgres():database()
  local db <close> = nebula.pg.connect { url = url, max_connections = 1 }
  local file = os.tmpname()
  local _ <close> = setmetatable({}, { __close = function() os.remove(file) end })
  db:exec "CREATE UNLOGGED TABLE copied (id int, name text, weight float8)"
  local out = nebula.fs.open(file, "w")
  db:copy_out(("SELECT i, 'name ' || i, sqrt(i)::float8 FROM generate_series(1, %d) AS i"):format(ROWS), out)
  out:close()

  local function fresh(load)
    return function()
      db:exec "TRUNCATE copied"
      return bench.rate(ROWS, load)
    end
  end

  bench.compare {
    name = "COPY of 1,000,000 rows from a file", peer = "psql \\copy", unit = " rows/s",
    ours = fresh(function()
      local source <close> = nebula.fs.open(file)
      assert(db:copy_in("COPY copied FROM STDIN", source) == ROWS)
    end),
    theirs = fresh(function()
      bench.child.must { file = "psql", args = { "-Xq", "-d", url, "-c", ("\\copy copied FROM '%s'"):format(file) } }
    end),
  }
end
