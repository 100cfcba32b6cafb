-- gc-blobs, verify-blobs, copy-blobs, abort-uploads: over a directory and over a real S3 server.
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local s3 = require "spec.support.s3"
local storages = require "nebula.storage"
local tasks = require "nebula.tasks"

local OBJECTS = tonumber(os.getenv "NEBULA_SPEC_LONG") and 20000 or 1200 -- more than a page

local function on_s3()
  local options = s3.options()
  return { s3_endpoint = options.endpoint, s3_bucket = options.bucket, s3_access_key = options.access_key_id,
    s3_secret_key = options.secret_access_key }
end

local STORES = {
  ["a directory"] = function() return { blobs = "file:" .. directory.make "blobs" } end,
  ["S3"] = on_s3,
}

for name, store in pairs(STORES) do
  describe("artifacts in " .. name, function()
    local storage

    local function run(task, options) return tasks.run(storage, task, options) end
    local function key(i) return ("artifacts/%05d"):format(i) end
    local function keys(prefix)
      local list = {}
      for object in storage.blobs:list { prefix = prefix } do list[#list + 1] = object.key end
      return list
    end
    local function own(i, data)
      storage.db:exec("INSERT INTO blobs (key, size, sha256, url) VALUES ($1, $2, $3, 'x')", key(i), #data,
        nebula.crypto.sha256(data))
    end

    setup(function()
      local settings = store()
      settings.database_url = postgres.database()
      storage = storages.new(settings)
      storage:run_migrations { log = function() end }
    end)
    teardown(function() storage:close() end)

    before_each(function()
      storage.db:exec "TRUNCATE blobs, blob_orphans, task_checkpoints"
      local old = keys()
      if #old > 0 then storage.blobs:delete_many(old) end
    end)

    local function put(count)
      local list = {}
      for i = 1, count do list[i] = i end
      nebula.task.map(list, function(i) storage.blobs:put(key(i), "data " .. i) end, { concurrency = 32 })
    end

    it("are collected once they were nobody's for the grace period", function()
      put(OBJECTS)
      storage.blobs:put("other/1", "not below the prefix")
      for i = 1, OBJECTS, 2 do own(i, "data " .. i) end
      local orphans = OBJECTS // 2
      local found = tasks.preview(storage, tasks.load "gc-blobs", { prefix = "artifacts/" })
      assert.equal(orphans, found.orphans)
      assert.equal(0, found.would_delete)

      local done = run("gc-blobs", { prefix = "artifacts/" })
      assert.same({ OBJECTS, 0, orphans }, { done.listed, done.deleted, done.orphans })
      own(2, "data 2") -- its row came late
      storage.blobs:put(key(4), "somebody wrote again") -- as new as if it had never been listed
      done = run("gc-blobs", { prefix = "artifacts/", grace = 0 })
      assert.equal(orphans - 1, done.deleted + done.orphans)
      assert.equal(0, run("gc-blobs", { prefix = "artifacts/", grace = 0 }).orphans)
      assert.is_true(storage.blobs:exists(key(1)))
      assert.is_true(storage.blobs:exists(key(2)))
      assert.is_true(storage.blobs:exists "other/1")
      assert.equal(OBJECTS // 2 + 1, #keys "artifacts/")
    end)

    it("are listed on where a run was stopped", function()
      put(OBJECTS)
      local asked = 0
      local _, err = nebula.try(tasks.run, storage, "gc-blobs", { prefix = "artifacts/" }, {
        stop_asked = function()
          asked = asked + 1
          return asked == 1
        end,
      })
      assert.equal("cancelled", err.kind)
      storage.blobs:put("artifacts/00000", "it is behind the marker") -- for the next run
      assert.equal(OBJECTS, run("gc-blobs", { prefix = "artifacts/" }).listed)
      assert.equal(OBJECTS + 1, run("gc-blobs", { prefix = "artifacts/" }).listed)
    end)

    it("are not collected while they change", function()
      put(2)
      run("gc-blobs", { prefix = "" })
      storage.db:exec "UPDATE blob_orphans SET found_at = now() - interval '8 days'"
      storage.blobs:put(key(1), "other data") -- since it was listed: its time begins anew
      assert.equal(1, run("gc-blobs", { prefix = "" }).deleted)
      assert.same({ key(1) }, keys())
    end)

    it("do not include archives", function()
      storage.db:exec "TRUNCATE workflows, executions, execution_history, workflow_jobs"
      run("seed", { executions = 10, ["until"] = "2026-01-01T00:00:00Z" })
      run("archive-executions")
      assert.equal(0, run("gc-blobs", { prefix = "", grace = 0 }).deleted)
      assert.equal(2, #keys "archive/")
    end)

    it("are compared with what their rows say", function()
      put(6)
      for i = 1, 6 do own(i, "data " .. i) end
      local before, unharmed = run "verify-blobs"
      assert.same({ 6, 0, true }, { before.checked, before.wrong, unharmed })
      storage.blobs.store:delete(key(2))
      storage.blobs:put(key(3), "tada 3")
      storage.blobs:put(key(5), "longer than it was")
      local report, fine = run("verify-blobs")
      assert.is_false(fine)
      assert.same({ { key = key(2), problem = "missing" }, { key = key(3), problem = "corrupt" },
        { key = key(5), problem = "wrong size" } }, report.rows)
      assert.equal(2, #run("verify-blobs", { size_only = true }).rows)
      storage.db:exec("DELETE FROM blobs WHERE key IN ($1, $2)", key(4), key(5))
      report, fine = run("verify-blobs", { orphans = true, prefix = "artifacts/" })
      assert.same({ 2, 2, false }, { report.wrong, report.orphaned, fine })
      assert.same({ { key = key(4), problem = "orphaned" }, { key = key(5), problem = "orphaned" } },
        table.move(report.rows, 3, 4, 1, {}))
    end)

    it("are copied to another store, and only what it lacks", function()
      put(300)
      storage.blobs:put(key(0), "with a type", { content_type = "text/plain", metadata = { owner = "me" } })
      local to = directory.make "copies"
      assert.equal(301, tasks.preview(storage, tasks.load "copy-blobs", { to = "file:" .. to }).would_copy)
      assert.equal(301, run("copy-blobs", { to = "file:" .. to }).copied)
      assert.equal(0, run("copy-blobs", { to = "file:" .. to }).copied)
      local other = nebula.blob.open { path = to }
      assert.equal("data 7", (other:get(key(7))))
      local info = other:head(key(0))
      assert.equal("text/plain", info.content_type)
      assert.equal("me", info.metadata.owner)
      local _, err = nebula.try(run, "copy-blobs", { to = "elsewhere" })
      assert.equal("config", err.kind)
    end)
  end)
end

describe("multipart uploads in S3", function()
  it("that nobody finishes are aborted when they are old enough", function()
    local settings = on_s3()
    settings.database_url = postgres.database()
    local storage <close> = storages.new(settings)
    storage:run_migrations { log = function() end }
    local bucket = nebula.s3.connect(s3.options(settings.s3_bucket))
    local writer = bucket:writer "half"
    writer:write(("x"):rep(6 << 20))
    writer:write(("x"):rep(6 << 20))
    child.await("the upload", 60, function() return #bucket:uploads() == 1 end)
    assert.equal(0, tasks.run(storage, "abort-uploads", {}).aborted)
    assert.equal(1, tasks.run(storage, "abort-uploads", { older_than = 0 }).aborted)
    assert.equal(0, #bucket:uploads())
    writer:close()
  end)
end)
