-- decay.lua URL CONCURRENCY BATCH JOBS SECONDS: one worker that works so many jobs again and again: three
-- times, then for so many seconds under a snapshot that is held open. Prints jobs, and jobs/s: `before` (the
-- median), then under the snapshot the `least` and the `last`.
local nebula = require "nebula"
local peers = require "spec.bench.queue.peers"
local storages = require "nebula.storage"
local workers = require "nebula.worker"

local url, concurrency, batch = arg[1], tonumber(arg[2]), tonumber(arg[3])
local jobs, seconds = tonumber(arg[4]), tonumber(arg[5])
local storage <close> = storages.with_pool_config(url, { max_size = 12 })
local worker = workers.new(storage, { handler = function() end, concurrency = concurrency, batch = batch })
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
local least, last
local stop_at = nebula.time.monotonic() + seconds
repeat
  last = rate()
  least = math.min(least or last, last)
until nebula.time.monotonic() >= stop_at
snapshot:exec "COMMIT"
worker:stop()
running:join()
print(nebula.json.encode { before = before[2], least = least, last = last, jobs = worker.counts.completed })
