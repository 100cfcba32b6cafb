-- Each task that moves or deletes something, killed -9 at random moments and run again: the end is that
-- of a run which nobody killed.
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local storages = require "nebula.storage"
local tasks = require "nebula.tasks"

local PROGRAM = require("spec.support.nebula").program
local LONG = os.getenv "NEBULA_SPEC_LONG"
local KILLS, EXECUTIONS = LONG and 50 or 8, LONG and 50000 or 4000

describe("a task that is killed again and again", function()
  local storage, url, blobs

  local ROWS = [[
    SELECT md5(string_agg(t.row, E'\n' ORDER BY t.row)) FROM (
      SELECT e::text FROM executions e UNION ALL SELECT h::text FROM execution_history h UNION ALL
      SELECT j::text FROM workflow_jobs j
    ) AS t (row)
  ]]
  local function rows() return storage.db:value(ROWS) end

  local function objects(store)
    local list = {}
    for object in store:list() do list[#list + 1] = object.key .. " " .. object.size end
    return list
  end

  before_each(function()
    url, blobs = postgres.database(), directory.make("killed-" .. child.next_number "killed")
    nebula.fs.write(blobs .. "/nebula.conf.lua", ("return { blobs = { url = 'file:%s/store' } }"):format(blobs))
    storage = storages.new { database_url = url, blobs = "file:" .. blobs .. "/store" }
    storage:run_migrations { log = function() end }
    tasks.run(storage, "seed", { executions = EXECUTIONS, ["until"] = "2026-01-01T00:00:00Z" })
    math.randomseed(7)
  end)
  after_each(function() storage:close() end)

  local WAITING = [[
    SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')
  ]]
  -- A killed run's sessions end when their statements do.
  local OTHERS = [[
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'killed%'
  ]]

  -- One run is killed where it waits for the lock that `lock` takes, in the middle of its work; the others
  -- each a little later than the one before, up to `seconds`; the last one ends.
  local function killed(arguments, lock, seconds)
    local function start()
      return child.spawn { file = PROGRAM, args = { "task", table.unpack(arguments) }, stdout = "null", stderr = "pipe",
        cwd = blobs, env = { DATABASE_URL = url, PGAPPNAME = "killed" } }
    end
    local function kill(run)
      run:kill "KILL"
      run:wait()
    end
    storage.db:transaction(function(tx)
      tx:exec(lock)
      local run = start()
      child.await("a run that waits for the lock", 90, function() return storage.db:value(WAITING) end)
      kill(run)
    end)
    for i = 1, KILLS do
      local run = start()
      if not run:wait(0.02 + (i - 1 + math.random()) / KILLS * seconds) then kill(run) end
    end
    child.await("the end of the killed runs' sessions", 90, function() return storage.db:value(OTHERS) == 0 end)
    local last = start()
    local _, said = last:read_all()
    assert.equal(0, last:wait().status, said)
  end

  it("archives each execution once, and loses none", function()
    local before = rows()
    killed({ "archive-executions", "--yes", "--per-object", tostring(EXECUTIONS // 20) },
      "SELECT FROM executions ORDER BY completed_at LIMIT 1 FOR UPDATE", 0.4) -- the first object is written by then
    assert.equal(0, storage.db:value "SELECT count(*) FROM executions")
    local archived = 0
    for _, row in ipairs(tasks.run(storage, "list-archives", { verify = true }).rows) do
      assert.equal("verified", row.state)
      archived = archived + row.executions
    end
    assert.equal(EXECUTIONS, archived)
    killed({ "restore-archive", "--all" }, "LOCK TABLE workflow_jobs IN SHARE MODE", 0.4)
    assert.equal(before, rows())
  end)

  it("purges what it should, and leaves no job without its execution", function()
    storage.db:exec "UPDATE executions SET completed_at = now() WHERE abs(hashtext(id::text)) % 3 = 0"
    local kept = storage.db:value [[SELECT count(*) FROM executions
      WHERE completed_at > '2026-06-01' OR status = 'failed']]
    killed({ "purge-executions", "--yes", "--target", "5ms" },
      "SELECT FROM workflow_jobs WHERE status = 'completed' LIMIT 1 FOR UPDATE", 0.3)
    assert.equal(kept, storage.db:value "SELECT count(*) FROM executions")
    assert.equal(kept, storage.db:value "SELECT count(*) FROM workflow_jobs JOIN executions e ON e.id = execution_id")
    assert.equal(kept, storage.db:value "SELECT count(*) FROM workflow_jobs")
    assert.equal(2 * kept, storage.db:value "SELECT count(*) FROM execution_history")
  end)

  it("collects orphans alone, and copies everything", function()
    for i = 1, 1500 do
      local data = "data " .. i
      storage.blobs:put(("a/%04d"):format(i), data)
      if i % 2 == 0 then
        storage.db:exec("INSERT INTO blobs (key, size, sha256, url) VALUES ($1, $2, $3, 'x')", ("a/%04d"):format(i),
          #data, nebula.crypto.sha256(data))
      end
    end
    killed({ "gc-blobs", "--prefix", "a/", "--grace", "0s", "--yes" },
      "LOCK TABLE blob_orphans IN SHARE MODE", 0.15)
    local left = objects(storage.blobs)
    assert.equal(750, #left)
    assert.equal("a/0002 6", left[1])
    local to = directory.make "killed-copies"
    killed({ "copy-blobs", "--to", "file:" .. to }, "LOCK TABLE task_checkpoints IN SHARE MODE", 0.2)
    assert.same(left, objects(nebula.blob.open { path = to }))
  end)
end)
