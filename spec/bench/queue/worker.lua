-- worker.lua URL CONCURRENCY BATCH [JOBS]: a worker of its own process that works a queue until it is
-- empty, or so many jobs of it. Prints jobs, wall and CPU seconds, and its peak memory in MB.
local nebula = require "nebula"
local storages = require "nebula.storage"
local workers = require "nebula.worker"

local url, concurrency, batch, most = arg[1], tonumber(arg[2]), tonumber(arg[3]), tonumber(arg[4])
local storage <close> = storages.with_pool_config(url, { max_size = 8 })
storage.db:exec "SELECT 1"
collectgarbage("incremental", 400) -- as `nebula worker` does
local handlers = require("spec.support.nebula").scratch()
nebula.fs.write(handlers .. "/noop.lua", "return function() end")

local began, cpu = nebula.time.monotonic(), os.clock()
local worker = workers.new(storage, {
  handlers = handlers, concurrency = concurrency, batch = batch, drain = not most,
})
if most then
  nebula.task.spawn(function()
    while worker.counts.completed < most do nebula.task.sleep(0.01) end
    worker:stop()
  end)
end
local counts = worker:run()
local status = io.open "/proc/self/status":read "a"
print(nebula.json.encode {
  jobs = counts.completed, seconds = nebula.time.monotonic() - began, cpu = os.clock() - cpu,
  rss = tonumber(status:match "VmHWM:%s*(%d+)") // 1024,
})
