-- archive-executions, list-archives, restore-archive: over a directory and over a real S3 server.
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local s3 = require "spec.support.s3"
local storages = require "nebula.storage"
local tasks = require "nebula.tasks"

local EXECUTIONS = tonumber(os.getenv "NEBULA_SPEC_LONG") and 100000 or 3000
local UNTIL = "2026-01-01T00:00:00Z"
local STATE_LIMIT = 2000

local STORES = {
  ["a directory"] = function() return { blobs = "file:" .. directory.make "archive" } end,
  ["S3"] = function()
    local options = s3.options()
    return { s3_endpoint = options.endpoint, s3_bucket = options.bucket, s3_access_key = options.access_key_id,
      s3_secret_key = options.secret_access_key }
  end,
}

-- Every row of the tables that are archived, as one digest.
local FINGERPRINT = [[
  SELECT md5(string_agg(t.row, E'\n' ORDER BY t.row)) FROM (
    SELECT w::text FROM workflows w UNION ALL SELECT e::text FROM executions e UNION ALL
    SELECT h::text FROM execution_history h UNION ALL SELECT j::text FROM workflow_jobs j
  ) AS t (row)
]]

for name, store in pairs(STORES) do
  describe("archives in " .. name, function()
    local storage

    local function fingerprint() return storage.db:value(FINGERPRINT) end
    local function run(task, options) return (tasks.run(storage, task, options)) end
    local function failure(...) return select(2, nebula.try(...)) end
    local function executions() return storage.db:value "SELECT count(*) FROM executions" end

    setup(function()
      local settings = store()
      settings.database_url, settings.state_limit = postgres.database(), STATE_LIMIT
      storage = storages.new(settings)
      storage:run_migrations { log = function() end }
    end)
    teardown(function() storage:close() end)

    before_each(function()
      storage.db:exec [[TRUNCATE workflows, executions, execution_history, workflow_jobs, task_checkpoints, blobs,
        blob_orphans]]
      for object in storage.blobs:list() do storage.blobs:delete(object.key) end
      run("seed", { executions = EXECUTIONS, ["until"] = UNTIL, workflows = 3 })
    end)

    it("hold every row, and give it back as it was", function()
      local before = fingerprint()
      local done = run("archive-executions", { per_object = EXECUTIONS // 3 + 1 })
      assert.equal(3, done.archives)
      assert.equal(EXECUTIONS, done.executions)
      assert.equal(EXECUTIONS, done.jobs)
      assert.equal(0, executions())
      assert.equal(0, storage.db:value "SELECT count(*) FROM workflow_jobs")
      assert.equal(0, storage.db:value "SELECT count(*) FROM execution_history")

      local listed = run("list-archives", { verify = true }).rows
      assert.equal(3, #listed)
      for _, row in ipairs(listed) do assert.equal("verified", row.state) end

      storage.db:exec "DELETE FROM workflows" -- they come back too
      local restored = run("restore-archive", { all = true })
      assert.equal(EXECUTIONS, restored.executions)
      assert.equal(2 * EXECUTIONS, restored.history)
      assert.equal(before, fingerprint())
      assert.equal(0, run("restore-archive", { all = true }).executions)
      assert.equal(before, fingerprint())
    end)

    it("take only what ended, long enough ago, with nothing left to run", function()
      local db = storage.db
      local ids = db:query "SELECT id, workflow_id FROM executions ORDER BY id LIMIT 3"
      db:exec("UPDATE executions SET status = 'running', completed_at = NULL WHERE id = $1", ids[1].id)
      db:exec("UPDATE executions SET completed_at = now() WHERE id = $1", ids[2].id)
      db:exec("INSERT INTO workflow_jobs (execution_id, payload) VALUES ($1, '{}')", ids[3].id)
      assert.equal(EXECUTIONS - 3, tasks.preview(storage, tasks.load "archive-executions", {}).would_archive)
      assert.equal(EXECUTIONS - 3, run("archive-executions").executions)
      assert.equal(3, executions())
    end)

    it("bring back single executions", function()
      local id = storage.db:value "SELECT id FROM executions ORDER BY id LIMIT 1"
      run("archive-executions")
      local done = run("restore-archive", { all = true, execution = { id } })
      assert.same({ archives = 1, executions = 1, history = 2, jobs = 1 }, done)
      assert.equal(id, storage.db:value "SELECT id FROM executions")
    end)

    it("leave artifacts and large states where they are, owned, also in a database made anew", function()
      local workflow = storage:save_workflow { name = "large", definition = {} }
      local id = storage:create_execution({ workflow_id = workflow.id, state = { text = ("a"):rep(STATE_LIMIT) } }).id
      storage:transition_execution(id, "running")
      local last = { text = ("b"):rep(STATE_LIMIT), big = 9007199254740993 }
      storage.db:transaction(function(tx) storage:update_execution({ id = id, state = last }, tx) end)
      storage:transition_execution(id, "completed")
      storage.blobs:upload("artifacts/report", "a report", { execution_id = id })
      storage.db:exec("UPDATE executions SET completed_at = now() - interval '60 days' WHERE id = $1", id)
      storage.db:exec "UPDATE blobs SET created_at = now() - interval '2 days'"
      assert.equal(3, storage.db:value "SELECT count(*) FROM blobs") -- the first state, too
      local before = storage.db:query([[
        SELECT b.* FROM blobs b JOIN executions e ON e.id = b.execution_id
        WHERE b.key IN ('artifacts/report', e.state #>> '{$blob,key}')
        ORDER BY b.key
      ]])
      assert.equal(EXECUTIONS + 1, run("archive-executions").executions)

      local key = run("list-archives").rows[1].archive
      for _, row in ipairs(before) do row.archive = key end
      assert.same({ uploads = 0, states = 0 }, run "sweep-blobs")
      assert.equal(1, run("gc-blobs", { prefix = "", grace = 0 }).deleted) -- the state that was replaced
      assert.same(before, storage.db:query "SELECT * FROM blobs ORDER BY key")

      storage.db:exec "TRUNCATE workflows, executions, execution_history, workflow_jobs, blobs RESTART IDENTITY"
      run("restore-archive", { all = true, execution = { id } })
      assert.same(last, storage:get_execution(id).state)
      assert.same(before, storage.db:query "SELECT * FROM blobs ORDER BY key")
      assert.equal("a report", (storage.blobs:download "artifacts/report"))
      storage.db:exec("INSERT INTO execution_history (execution_id, to_status) VALUES ($1, 'seen')", id)
      local history = storage:execution_history(id)
      assert.equal("seen", history[#history].to_status)
    end)

    it("own the artifacts of their executions until they are gone themselves", function()
      local kept = storage.db:value "SELECT id FROM executions ORDER BY completed_at LIMIT 1"
      local gone = storage.db:value "SELECT id FROM executions ORDER BY completed_at DESC LIMIT 1"
      for _, id in ipairs { kept, gone } do
        storage.blobs:upload("artifacts/" .. id, "a report", { execution_id = id })
      end
      run "archive-executions"
      local key = run("list-archives").rows[1].archive
      run("restore-archive", { archive = { key }, execution = { kept } })
      assert.equal(1, run("purge-executions", { keep = { completed = 0, failed = 0, cancelled = 0 } }).executions)
      assert.equal(0, run("gc-blobs", { prefix = "", grace = 0 }).deleted) -- the archive has what it had
      run("restore-archive", { archive = { key }, execution = { kept } })
      storage.blobs:delete_many { key, key .. ".manifest.json" }
      local done = run("gc-blobs", { prefix = "", grace = 0 })
      assert.same({ 1, 1 }, { done.forgotten, done.deleted })
      assert.is_false(storage.blobs:exists("artifacts/" .. gone))
      assert.same({ { key = "artifacts/" .. kept, execution_id = kept } },
        storage.db:query "SELECT key, execution_id, archive FROM blobs")
    end)

    it("keep the null of JSON apart from no value", function()
      local id = storage.db:value "SELECT execution_id FROM workflow_jobs ORDER BY id LIMIT 1"
      storage.db:exec("UPDATE workflow_jobs SET payload = 'null', result = NULL WHERE execution_id = $1", id)
      local before = fingerprint()
      run "archive-executions"
      run("restore-archive", { all = true })
      assert.equal(before, fingerprint())
      assert.equal(1, storage.db:value "SELECT count(*) FROM workflow_jobs WHERE payload = 'null'")
    end)

    it("are refused whole where their data is not what the manifest describes", function()
      run("archive-executions")
      local key = run("list-archives").rows[1].archive
      local manifest = nebula.json.decode((storage.blobs:get(key .. ".manifest.json")))
      local function rewritten(changes)
        local copy = {}
        for field, value in pairs(manifest) do copy[field] = value end
        for field, value in pairs(changes) do copy[field] = value end
        storage.blobs:put(key .. ".manifest.json", nebula.json.encode(copy))
        return failure(run, "restore-archive", { archive = { key } })
      end
      assert.matches("is not what its manifest describes", rewritten({ sha256 = ("0"):rep(64) }).message)
      assert.matches("is not what its manifest describes", rewritten({ bytes = manifest.bytes + 1 }).message)
      local counts = nebula.json.decode(nebula.json.encode(manifest.counts))
      counts.job = counts.job + 1
      assert.matches("its manifest says " .. counts.job, rewritten({ counts = counts }).message)
      assert.matches("written by a newer version", rewritten({ format = 99 }).message)
      assert.matches("`sha256` or `key` is missing", rewritten({ sha256 = 7 }).message)
      local columns = nebula.json.decode(nebula.json.encode(manifest.columns))
      table.insert(columns.execution, "flavour")
      assert.matches("flavour.+run: nebula migrate up", rewritten({ columns = columns }).message)
      storage.blobs:put(key .. ".manifest.json", "no JSON")
      assert.matches("it is no manifest of an archive", failure(run, "restore-archive", { archive = { key } }).message)
      assert.matches("`nebula task list%-archives` lists them",
        failure(run, "restore-archive", { archive = { "nowhere" } }).message)
      assert.equal(0, executions())
      assert.matches("it is no manifest", run("list-archives").rows[1].state)
    end)

    it("say what is missing on the command line", function()
      assert.equal("config", failure(run, "restore-archive", {}).kind)
      assert.matches("no archive below", failure(run, "restore-archive", { all = true }).message)
      assert.matches("wants UUIDs", failure(run, "restore-archive", { all = true, execution = { "7" } }).message)
      assert.same({ archives = 0, executions = 0, jobs = 0, bytes = 0, size = 0 },
        run("archive-executions", { older_than = "100000d" }))
    end)

    -- Calls fn while an archive waits for the lock that `locking` takes.
    local function while_archiving(locking, fn)
      local archiving
      storage.db:transaction(function(tx)
        tx:exec(locking)
        archiving = nebula.task.spawn(run, "archive-executions", {})
        child.await("an archive that waits", 90, function()
          return storage.db:value [[SELECT EXISTS (SELECT FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock')]]
        end)
        fn()
      end)
      return archiving:join()
    end

    it("leave an execution that goes on while it is archived", function()
      local id = storage.db:value "SELECT id FROM executions WHERE status = 'failed' ORDER BY id LIMIT 1"
      local done = while_archiving("SELECT FROM execution_history LIMIT 1 FOR UPDATE", function()
        storage:retry_execution(id)
      end)
      assert.equal(EXECUTIONS - 1, done.executions)
      assert.equal(EXECUTIONS - 1, run("list-archives", { verify = true }).rows[1].executions)
      assert.equal(id, storage.db:value "SELECT id FROM executions")
      assert.equal(3, #storage:execution_history(id))
    end)

    it("lose nothing that is written of an execution while it is archived", function()
      local id = storage.db:value "SELECT id FROM executions ORDER BY id LIMIT 1"
      while_archiving("SELECT FROM workflow_jobs LIMIT 1 FOR UPDATE", function()
        storage.db:exec("INSERT INTO execution_history (execution_id, to_status) VALUES ($1, 'seen')", id)
      end)
      assert.equal(0, executions())
      assert.equal(1, #run("list-archives", { verify = true }).rows)
      assert.equal(2 * EXECUTIONS, run("restore-archive", { all = true }).history)
      local history = storage:execution_history(id)
      assert.same({ 3, "seen" }, { #history, history[#history].to_status })
    end)

    it("are whole where somebody stops the task between two of them", function()
      local asked = 0
      local err = failure(tasks.run, storage, "archive-executions", { per_object = EXECUTIONS // 3 }, {
        stop_asked = function()
          asked = asked + 1
          return asked > 1
        end,
      })
      assert.equal("cancelled", err.kind)
      local listed = run("list-archives", { verify = true }).rows
      assert.same({ 1, "verified" }, { #listed, listed[1].state })
      assert.equal(EXECUTIONS - listed[1].executions, executions())
      assert.equal(0, storage.db:value "SELECT count(*) FROM task_checkpoints")
    end)

    it("leave everything in the database where it refuses to delete", function()
      local before = fingerprint()
      storage.db:exec [[
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no deletes today'; END $$;
        CREATE TRIGGER refuse BEFORE DELETE ON executions FOR EACH STATEMENT EXECUTE FUNCTION refuse()
      ]]
      local err = failure(run, "archive-executions")
      storage.db:exec "DROP TRIGGER refuse ON executions; DROP FUNCTION refuse"
      assert.matches("no deletes today", err.message)
      assert.equal(before, fingerprint())
      assert.equal(0, #run("list-archives").rows)
      run("archive-executions")
      local kept = 0
      for _ in storage.blobs:list { prefix = "archive/" } do kept = kept + 1 end
      assert.equal(2, kept) -- the object of the run that failed was removed
      run("restore-archive", { all = true })
      assert.equal(before, fingerprint())
    end)
  end)
end
