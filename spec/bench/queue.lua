-- The worker (a handler file that does nothing, run as a task for each job, history kept) beside
-- graphile-worker and pg-boss at their best settings, and beside the server's own limit: the worker's
-- protocol in C without a job to run. One process each, the same server, in turns.
--
--   NEBULA_BENCH_JOBS   jobs of a round (100000)     NEBULA_BENCH_ROUNDS   rounds (3)
local peers = require "spec.bench.queue.peers"
local storages = require "nebula.storage"

local JOBS = tonumber(os.getenv "NEBULA_BENCH_JOBS") or 100000
local ROUNDS = tonumber(os.getenv "NEBULA_BENCH_ROUNDS") or 3
local CONCURRENCY, BATCH, CONNECTIONS = 32, 500, 2

local function fill(storage)
  storage.db:exec "TRUNCATE workflow_jobs"
  storage.db:exec(peers.FILL, JOBS)
  storage.db:exec "VACUUM ANALYZE workflow_jobs"
  storage.db:exec "CHECKPOINT"
end

local function median(list)
  table.sort(list)
  return list[(#list + 1) // 2]
end

return function(bench)
  local url = bench.postgres():database()
  local storage <close> = storages.with_pool_config(url, { max_size = 4 })
  storage:run_migrations { log = function() end }
  local graphile, pgboss = bench.postgres():database(), bench.postgres():database()

  local function raw(how)
    return { fill = function() fill(storage) end,
      run = function() return peers.program("row_lock", url, CONNECTIONS, BATCH, how) end }
  end
  local function node(file, where)
    return { fill = function() peers.node(file, where, "fill", JOBS) end,
      run = function() return peers.node(file, where, "run", JOBS) end }
  end
  local contenders = {
    { name = "nebula worker", fill = function() fill(storage) end,
      run = function() return peers.nebula("worker.lua", url, CONCURRENCY, BATCH) end },
    { name = "the row-lock protocol in C", of = raw "keep" },
    { name = "  the same, finished rows deleted", of = raw "delete" },
    { name = "graphile-worker 0.18 (deletes finished jobs)", of = node("graphile.js", graphile) },
    { name = "pg-boss 12", of = node("pgboss.mjs", pgboss) },
  }
  local rates, cpu, rss = {}, {}, {}
  for _ = 1, ROUNDS do
    for i, contender in ipairs(contenders) do
      local of = contender.of or contender
      of.fill()
      local got = of.run()
      assert(got.jobs == JOBS, ("%s: %d jobs of %d"):format(contender.name, got.jobs, JOBS))
      rates[i], cpu[i], rss[i] = rates[i] or {}, cpu[i] or {}, rss[i] or {}
      table.insert(rates[i], got.jobs / got.seconds)
      table.insert(cpu[i], got.cpu / got.jobs * 100000)
      table.insert(rss[i], got.rss)
    end
  end

  print(("worker, no-op handler, %d jobs, batch %d: jobs/s (median of %d); ours is so many times theirs"):format(
    JOBS, BATCH, ROUNDS))
  for i, contender in ipairs(contenders) do
    local ratios = {}
    for round = 1, ROUNDS do ratios[round] = rates[1][round] / rates[i][round] end
    print(("  %-46s %8.0f   x %.2f   client CPU %.2f s per 100 k   %d MB"):format(contender.name,
      median(table.move(rates[i], 1, ROUNDS, 1, {})), median(ratios), median(cpu[i]), median(rss[i])))
  end
end
