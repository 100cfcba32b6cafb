-- pg_point_select.lua: a row by its primary key, from many tasks over a small pool, against pgbench
-- doing the same with prepared statements on the same server and socket.
local nebula = require "nebula"

local TASKS, CONNECTIONS, SECONDS, ROWS = 256, 8, 3, 100000

return function(bench)
  local server = bench.postgres()
  local url = server:database("bench_point_select")
  bench.child.must { file = "pgbench", args = { "-i", "-q", "-s", "1", url } }
  local db <close> = nebula.pg.connect { url = url, max_connections = CONNECTIONS }

  local function ours()
    local done = 0
    local began = nebula.time.monotonic()
    local tasks = {}
    for i = 1, TASKS do tasks[i] = i end
    nebula.task.map(tasks, function()
      while nebula.time.monotonic() - began < SECONDS do
        db:one("SELECT abalance FROM pgbench_accounts WHERE aid = $1", math.random(ROWS))
        done = done + 1
      end
    end, { concurrency = TASKS })
    return done / (nebula.time.monotonic() - began)
  end

  local function theirs()
    local output = bench.child.must {
      file = "pgbench",
      args = { "-S", "-M", "prepared", "-n", "-c", tostring(CONNECTIONS), "-j", "1", "-T", tostring(SECONDS), url },
    }
    return tonumber(output:match("tps = ([%d.]+)"))
  end

  bench.compare {
    name = ("point SELECT, %d tasks on %d connections"):format(TASKS, CONNECTIONS),
    peer = "pgbench -S -M prepared", unit = "/s", ours = ours, theirs = theirs,
  }
end
