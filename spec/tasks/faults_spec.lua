-- Tasks while S3 fails, the database restarts under them or the disk is full: each says what happened,
-- and run again it ends as if nothing had.
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local http_proxy = require "spec.support.http_proxy"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local s3 = require "spec.support.s3"
local storages = require "nebula.storage"
local tasks = require "nebula.tasks"

local PROGRAM = require("spec.support.nebula").program
local LONG = os.getenv "NEBULA_SPEC_LONG"
local EXECUTIONS, OBJECTS = LONG and 100000 or 3000, LONG and 20000 or 600
local MOST_RUNS = LONG and 300 or 30 -- each goes on where the one before it failed
local UNTIL = "2026-01-01T00:00:00Z"

local FINGERPRINT = [[
  SELECT md5(string_agg(t.row, E'\n' ORDER BY t.row)) FROM (
    SELECT e::text FROM executions e UNION ALL SELECT h::text FROM execution_history h UNION ALL
    SELECT j::text FROM workflow_jobs j
  ) AS t (row)
]]

local function migrated(settings)
  local storage = storages.new(settings)
  storage:run_migrations { log = function() end }
  return storage
end

local function seed(storage) tasks.run(storage, "seed", { executions = EXECUTIONS, ["until"] = UNTIL }) end

local function keys(store)
  local list = {}
  for object in store:list() do list[#list + 1] = object.key end
  return list
end

-- Everything is in archives that hold, each execution in one of them, and nothing else is in the store.
local function assert_archived(storage)
  assert.equal(0, storage.db:value "SELECT count(*) FROM executions")
  local rows, executions = tasks.run(storage, "list-archives", { verify = true }).rows, 0
  for _, row in ipairs(rows) do
    assert.equal("verified", row.state)
    executions = executions + row.executions
  end
  assert.equal(EXECUTIONS, executions)
  assert.equal(2 * #rows, #keys(storage.blobs))
end

describe("where a third of S3's answers are failures", function()
  local proxy, storage, bucket

  setup(function()
    local options = s3.options()
    proxy = http_proxy.start(options.endpoint)
    bucket = nebula.s3.connect(options)
    storage = migrated { database_url = postgres.database(), s3_endpoint = proxy.url, s3_bucket = options.bucket,
      s3_access_key = options.access_key_id, s3_secret_key = options.secret_access_key }
  end)
  teardown(function()
    storage:close()
    proxy:close()
  end)
  before_each(function()
    proxy:rules {}
    local old = keys(bucket)
    if #old > 0 then bucket:delete_many(old) end
  end)

  -- Runs a task, again where it fails, until it has ended; then nothing fails any more.
  local function until_done(task, options)
    proxy:rules { { percent = 30, ["do"] = "answer", status = 503 } }
    for _ = 1, MOST_RUNS do
      local _, err = nebula.try(tasks.run, storage, task, options)
      if not err then return proxy:rules {} end
      assert.equal("s3", err.kind, tostring(err))
      assert.is_true(err.retryable)
    end
    error(task .. " has not come to its end")
  end

  it("executions are archived and brought back", function()
    seed(storage)
    local before = storage.db:value(FINGERPRINT)
    until_done("archive-executions", { per_object = EXECUTIONS // 6 })
    assert_archived(storage)
    until_done("restore-archive", { all = true })
    assert.equal(before, storage.db:value(FINGERPRINT))
  end)

  it("orphans are collected and objects copied", function()
    local numbers = {}
    for i = 1, OBJECTS do numbers[i] = i end
    nebula.task.map(numbers, function(i) bucket:put(("a/%05d"):format(i), "data " .. i) end, { concurrency = 16 })
    storage.db:exec([[INSERT INTO blobs (key, size, sha256, url)
      SELECT 'a/' || lpad(n::text, 5, '0'), 1, 'x', 'x' FROM generate_series(2, $1::int, 2) AS n]], OBJECTS)
    until_done("gc-blobs", { prefix = "a/", grace = 0 })
    local left = keys(bucket)
    assert.equal(OBJECTS // 2, #left)
    for i, key in ipairs(left) do assert.equal(("a/%05d"):format(2 * i), key) end
    local to = directory.make "faulty-copies"
    until_done("copy-blobs", { to = "file:" .. to })
    local copies = nebula.blob.open { path = to }
    assert.same(left, keys(copies))
    for i, key in ipairs(left) do assert.equal("data " .. 2 * i, (copies:get(key))) end
  end)
end)

describe("a task as a process", function()
  local place, url

  local function open() return storages.new { database_url = url, blobs = "file:" .. place .. "/store" } end

  before_each(function()
    place = directory.make("faulty-" .. child.next_number "faulty")
    nebula.fs.write(place .. "/nebula.conf.lua", ("return { blobs = { url = 'file:%s/store' } }"):format(place))
  end)

  local function command(...)
    return { file = PROGRAM, args = { "task", ... }, stdout = "null", stderr = "pipe", cwd = place,
      env = { DATABASE_URL = url } }
  end

  local function must(...)
    local result = child.run(command(...))
    assert.equal(0, result.status, result.stderr)
  end

  -- Restarts the server while the task waits for the lock that `lock` takes, in the middle of its work.
  local function restarted(server, lock, ...)
    local run
    do
      local holder <close> = nebula.pg.connect { url = url, max_connections = 2 }
      local session <close> = holder:acquire()
      session:exec "BEGIN"
      session:exec(lock)
      run = child.spawn(command(...))
      child.await("a task that waits", 90, function()
        return holder:value [[SELECT EXISTS (SELECT FROM pg_stat_activity
          WHERE datname = current_database() AND wait_event_type = 'Lock')]]
      end)
      server:restart "immediate"
    end
    local _, said = run:read_all()
    assert.equal(1, run:wait().status, said)
    assert.matches("nebula: .*connection", said)
  end

  it("goes on after the database was restarted in the middle of it", function()
    local server <close> = postgres.server()
    url = server:database()
    do
      local storage <close> = migrated { database_url = url, blobs = "file:" .. place .. "/store" }
      seed(storage)
    end
    local archive = { "archive-executions", "--yes", "--per-object", tostring(EXECUTIONS // 6) }
    restarted(server, ([[SELECT FROM executions
      WHERE id = (SELECT id FROM executions ORDER BY completed_at OFFSET %d LIMIT 1) FOR UPDATE]]):format(
      EXECUTIONS // 2), table.unpack(archive))
    local storage <close> = open()
    local left = storage.db:value "SELECT count(*) FROM executions"
    assert.is_true(left > 0 and left < EXECUTIONS)
    must(table.unpack(archive))
    assert_archived(storage)

    tasks.run(storage, "restore-archive", { all = true })
    local purge = { "purge-executions", "--yes", "--keep", "completed=1d" }
    local kept = storage.db:value "SELECT count(*) FROM executions WHERE status <> 'completed'"
    restarted(server, "SELECT FROM executions WHERE status = 'completed' LIMIT 1 FOR UPDATE", table.unpack(purge))
    must(table.unpack(purge))
    local fresh <close> = open()
    assert.equal(kept, fresh.db:value "SELECT count(*) FROM executions")
    assert.equal(kept, fresh.db:value "SELECT count(*) FROM workflow_jobs j JOIN executions e ON e.id = j.execution_id")
    assert.equal(kept, fresh.db:value "SELECT count(*) FROM workflow_jobs")
    assert.equal(2 * kept, fresh.db:value "SELECT count(*) FROM execution_history")
  end)

  it("says that the disk is full, and leaves everything where it is", function()
    url = postgres.database()
    local storage <close> = migrated { database_url = url, blobs = "file:" .. place .. "/store" }
    seed(storage)
    local before = storage.db:value(FINGERPRINT)
    local full = command("archive-executions", "--yes")
    full.args = { "-c", [[ulimit -f 20; exec "$@"]], "sh", full.file, table.unpack(full.args) }
    full.file = "/bin/sh"
    local result = child.run(full)
    assert.equal(1, result.status)
    assert.matches("^nebula: [^\n]*too large", result.stderr)
    assert.equal(before, storage.db:value(FINGERPRINT))
    assert.equal(0, #tasks.run(storage, "list-archives", {}).rows)
    must("archive-executions", "--yes")
    assert_archived(storage)
    must("restore-archive", "--all")
    assert.equal(before, storage.db:value(FINGERPRINT))
  end)
end)
