-- purge-executions: what goes with an execution, and what does not.
local directory = require "spec.support.directory"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local storages = require "nebula.storage"
local tasks = require "nebula.tasks"

describe("purged executions", function()
  local storage, db, workflow

  local function run(task, options) return (tasks.run(storage, task, options)) end

  setup(function()
    storage = storages.new { database_url = postgres.database(), state_limit = 1000,
      blobs = "file:" .. directory.make "purged" }
    db = storage.db
    storage:run_migrations { log = function() end }
    workflow = storage:save_workflow { name = "purged", definition = {} }
  end)
  teardown(function() storage:close() end)

  -- An execution that ended 100 days ago, with a large state, an artifact and a job.
  local function ended(name)
    local id = storage:create_execution({ workflow_id = workflow.id, state = { text = ("x"):rep(1000) } }).id
    storage.blobs:upload("artifacts/" .. name, name, { execution_id = id })
    storage:transition_execution(id, "running")
    storage:transition_execution(id, "completed")
    db:exec([[INSERT INTO workflow_jobs (execution_id, payload, status, finished_at)
      VALUES ($1, '{}', 'completed', now() - interval '100 days')]], id)
    db:exec("UPDATE executions SET completed_at = now() - interval '100 days' WHERE id = $1", id)
    return id
  end

  it("leave their objects to gc-blobs, which takes those alone", function()
    storage.blobs:upload("artifacts/nobody's", "kept")
    local kept = storage:create_execution { workflow_id = workflow.id, state = { text = ("y"):rep(1000) } }
    ended "gone"
    assert.same({ executions = 1, jobs = 1 }, run "purge-executions")
    assert.equal(2, run("gc-blobs", { prefix = "", grace = 0 }).deleted)
    assert.is_false(storage.blobs:exists "artifacts/gone")
    assert.equal("kept", (storage.blobs:download "artifacts/nobody's"))
    assert.equal(("y"):rep(1000), storage:get_execution(kept.id).state.text)
    assert.equal(2, db:value "SELECT count(*) FROM blobs")
  end)

  it("are not those that got a job in the meantime: they keep all they have", function()
    local id = ended "late"
    db:exec(([[
      CREATE FUNCTION push_late() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          INSERT INTO workflow_jobs (execution_id, payload) VALUES (%s, '{}');
          RETURN NULL;
        END
      $$;
      CREATE TRIGGER push_late BEFORE DELETE ON workflow_jobs FOR EACH STATEMENT EXECUTE FUNCTION push_late()
    ]]):format(nebula.pg.literal(id)))
    local done = run "purge-executions"
    db:exec "DROP TRIGGER push_late ON workflow_jobs; DROP FUNCTION push_late"
    assert.equal(0, done.executions)
    assert.equal(2, #storage:execution_history(id))
    assert.equal(2, #storage:list_blobs { execution_id = id })
    assert.equal(1000, #storage:get_execution(id).state.text)
  end)
end)
