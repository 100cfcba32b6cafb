-- latency.lua URL work|push N: works N jobs and prints how long after their push they began (p50 and p99
-- in ms), or pushes them one by one, each a few milliseconds after the one before.
local nebula = require "nebula"
local storages = require "nebula.storage"
local workers = require "nebula.worker"

local url, action, count = arg[1], arg[2], tonumber(arg[3])
local storage <close> = storages.with_pool_config(url, { max_size = 8 })

if action == "push" then
  for _ = 1, count do
    nebula.task.sleep(0.003 + math.random() * 0.004)
    storage:push_job { payload = { handler = "x", at = nebula.time.monotonic() } }
  end
  return
end

local waits, worker = {}, nil
worker = workers.new(storage, { handler = function(_, job)
  waits[#waits + 1] = nebula.time.monotonic() - job.payload.at
  if #waits == count then worker:stop() end
end })
worker:run()
table.sort(waits)
print(nebula.json.encode { p50 = waits[(count + 1) // 2] * 1000, p99 = waits[(count * 99 + 99) // 100] * 1000 })
