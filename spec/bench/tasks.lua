-- The heavy admin tasks: archiving beside `COPY ... TO STDOUT | zstd` of the same rows, collecting
-- orphans beside listing alone, and what a purge costs the queue that works meanwhile.
--
--   NEBULA_BENCH_EXECUTIONS  archived, purged (200000; the full 1000000)
--   NEBULA_BENCH_OBJECTS     in the bucket (20000; the full 100000)
--   NEBULA_BENCH_JOBS        worked beside the purge (100000)
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local nebula = require "nebula"
local peers = require "spec.bench.queue.peers"
local program = require "spec.support.nebula"
local s3 = require "spec.support.s3"
local storages = require "nebula.storage"
local tasks = require "nebula.tasks"

local EXECUTIONS = tonumber(os.getenv "NEBULA_BENCH_EXECUTIONS") or 200000
local OBJECTS = tonumber(os.getenv "NEBULA_BENCH_OBJECTS") or 20000
local JOBS = tonumber(os.getenv "NEBULA_BENCH_JOBS") or 100000
local UNTIL = "2026-01-01T00:00:00Z"
local PURGES = { "--keep", "completed=1d", "--keep", "cancelled=1d", "--keep", "failed=1d" }

local TABLES = { "executions", "execution_history", "workflow_jobs" }

local function empty(storage)
  storage.db:exec("TRUNCATE blobs, blob_orphans, task_checkpoints, " .. table.concat(TABLES, ", "))
end

local function seed(storage)
  empty(storage)
  tasks.run(storage, "seed", { executions = EXECUTIONS, ["until"] = UNTIL })
  storage.db:exec("VACUUM ANALYZE " .. table.concat(TABLES, ", "))
  storage.db:exec "CHECKPOINT"
end

local function task(storage, place, ...)
  return { file = program.program, args = { "task", ... }, cwd = place,
    env = { DATABASE_URL = storage.pool_options.url, NEBULA_LOG = "warn", PGAPPNAME = "measured" } }
end

local function archive(bench, storage, place)
  local copies = {}
  for i, name in ipairs(TABLES) do
    copies[i] = ("psql -Xqd '%s' -c 'COPY %s TO STDOUT'"):format(storage.pool_options.url, name)
  end
  bench.costs {
    name = ("%d executions with as many jobs, and twice the history, archived (and verified, and deleted)"):format(
      EXECUTIONS),
    clients = {
      { name = "archive-executions", run = function()
        seed(storage)
        return bench.cost(task(storage, place, "archive-executions", "--yes"))
      end },
      { name = "COPY TO STDOUT | zstd", run = function()
        seed(storage)
        return bench.cost { file = "/bin/sh", args = { "-c", ("{ %s; } | zstd -q -o %s/copy.zst -f"):format(
          table.concat(copies, "; "), place) } }
      end },
    },
  }
end

local function collect(bench, storage, place)
  local options = s3.options()
  local bucket = nebula.s3.connect(options)
  local numbers = {}
  for i = 1, OBJECTS do numbers[i] = i end
  nebula.task.map(numbers, function(i) bucket:put(("a/%08d"):format(i), "x") end, { concurrency = 32 })
  empty(storage)
  storage.db:exec([[INSERT INTO blobs (key, size, sha256, url)
    SELECT 'a/' || lpad(n::text, 8, '0'), 1, 'x', 'x' FROM generate_series(2, $1::int) AS n]], OBJECTS)
  local env = { S3_ENDPOINT = options.endpoint, S3_BUCKET = options.bucket, S3_REGION = options.region,
    S3_ACCESS_KEY_ID = options.access_key_id, S3_SECRET_ACCESS_KEY = options.secret_access_key }
  local function costs(command)
    for name, value in pairs(env) do command.env[name] = value end
    command.cwd = nil -- the place's nebula.conf.lua names a directory
    return bench.cost(command)
  end
  bench.costs {
    name = ("%d objects in S3, of which one is nobody's, looked at for orphans"):format(OBJECTS),
    clients = {
      { name = "gc-blobs", run = function()
        return costs(task(storage, place, "gc-blobs", "--prefix", "a/", "--yes"))
      end },
      { name = "listing alone", run = function()
        local command = task(storage, place)
        command.args = { "-e", "for _ in blobs:list { prefix = 'a/' } do end" }
        return costs(command)
      end },
    },
  }
end

local SAMPLE = [[
  SELECT max(extract(epoch FROM clock_timestamp() - xact_start))::float8
  FROM pg_stat_activity a
  WHERE application_name LIKE 'measured%' AND state = 'active' AND EXISTS (
    SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.mode = 'RowExclusiveLock'
    AND l.relation IN ('workflow_jobs'::regclass, 'executions'::regclass))
]]

-- Runs a purge until it is stopped or done; tells for how long it has held its row locks at most.
local function purging(storage, place)
  local run = child.spawn(task(storage, place, "purge-executions", "--yes", "--json", table.unpack(PURGES)))
  local longest = 0
  local watch = nebula.task.spawn(function()
    while true do
      longest = math.max(longest, storage.db:value(SAMPLE) or 0)
      nebula.task.sleep(0.005)
    end
  end)
  return function()
    local ended = run:wait(0) ~= nil
    run:kill "KILL"
    run:wait()
    watch:cancel()
    return longest, ended
  end
end

local function purge(bench, storage, place)
  local longest = 0
  local function rate(beside)
    seed(storage)
    storage.db:exec(peers.FILL, JOBS)
    storage.db:exec "ANALYZE workflow_jobs"
    local stop = beside and purging(storage, place)
    local got = peers.nebula("worker.lua", storage.pool_options.url, 32, 500)
    if stop then longest = math.max(longest, (stop())) end
    return got.jobs / got.seconds
  end
  bench.compare {
    name = ("a worker of %d jobs beside a purge of %d executions"):format(JOBS, EXECUTIONS),
    peer = "the worker alone", unit = " jobs/s", rounds = 3,
    ours = function() return rate(true) end, theirs = function() return rate(false) end,
  }
  print(("  the purge's longest transaction with row locks: %.0f ms"):format(longest * 1000))
end

return function(bench)
  local place = directory.make "bench-tasks"
  nebula.fs.write(place .. "/nebula.conf.lua", ("return { blobs = { url = 'file:%s/store' } }"):format(place))
  local storage <close> = storages.new { database_url = bench.postgres():database(),
    blobs = "file:" .. place .. "/store" }
  storage:run_migrations { log = function() end }
  archive(bench, storage, place)
  collect(bench, storage, place)
  purge(bench, storage, place)
end
