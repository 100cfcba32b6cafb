-- From the call of a push in one process to the first line of the job's handler in another.
local nebula = require "nebula"
local peers = require "spec.bench.queue.peers"
local storages = require "nebula.storage"

local JOBS = 1000

return function(bench)
  local url = bench.postgres():database()
  do
    local storage <close> = storages.with_pool_config(url, { max_size = 4 })
    storage:run_migrations { log = function() end }
  end
  local pusher = nebula.task.spawn(peers.nebula, "latency.lua", url, "push", JOBS)
  local got = peers.nebula("latency.lua", url, "work", JOBS)
  pusher:join()
  print(("push to handler start, another process, %d jobs\n  p50 %.2f ms, p99 %.2f ms"):format(JOBS, got.p50, got.p99))
end
