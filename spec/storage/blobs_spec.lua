-- Blobs and the table that knows them, and states that are large enough to be one: in a directory and
-- in S3.
local directory = require "spec.support.directory"
local child = require "spec.support.child"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local s3 = require "spec.support.s3"
local storages = require "nebula.storage"
local tasks = require "nebula.tasks"

local LIMIT = 2000

local function settings_of(place)
  if place == "S3" then
    return { s3_endpoint = s3.endpoint(), s3_region = s3.region, s3_bucket = s3.bucket(),
      s3_access_key = s3.access_key_id, s3_secret_key = s3.secret_access_key }
  end
  return { blobs = "file:" .. directory.make("blobs-" .. child.next_number "directories") }
end

for _, place in ipairs { "a directory", "S3" } do
  describe("blobs in " .. place, function()
    local storage, workflow

    setup(function()
      local settings = settings_of(place)
      settings.database_url, settings.max_connections, settings.state_limit = postgres.database(), 8, LIMIT
      storage = storages.new(settings)
      storage:run_migrations { log = function() end }
      workflow = storage:save_workflow { name = "w", definition = {} }
    end)
    teardown(function() storage:close() end)

    local function create(state) return storage:create_execution { workflow_id = workflow.id, state = state } end

    local function known(key) return storage:list_blobs({ key = key })[1] end

    local function refused(kind, ...)
      local _, err = nebula.try(...)
      assert.is_table(err)
      assert.equal(kind, err.kind)
      return err.message
    end

    local function large(text)
      return { text = text:rep(LIMIT), list = nebula.json.array {}, big = 9007199254740993 }
    end

    local function stored_states(id)
      return storage.db:value("SELECT count(*) FROM blobs WHERE execution_id = $1", id)
    end

    it("have no uploads under way where every writer has ended", function()
      do
        local writer <close> = storage.blobs:writer "begun"
        writer:write "and given up"
      end
      assert.same({}, storage.blobs:uploads {})
      storage.blobs:abort { key = "begun", id = "none" }
      assert.equal(0, storage.blobs:abort_uploads { older_than = 0 })
    end)

    it("are known with their execution, size and SHA-256, however they came", function()
      local run, data = create {}, ("x"):rep(3000)
      local url, kept = storage.blobs:upload("plain", data, { execution_id = run.id })
      assert.is_string(url)
      assert.same({ size = 3000, sha256 = nebula.crypto.sha256(data) }, kept)
      assert.equal(url, known("plain").url)
      assert.equal(run.id, known("plain").execution_id)
      local pieces = { "abc", "def" }
      storage.blobs:upload("read", function() return table.remove(pieces, 1) end)
      assert.equal(nebula.crypto.sha256 "abcdef", known("read").sha256)
      assert.equal("abcdef", storage.blobs:download "read")
      local path = directory.make("files-" .. child.next_number "directories") .. "/file"
      nebula.fs.write(path, data)
      storage.blobs:upload("file", { file = path })
      assert.equal(3000, known("file").size)
      do
        local writer <close> = storage.blobs:writer("streamed", { execution_id = run.id })
        writer:write("one", "two")
        assert.is_nil(known "streamed")
        writer:finish()
      end
      assert.equal(nebula.crypto.sha256 "onetwo", known("streamed").sha256)
      do
        local writer <close> = storage.blobs:writer("packed", { compress = "zstd" })
        writer:write(data)
        writer:finish()
      end
      local packed = storage.blobs:get "packed"
      assert.same({ #packed, nebula.crypto.sha256(packed) }, { known("packed").size, known("packed").sha256 })
      assert.equal(2, #storage:list_blobs { execution_id = run.id })
      assert.is_true(storage.blobs:exists "streamed")
      storage.blobs:delete "streamed"
      storage.blobs:delete "streamed"
      assert.is_false(storage.blobs:exists "streamed")
      assert.is_nil(known "streamed")
      assert.is_nil(storage.blobs:download "streamed")
      assert.equal(0, storage.db:value "SELECT count(*) FROM blob_uploads")
    end)

    it("leave nothing where a writer is left, or an option or a condition refused", function()
      do
        local writer <close> = storage.blobs:writer "left"
        writer:write "half"
      end
      storage.blobs:upload("once", "1", { if_none_match = "*" })
      refused("conflict", storage.blobs.upload, storage.blobs, "once", "2", { if_none_match = "*" })
      refused("validation", storage.blobs.writer, storage.blobs, "once", { compress = "zstd", level = 99 })
      assert.equal(nebula.crypto.sha256 "1", known("once").sha256)
      assert.is_nil(known "left")
      assert.equal(0, storage.db:value "SELECT count(*) FROM blob_uploads")
    end)

    it("are swept where their upload was cut off, and told anew where it had replaced another", function()
      local function cut_off(key, data)
        storage.db:exec("INSERT INTO blob_uploads (id, key, started_at) VALUES ($1, $2, now() - interval '2 days')",
          nebula.crypto.uuid_v7(), key)
        if data then storage.blobs:put(key, data) end
      end
      storage.blobs:upload("replaced", "old")
      cut_off("replaced", "newer")
      cut_off("unowned", "x")
      cut_off "never came"
      assert.equal(3, tasks.run(storage, "sweep-blobs", {}).uploads)
      assert.is_false(storage.blobs:exists "unowned")
      assert.equal("newer", storage.blobs:download "replaced")
      assert.equal(nebula.crypto.sha256 "newer", known("replaced").sha256)
      assert.equal(0, storage.db:value "SELECT count(*) FROM blob_uploads")
    end)

    it("hold a state above the limit, which is read back as if it were in its row", function()
      local state = large "s"
      local run = create(state)
      local function same(found) assert.same(nebula.json.encode(state, { sort_keys = true }),
        nebula.json.encode(found.state, { sort_keys = true })) end
      same(run)
      same(storage:get_execution(run.id))
      same(storage:list_executions({ id = run.id })[1])
      same(storage:transition_execution(run.id, "running"))
      assert.is_true(storage.db:value("SELECT length(state::text) < 500 FROM executions WHERE id = $1", run.id))
      assert.equal(1, stored_states(run.id))
      state = large "t"
      storage:update_execution { id = run.id, state = state }
      same(storage:get_execution(run.id))
      assert.equal(1, stored_states(run.id))
      storage:transition_execution(run.id, "completed", { state = { small = true } })
      assert.same({ small = true }, storage:get_execution(run.id).state)
      assert.equal(0, stored_states(run.id))
    end)

    it("hold no state of a change that did not stand", function()
      local run = create(large "s")
      refused("conflict", storage.transition_execution, storage, run.id, "completed", { state = large "t" })
      refused("not_found", storage.update_executions, storage, {
        { id = run.id, state = large "u" }, { id = nebula.crypto.uuid_v7(), state = large "v" } })
      assert.equal(1, stored_states(run.id))
      assert.equal(large("s").text, storage:get_execution(run.id).state.text)
      nebula.try(storage.db.transaction, storage.db, function(tx)
        storage:update_execution({ id = run.id, state = large "w" }, tx)
        error "no"
      end)
      assert.equal(large("s").text, storage:get_execution(run.id).state.text)
      storage.db:exec "UPDATE blobs SET created_at = now() - interval '2 days'"
      assert.equal(1, storage:sweep_blobs().states)
      assert.equal(large("s").text, storage:get_execution(run.id).state.text)
    end)

    it("hold no state of an execution that was never made", function()
      local id = nebula.crypto.uuid_v7()
      nebula.try(storage.db.transaction, storage.db, function(tx)
        storage:create_execution({ id = id, workflow_id = workflow.id, state = large "x" }, tx)
        error "no"
      end)
      assert.equal(1, stored_states(id))
      assert.equal(0, storage:sweep_blobs().states) -- it may be about to be made
      storage.db:exec("UPDATE blobs SET created_at = now() - interval '2 days' WHERE execution_id = $1", id)
      assert.equal(1, storage:sweep_blobs({ dry_run = true }).states)
      assert.equal(1, storage:sweep_blobs().states)
      assert.equal(0, stored_states(id))
    end)

    it("give the same execution for the same request with a large state, stored once", function()
      local request = { workflow_id = workflow.id, state = large "k", idempotency_key = "large" }
      local function stored() return storage.db:value "SELECT count(*) FROM blobs" end
      local before = stored()
      local first, second = storage:create_execution(request), storage:create_execution(request)
      assert.equal(first.id, second.id)
      assert.equal(first.state.text, second.state.text)
      assert.equal(before + 1, stored())
    end)

    it("are read by many while others change the state", function()
      local run, stop = create(large "a"), false
      nebula.task.scope(function(scope)
        scope:spawn(function()
          for i = 1, 30 do storage:update_execution { id = run.id, state = large(i % 2 == 0 and "b" or "c") } end
          stop = true
        end)
        while not stop do assert.equal(LIMIT, #storage:get_execution(run.id).state.text) end
      end)
      assert.equal(1, stored_states(run.id))
    end)

    it("tell a state that was damaged", function()
      local run = create(large "d")
      local key = storage.db:value("SELECT state #>> '{$blob,key}' FROM executions WHERE id = $1", run.id)
      storage.blobs:put(key, "{}")
      assert.matches("damaged", refused("io", storage.get_execution, storage, run.id))
      refused("validation", storage.update_execution, storage, { id = run.id, state = { ["$blob"] = {} } })
    end)
  end)
end

describe("a storage without a place for blobs, or without migrations", function()
  it("keeps every state in its row", function()
    local program = require "spec.support.nebula"
    local result = program.run {
      args = { "-e", [[
        storage:run_migrations { log = function() end }
        local w = storage:save_workflow { name = "w", definition = {} }
        local run = storage:create_execution { workflow_id = w.id, state = { text = ("x"):rep(400000) } }
        print(#storage:get_execution(run.id).state.text)
      ]] }, env = { DATABASE_URL = postgres.database() }, cwd = program.scratch(),
    }
    assert.equal("400000\n", result.stdout, result.stderr)
  end)

  it("stores what nobody can own", function()
    local storage <close> = storages.new { database_url = postgres.database(),
      blobs = directory.make("blobs-" .. child.next_number "directories") }
    storage.blobs:upload("a", "b")
    do
      local writer <close> = storage.blobs:writer "c"
      writer:write "d"
      writer:finish()
    end
    assert.equal("d", storage.blobs:download "c")
    storage.blobs:delete "c"
  end)
end)
