-- What the worker's speed is beside itself on a small table: with many finished and pending rows, and
-- under a snapshot that is held open while it works. NEBULA_SPEC_LONG=1: ten million rows, two minutes.
local peers = require "spec.bench.queue.peers"
local storages = require "nebula.storage"

local LONG = os.getenv "NEBULA_SPEC_LONG" == "1"
local JOBS, CONCURRENCY, BATCH = 100000, 32, 500
local FINISHED, PENDING = LONG and 10000000 or 1000000, LONG and 1000000 or 300000
local SNAPSHOT_SECONDS = LONG and 120 or 20

local FINISHED_ROWS = [[
  INSERT INTO workflow_jobs (payload, status, finished_at)
  SELECT '{"handler": "noop"}', 'completed', now() FROM generate_series(1, $1)
]]

return function(bench)
  local url = bench.postgres():database()
  local storage <close> = storages.with_pool_config(url, { max_size = 4 })
  storage:run_migrations { log = function() end }

  local function rate(most)
    storage.db:exec "CHECKPOINT"
    local got = peers.nebula("worker.lua", url, CONCURRENCY, BATCH, most)
    return got.jobs / got.seconds
  end
  local function told(what, now, before)
    print(("%s\n  ratio to before: %.2f   (%.0f jobs/s against %.0f)"):format(what, now / before, now, before))
  end

  storage.db:exec(peers.FILL, JOBS)
  local small = rate()
  storage.db:exec(FINISHED_ROWS, FINISHED)
  storage.db:exec(peers.FILL, PENDING)
  storage.db:exec "VACUUM ANALYZE workflow_jobs"
  told(("%d finished and %d pending rows"):format(FINISHED, PENDING), rate(JOBS), small)

  storage.db:exec "TRUNCATE workflow_jobs"
  local held = peers.nebula("decay.lua", url, CONCURRENCY, BATCH, JOBS, SNAPSHOT_SECONDS)
  told(("one worker, a snapshot held for %d s, %d jobs in all"):format(SNAPSHOT_SECONDS, held.jobs), held.last,
    held.before)
  print(("  the slowest %d of them: %.2f"):format(JOBS, held.least / held.before))
end
