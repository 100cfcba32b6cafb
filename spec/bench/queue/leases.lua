-- leases.lua URL CONNECTIONS BATCH: works a queue by claim_jobs and complete_jobs until it is empty, with no
-- job to run. Prints jobs, wall and CPU seconds.
local nebula = require "nebula"
local storages = require "nebula.storage"

local url, connections, batch = arg[1], tonumber(arg[2]), tonumber(arg[3])
local storage <close> = storages.with_pool_config(url, { max_size = connections })
storage:policy()

local began, cpu, jobs = nebula.time.monotonic(), os.clock(), 0
nebula.task.scope(function(scope)
  for i = 1, connections do
    scope:spawn(function()
      local claimed
      repeat
        claimed = storage:claim_jobs("worker " .. i, batch)
        local completed = storage:complete_jobs(claimed) -- it waits: others count meanwhile
        jobs = jobs + completed
      until #claimed == 0
    end)
  end
end)
print(nebula.json.encode { jobs = jobs, seconds = nebula.time.monotonic() - began, cpu = os.clock() - cpu })
