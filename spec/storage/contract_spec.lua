-- What other programs call: each operation is there under its name, and refuses bad input by the name of
-- the field with nothing written.
local directory = require "spec.support.directory"
local child = require "spec.support.child"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local storages = require "nebula.storage"

local OPERATIONS = {
  "save_workflow", "get_workflow", "list_workflows", "search_workflows", "deploy_workflow", "archive_workflow",
  "export_workflows", "import_workflows", "create_execution", "create_executions", "get_execution", "list_executions",
  "update_execution", "update_executions", "transition_execution", "cancel_execution", "pause_execution",
  "resume_execution", "retry_execution", "execution_history", "push_job", "push_jobs", "claim_job", "claim_jobs",
  "heartbeat_jobs", "complete_job", "complete_jobs", "fail_job", "release_jobs", "cancel_job", "list_jobs",
  "requeue_jobs", "queue_stats", "run_migrations", "list_blobs", "sweep_blobs", "close",
}
local BLOBS = { "upload", "download", "exists", "delete", "writer", "reader", "put", "get", "head", "list", "copy" }

describe("a storage", function()
  local storage, workflow, run

  setup(function()
    storage = storages.new {
      database_url = postgres.database(), max_connections = 4, pool = { idle_timeout = 60, min_idle = 0 },
      blobs = directory.make("blobs-" .. child.next_number "directories"),
    }
    storage:run_migrations { log = function() end }
    workflow = storage:save_workflow { name = "w", definition = {} }
    run = storage:create_execution { workflow_id = workflow.id }
  end)
  teardown(function() storage:close() end)

  it("has every operation", function()
    for _, name in ipairs(OPERATIONS) do assert.is_function(storage[name], name) end
    for _, name in ipairs(BLOBS) do assert.is_function(storage.blobs[name], name) end
  end)

  it("is made by the seed's names", function()
    local place = directory.make("blobs-" .. child.next_number "directories")
    local made <close> = storages.with_pool_config(postgres.database(), { max_size = 3, min_idle = 0, max_lifetime = 60,
      idle_timeout = "1m", connection_timeout = 60 })
    assert.equal(1, made.db:value "SELECT 1")
    local new <close> = storages.new { database_url = postgres.database(), s3_endpoint = "http://127.0.0.1:1",
      s3_bucket = "bucket", s3_access_key = "a", s3_secret_key = "b", s3_region = "eu-west-1",
      s3_use_path_style = true, pool = { max_connections = 2 } }
    assert.equal("s3", new.blobs.kind)
    for _, wrong in ipairs { { database_url = 7 }, { database_url = "postgresql:///x", colour = 1 },
      { database_url = "postgresql:///x", pool = { size = 1 } }, { blobs = place },
      { database_url = "postgresql:///x", state_limit = -1 } } do
      local _, err = nebula.try(storages.new, wrong)
      assert.equal("validation", err.kind)
    end
  end)

  -- The operation, its arguments, and what the message must name.
  local function cases()
    local id = run.id
    local function execution(fields)
      fields.workflow_id = fields.workflow_id or workflow.id
      return { fields }
    end
    return {
      { "save_workflow", { { name = "x" } }, "definition wants a JSON object, not nil" },
      { "save_workflow", { { name = "x", definition = "{}" } }, "definition wants a JSON object, not string" },
      { "save_workflow", { { name = "x", definition = { 1, 2 } } }, "definition wants a JSON object, not an array" },
      { "save_workflow", { { name = "x", definition = { [1] = 1, a = 2 } } }, "definition" },
      { "save_workflow", { { name = "x", definition = { f = print } } }, "definition" },
      { "save_workflow", { { name = "x", definition = { n = 0 / 0 } } }, "definition" },
      { "save_workflow", { { name = "a\0b", definition = {} } }, "name holds a NUL" },
      { "save_workflow", { { name = "\xff", definition = {} } }, "name is not UTF" },
      { "save_workflow", { { name = "x", definition = {}, version = 0 } }, "version wants a whole number" },
      { "save_workflow", { { name = "x", definition = {}, version = 1 << 40 } }, "version wants a whole number" },
      { "save_workflow", { { name = "x", definition = {}, status = "actve" } }, "did you mean active" },
      { "save_workflow", { { id = "1", name = "x", definition = {} } }, "id wants a UUID" },
      { "save_workflow", { { id = workflow.id, name = "x", definition = {}, updated_at = "soon" } },
        "updated_at wants" },
      { "get_workflow", { 7 }, "get_workflow wants a UUID" },
      { "get_workflow", { { name = "x", version = "one" } }, "version wants a whole number" },
      { "list_workflows", { { colour = 1 } }, "unknown field colour" },
      { "list_workflows", { { limit = 0 } }, "limit wants a whole number" },
      { "list_workflows", { { version = "x" } }, "version wants a whole number" },
      { "list_workflows", { { deployed = 1 } }, "deployed wants true or false" },
      { "search_workflows", { {} }, "`contains` or `path`" },
      { "search_workflows", { { path = "$[" } }, "path" },
      { "create_execution", execution { state = { 1 } }, "state wants a JSON object" },
      { "create_execution", execution { state = { a = "\0" } }, "NUL" },
      { "create_execution", execution { id = "x" }, "id wants a UUID" },
      { "create_execution", execution { workflow_id = "x" }, "workflow_id wants a UUID" },
      { "create_execution", execution { idempotency_key = ("k"):rep(501) }, "longer than 500" },
      { "create_execution", execution { idempotency_key = "a\0" }, "NUL" },
      { "create_execution", execution { started_at = 1 }, "unknown field started_at" },
      { "list_executions", { { status = "done" } }, "none of created" },
      { "list_executions", { { workflow_id = "x" } }, "workflow_id wants a UUID" },
      { "list_executions", { { after = "x" } }, "after wants a UUID" },
      { "update_execution", { { id = id, status = "over" } }, "none of created" },
      { "update_execution", { { id = id, error = "a\0b" } }, "error holds a NUL" },
      { "update_execution", { { id = id, updated_at = "99999-01-01T00:00:00Z" } }, "updated_at" },
      { "update_executions", { { { id = id }, { id = id:upper() } } }, "is there twice" },
      { "transition_execution", { id, "over" }, "none of created" },
      { "transition_execution", { id, "running", { error = "a\0" } }, "NUL" },
      { "transition_execution", { id, "running", { to = "x" } }, "unknown field to" },
      { "push_job", { { payload = 7 } }, "payload wants a JSON object" },
      { "push_job", { { payload = { a = "\0" } } }, "NUL" },
      { "push_job", { { payload = {}, scheduled_at = "tomorrow" } }, "scheduled_at wants" },
      { "push_job", { { payload = {}, scheduled_at = 1e15 } }, "out of range" },
      { "push_job", { { payload = {}, scheduled_at = 0 / 0 } }, "out of range" },
      { "push_job", { { payload = {}, scheduled_at = "infinity" } }, "out of range" },
      { "push_job", { { payload = {}, scheduled_at = "2026-02-30T00:00:00Z" } }, "scheduled_at wants" },
      { "push_job", { { payload = {}, delay = "soon" } }, "delay wants a duration" },
      { "push_job", { { payload = {}, delay = 1e12 } }, "delay" },
      { "push_job", { { payload = {}, priority = 1.5 } }, "priority wants a whole number" },
      { "push_job", { { payload = {}, max_retries = -1 } }, "max_retries wants" },
      { "push_job", { { payload = {}, unique_key = "a\0" } }, "unique_key holds a NUL" },
      { "push_job", { { payload = {}, lane = "a\0" } }, "lane" },
      { "push_job", { { payload = {}, lane = 7 } }, "lane" },
      { "push_job", { { payload = {}, queue = "x" } }, "unknown field queue" },
      { "push_jobs", { { { payload = {} }, { payload = 1 } } }, "payload wants a JSON object" },
      { "push_jobs", { "x" }, "wants a list" },
      { "update_executions", { "x" }, "wants a list" },
      { "create_executions", { 7 }, "wants a list" },
      { "list_jobs", { { status = "over" } }, "none of pending" },
      { "list_jobs", { { priority = "high" } }, "priority wants a whole number" },
      { "requeue_jobs", { { status = "completed" } }, "none of failed" },
      { "cancel_job", { "x" }, "wants a UUID" },
      { "list_blobs", { { execution_id = "x" } }, "execution_id wants a UUID" },
      { "sweep_blobs", { { older_than = "long" } }, "wants a duration" },
    }
  end

  it("refuses bad input by the field's name, and writes nothing", function()
    local function rows()
      return storage.db:one [[
        SELECT (SELECT count(*) FROM workflows) AS w, (SELECT count(*) FROM executions) AS e,
          (SELECT count(*) FROM workflow_jobs) AS j, (SELECT max(updated_at) FROM executions) AS last
      ]]
    end
    local before = rows()
    for _, case in ipairs(cases()) do
      local label = case[1] .. ", which should name " .. case[3]
      local _, err = nebula.try(storage[case[1]], storage, table.unpack(case[2]))
      assert.is_table(err, label)
      assert.equal("validation", err.kind, label .. ": " .. tostring(err))
      assert.truthy(err.message:find(case[3], 1, true), label .. ": " .. err.message)
    end
    assert.same(before, rows())
  end)

  it("stores text that would be SQL as it is", function()
    local text = "'); DROP TABLE workflows; --"
    local saved = storage:save_workflow { name = text, definition = { [text] = text } }
    assert.equal(text, storage:get_workflow({ name = text }).definition[text])
    assert.equal(1, #storage:search_workflows { contains = { [text] = text } })
    assert.equal(saved.id, storage:list_workflows({ name = text })[1].id)
  end)
end)
