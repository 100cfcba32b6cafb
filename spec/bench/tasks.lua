-- The heavy admin tasks: archiving beside `COPY ... TO STDOUT | zstd` of the same rows, collecting
-- orphans beside listing alone, and what a purge costs the queue that works meanwhile.
--
--   NEBULA_BENCH_EXECUTIONS  archived, purged (200000; the full 1000000)
--   NEBULA_BENCH_OBJECTS     in the bucket (20000; the full 100000)
--   NEBULA_BENCH_JOBS        worked beside the purge (100000)
--   NEBULA_BENCH_TASKS       which parts: archive, collect, purge (all)
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
local PARTS = os.getenv "NEBULA_BENCH_TASKS"
local UNTIL = "2026-01-01T00:00:00Z"
local PURGES = { "--keep", "completed=1d", "--keep", "cancelled=1d", "--keep", "failed=1d" }

local TABLES = { "executions", "execution_history", "workflow_jobs" }

local function empty(storage)
  storage.db:exec("TRUNCATE blobs, blob_orphans, task_checkpoints, " .. table.concat(TABLES, ", "))
end

-- A database with the seeded executions, of which each measurement gets a copy.
local function seeded(server)
  local url = server:database "seeded"
  local storage <close> = storages.new { database_url = url }
  storage:run_migrations { log = function() end }
  tasks.run(storage, "seed", { executions = EXECUTIONS, ["until"] = UNTIL })
  storage.db:exec("VACUUM ANALYZE " .. table.concat(TABLES, ", "))
end

local function copied(server)
  local db <close> = nebula.pg.connect { url = server:url "postgres", max_connections = 1 }
  db:exec "DROP DATABASE IF EXISTS copied WITH (FORCE)"
  db:exec "CREATE DATABASE copied TEMPLATE seeded STRATEGY FILE_COPY"
  db:exec "CHECKPOINT"
  return server:url "copied"
end

local function task(url, place, ...)
  return { file = program.program, args = { "task", ... }, cwd = place,
    env = { DATABASE_URL = url, NEBULA_LOG = "warn", PGAPPNAME = "measured" } }
end

-- The peer copies the same rows as text, PostgreSQL's own form, and neither reads back nor deletes.
local function archive(bench, server, place)
  local rss, cpu = 0, 0
  local function rate(command, is_ours)
    local cost = bench.cost(command(copied(server)))
    if is_ours then rss, cpu = math.max(rss, cost.rss), cost.cpu end
    return EXECUTIONS / cost.wall
  end
  bench.compare {
    name = ("%d executions, as many jobs, twice the history: archived, read back, and deleted"):format(EXECUTIONS),
    peer = "COPY ... TO STDOUT | zstd", unit = " executions/s", rounds = 3,
    ours = function()
      return rate(function(url) return task(url, place, "archive-executions", "--yes") end, true)
    end,
    theirs = function()
      return rate(function(url)
        local copies = {}
        for i, name in ipairs(TABLES) do copies[i] = ("psql -Xqd '%s' -c 'COPY %s TO STDOUT'"):format(url, name) end
        return { file = "/bin/sh", args = { "-c", ("{ %s; } | zstd -q -o %s/copy.zst -f"):format(
          table.concat(copies, "; "), place) } }
      end)
    end,
  }
  print(("  archive-executions: %.1f s CPU, at most %.0f MiB"):format(cpu, rss))
end

local function collect_from(bench, storage, place, name, store, env)
  local numbers = {}
  for i = 1, OBJECTS do numbers[i] = i end
  nebula.task.map(numbers, function(i) store:put(("a/%08d"):format(i), "x") end, { concurrency = 32 })
  empty(storage)
  storage.db:exec([[INSERT INTO blobs (key, size, sha256, url)
    SELECT 'a/' || lpad(n::text, 8, '0'), 1, 'x', 'x' FROM generate_series(2, $1::int) AS n]], OBJECTS)
  local function costs(command)
    for variable, value in pairs(env) do command.env[variable] = value end
    if env.S3_BUCKET then command.cwd = nil end -- the place's nebula.conf.lua names a directory
    return bench.cost(command)
  end
  bench.costs {
    name = ("%d objects in %s, of which one is nobody's, looked at for orphans"):format(OBJECTS, name),
    clients = {
      { name = "gc-blobs", run = function()
        return costs(task(storage.pool_options.url, place, "gc-blobs", "--prefix", "a/", "--yes"))
      end },
      { name = "listing alone", run = function()
        local command = task(storage.pool_options.url, place)
        command.args = { "-e", "for _ in blobs:list { prefix = 'a/' } do end" }
        return costs(command)
      end },
    },
  }
end

local function collect(bench, storage, place)
  local options = s3.options()
  collect_from(bench, storage, place, "S3", nebula.s3.connect(options), {
    S3_ENDPOINT = options.endpoint, S3_BUCKET = options.bucket, S3_REGION = options.region,
    S3_ACCESS_KEY_ID = options.access_key_id, S3_SECRET_ACCESS_KEY = options.secret_access_key,
  })
  collect_from(bench, storage, place, "a directory", storage.blobs, {})
end

local SAMPLE = [[
  SELECT max(extract(epoch FROM clock_timestamp() - xact_start))::float8
  FROM pg_stat_activity a
  WHERE application_name LIKE 'measured%' AND state = 'active' AND EXISTS (
    SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.mode = 'RowExclusiveLock'
    AND l.relation IN ('workflow_jobs'::regclass, 'executions'::regclass))
]]

-- Runs a purge, measured from its first row locks on, until it is stopped or done; tells the longest it held them.
local function purging(url, db, place)
  local run = child.spawn(task(url, place, "purge-executions", "--yes", "--json", table.unpack(PURGES)))
  local longest = 0
  local watch = nebula.task.spawn(function()
    while true do
      longest = math.max(longest, db:value(SAMPLE) or 0)
      nebula.task.sleep(0.005)
    end
  end)
  child.await("the purge's first deletion", 120, function() return longest > 0 end)
  return function()
    local ended = run:wait(0) ~= nil
    run:kill "KILL"
    run:wait()
    watch:cancel()
    return longest, ended
  end
end

local function purge(bench, server, place)
  local longest, ended = 0, 0
  local function rate(beside)
    local url = copied(server)
    local db <close> = nebula.pg.connect { url = url, max_connections = 2 }
    db:exec(peers.FILL, JOBS)
    db:exec "ANALYZE workflow_jobs"
    local stop = beside and purging(url, db, place)
    local got = peers.nebula("worker.lua", url, 32, 500)
    if stop then
      local held, done = stop()
      longest, ended = math.max(longest, held), ended + (done and 1 or 0)
    end
    return got.jobs / got.seconds
  end
  bench.compare {
    name = ("a worker of %d jobs beside a purge of %d executions"):format(JOBS, EXECUTIONS),
    peer = "the worker alone", unit = " jobs/s",
    ours = function() return rate(true) end, theirs = function() return rate(false) end,
  }
  print(("  the purge's longest transaction with row locks: %.0f ms; it was done before the worker %d times"):format(
    longest * 1000, ended))
end

local function wanted(part) return not PARTS or PARTS:find(part, 1, true) ~= nil end

return function(bench)
  local place = directory.make "bench-tasks"
  nebula.fs.write(place .. "/nebula.conf.lua", ("return { blobs = { url = 'file:%s/store' } }"):format(place))
  local server = bench.postgres()
  if wanted "collect" then
    local storage <close> = storages.new { database_url = server:database(), blobs = "file:" .. place .. "/store" }
    storage:run_migrations { log = function() end }
    collect(bench, storage, place)
  end
  if wanted "archive" or wanted "purge" then seeded(server) end
  if wanted "archive" then archive(bench, server, place) end
  if wanted "purge" then purge(bench, server, place) end
end
