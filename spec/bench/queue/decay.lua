-- decay.lua URL CONCURRENCY BATCH JOBS SECONDS: one worker that works so many jobs again and again: three
-- times, then for so many seconds under a snapshot that is held open. Prints jobs, and jobs/s: `before` (the
-- median), `before_least`, `before_most`; then under the snapshot `least`, `median`, `most` and `last`.
local nebula = require "nebula"
local peers = require "spec.bench.queue.peers"
local storages = require "nebula.storage"
local workers = require "nebula.worker"

local url, concurrency, batch = arg[1], tonumber(arg[2]), tonumber(arg[3])
local jobs, seconds = tonumber(arg[4]), tonumber(arg[5])
local storage <close> = storages.with_pool_config(url, { max_size = 12 })
local handlers = require("spec.support.nebula").scratch()
nebula.fs.write(handlers .. "/noop.lua", "return function() end")
local worker = workers.new(storage, { handlers = handlers, concurrency = concurrency, batch = batch })
local running = nebula.task.spawn(worker.run, worker)

local function rate()
  local last, at = worker.counts.completed + jobs, storage.db:value "SELECT now()"
  storage.db:exec(peers.FILL, jobs)
  storage:wake { [0] = at }
  local began = nebula.time.monotonic()
  while worker.counts.completed < last do nebula.task.sleep(0.005) end
  return jobs / (nebula.time.monotonic() - began)
end

local before = { rate(), rate(), rate() }
table.sort(before)
local snapshot <close> = storage.db:acquire()
snapshot:exec "BEGIN ISOLATION LEVEL REPEATABLE READ"
snapshot:query "SELECT 1"
local held = {}
local stop_at = nebula.time.monotonic() + seconds
repeat
  held[#held + 1] = rate()
until nebula.time.monotonic() >= stop_at
local last = held[#held]
table.sort(held)
snapshot:exec "COMMIT"
worker:stop()
running:join()
print(nebula.json.encode {
  before_least = before[1], before = before[2], before_most = before[3], jobs = worker.counts.completed,
  least = held[1], median = held[(#held + 1) // 2], most = held[#held], last = last,
})
