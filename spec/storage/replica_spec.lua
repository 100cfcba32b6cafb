-- Reads on a real standby, and on the primary where the standby cannot answer or the caller asks.
local child = require "spec.support.child"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local storages = require "nebula.storage"

describe("a storage with a replica", function()
  local primary, standby, storage, workflow

  lazy_setup(function()
    primary = postgres.server { wal_level = "replica", max_wal_senders = "4", hot_standby = "on" }
    standby = primary:standby()
    storage = storages.new { database_url = primary:url(), replica_url = standby:url(), max_connections = 4 }
    storage:run_migrations { log = function() end }
    workflow = storage:save_workflow { name = "w", definition = { a = 1 } }
  end)
  lazy_teardown(function()
    if storage then storage:close() end
    if standby then standby:close() end
    if primary then primary:close() end
  end)

  local function caught_up()
    child.await("the standby to replay what was written", 60, function()
      return storage:get_workflow(workflow.id) ~= nil and storage:get_workflow(workflow.id).definition.a
        == storage:fresh():get_workflow(workflow.id).definition.a
    end)
  end

  local function replay(verb)
    local db <close> = nebula.pg.connect { url = standby:url(), max_connections = 1 }
    db:query("SELECT pg_wal_replay_" .. verb .. "()")
  end

  it("reads there, and from the primary what must be fresh", function()
    caught_up()
    replay "pause"
    local run = storage:create_execution { workflow_id = workflow.id }
    local job = storage:push_job { payload = {} }
    assert.is_nil(storage:get_execution(run.id))
    assert.is_nil(storage:get_job(job.id))
    assert.equal(0, #storage:list_executions())
    assert.equal(0, storage:queue_stats().due)
    local fresh = storage:fresh()
    assert.equal(run.id, fresh:get_execution(run.id).id)
    assert.equal(1, #fresh:list_jobs())
    assert.equal(1, fresh:queue_stats().due)
    assert.equal("running", fresh:transition_execution(run.id, "running").status)
    assert.equal(1, #fresh:execution_history(run.id))
    assert.equal(fresh, fresh:fresh())
    replay "resume"
    child.await("the standby to show the execution", 60, function() return storage:get_execution(run.id) ~= nil end)
  end)

  it("reads from the primary while the replica is away", function()
    standby:stop "immediate"
    local run = storage:create_execution { workflow_id = workflow.id }
    for _ = 1, 3 do assert.equal(run.id, storage:get_execution(run.id).id) end
    standby:start()
    caught_up()
  end)

  it("is what DATABASE_REPLICA_URL makes of the environment's", function()
    caught_up()
    local program = require "spec.support.nebula"
    local result = program.run {
      args = { "-e", [[
        print(storage.reads:value "SELECT pg_is_in_recovery()", storage.db:value "SELECT pg_is_in_recovery()",
          #storage:list_workflows { name = "w" })
      ]] }, cwd = program.scratch(),
      env = { DATABASE_URL = primary:url(), DATABASE_REPLICA_URL = standby:url() },
    }
    assert.equal("true\tfalse\t1\n", result.stdout, result.stderr)
  end)
end)
