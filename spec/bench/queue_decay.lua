-- What the worker's speed is beside itself on a small table: with many finished and pending rows, in turns,
-- and under a snapshot that is held open while it works. NEBULA_SPEC_LONG=1: ten million rows, two minutes.
--
--   NEBULA_BENCH_FINISHED, NEBULA_BENCH_PENDING   rows (1000000, 300000)     NEBULA_BENCH_ROUNDS   rounds (3)
--   NEBULA_BENCH_SNAPSHOT   seconds that the snapshot is held (20)
local peers = require "spec.bench.queue.peers"
local storages = require "nebula.storage"

local function size(name, usual, long)
  return tonumber(os.getenv("NEBULA_BENCH_" .. name)) or os.getenv "NEBULA_SPEC_LONG" == "1" and long or usual
end

local JOBS, CONCURRENCY, BATCH = 100000, 32, 500
local FINISHED, PENDING = size("FINISHED", 1000000, 10000000), size("PENDING", 300000, 1000000)
local SNAPSHOT_SECONDS, ROUNDS = size("SNAPSHOT", 20, 120), size("ROUNDS", 3, 3)

local FINISHED_ROWS = [[
  INSERT INTO workflow_jobs (payload, status, finished_at)
  SELECT '{"handler": "noop"}', 'completed', now() FROM generate_series(1, $1)
]]

return function(bench)
  local function database()
    local url = bench.postgres():database()
    local storage = storages.with_pool_config(url, { max_size = 4 })
    storage:run_migrations { log = function() end }
    return storage, url
  end
  local small <close>, small_url = database()
  local big <close>, big_url = database()

  local function rate(storage, url)
    storage.db:exec(peers.FILL, JOBS)
    if storage == small then storage.db:exec "VACUUM ANALYZE workflow_jobs" end
    storage.db:exec "CHECKPOINT"
    local got = peers.nebula("worker.lua", url, CONCURRENCY, BATCH, JOBS)
    return got.jobs / got.seconds
  end

  big.db:exec(FINISHED_ROWS, FINISHED)
  big.db:exec(peers.FILL, PENDING)
  big.db:exec "VACUUM ANALYZE workflow_jobs"
  bench.compare {
    name = ("worker, %d finished and %d pending rows"):format(FINISHED, PENDING), peer = "its own of a small table",
    unit = "jobs/s", rounds = ROUNDS,
    ours = function() return rate(big, big_url) end,
    theirs = function()
      small.db:exec "TRUNCATE workflow_jobs"
      return rate(small, small_url)
    end,
  }

  small.db:exec "TRUNCATE workflow_jobs"
  local held = peers.nebula("decay.lua", small_url, CONCURRENCY, BATCH, JOBS, SNAPSHOT_SECONDS)
  print(("one worker, a snapshot held for %d s, %d jobs in all\n  ratio to before: min %.2f, median %.2f, max %.2f, "
    .. "at the end %.2f   (%.0f jobs/s before: %.0f to %.0f)"):format(SNAPSHOT_SECONDS, held.jobs,
    held.least / held.before, held.median / held.before, held.most / held.before, held.last / held.before,
    held.before, held.before_least, held.before_most))
end
