-- claim_jobs and complete_jobs, which take jobs by lease, beside the same protocol in C: one UPDATE to running,
-- another to completed.
local peers = require "spec.bench.queue.peers"
local storages = require "nebula.storage"

local JOBS, CONNECTIONS = 100000, 2

return function(bench)
  local url = bench.postgres():database()
  local storage <close> = storages.with_pool_config(url, { max_size = 2 })
  storage:run_migrations { log = function() end }

  local function rate(run, ...)
    storage.db:exec "TRUNCATE workflow_jobs"
    storage.db:exec(peers.FILL, JOBS)
    storage.db:exec "VACUUM ANALYZE workflow_jobs"
    storage.db:exec "CHECKPOINT"
    local got = run(...)
    assert(got.jobs == JOBS, ("%d jobs of %d"):format(got.jobs, JOBS))
    return got.jobs / got.seconds
  end

  for _, batch in ipairs { 10, 100, 500 } do
    bench.compare {
      name = ("claim_jobs and complete_jobs, batch %d"):format(batch), peer = "UPDATE twice in C", unit = "jobs/s",
      rounds = 3,
      ours = function() return rate(peers.nebula, "leases.lua", url, CONNECTIONS, batch) end,
      theirs = function() return rate(peers.program, "row_lock", url, CONNECTIONS, batch, "twice") end,
    }
  end
end
