-- Executions: idempotent creation, the checked state machine, batches in one statement.
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local storages = require "nebula.storage"

describe("executions", function()
  local storage, workflow

  setup(function()
    storage = storages.with_pool_config(postgres.database(), { max_size = 6 })
    storage:run_migrations { log = function() end }
    workflow = storage:save_workflow { name = "w", definition = {} }
  end)
  teardown(function() storage:close() end)

  local function refused(kind, ...)
    local _, err = nebula.try(...)
    assert.is_table(err)
    assert.equal(kind, err.kind)
    return err.message
  end

  local function create(state) return storage:create_execution { workflow_id = workflow.id, state = state } end

  it("keeps its state value for value", function()
    local state = { big = 9007199254740993, tenth = 0.1, list = nebula.json.array {}, object = {}, null = nebula.null }
    local found = storage:get_execution(create(state).id)
    assert.equal("created", found.status)
    assert.equal(9007199254740993, found.state.big)
    assert.equal('{"big":9007199254740993,"list":[],"null":null,"object":{},"tenth":0.1}',
      nebula.json.encode(found.state, { sort_keys = true }))
  end)

  it("lets batches that share keys wait for each other, in whatever order they have them", function()
    for round = 1, 20 do
      local function batch(first, last, step)
        local list = {}
        for i = first, last, step do
          list[#list + 1] = { workflow_id = workflow.id, idempotency_key = ("shared %d %03d"):format(round, i) }
        end
        return list
      end
      local lists = { batch(1, 200, 1), batch(200, 1, -1) }
      local made = nebula.task.map({ 1, 2 }, function(i) return storage:create_executions(lists[i]) end)
      assert.equal(200, #made[1] + #made[2])
      for _, list in ipairs(made) do
        local ascending = list == made[1]
        for i = 2, #list do
          assert.equal(ascending, list[i - 1].idempotency_key < list[i].idempotency_key)
        end
      end
    end
  end)

  it("gives the same execution for the same request, and a conflict for another", function()
    local request = { workflow_id = workflow.id, state = { a = 1, b = 2 }, idempotency_key = "k1" }
    local made = nebula.task.map({ 1, 2, 3, 4 }, function() return storage:create_execution(request).id end)
    for i = 2, 4 do assert.equal(made[1], made[i]) end
    local message = refused("conflict", storage.create_execution, storage,
      { workflow_id = workflow.id, state = { a = 2 }, idempotency_key = "k1" })
    assert.matches("used for another request", message)
  end)

  it("refuses an execution of no workflow", function()
    refused("not_found", storage.create_execution, storage, { workflow_id = nebula.crypto.uuid_v7() })
    assert.is_nil(storage:get_execution(nebula.crypto.uuid_v7()))
  end)

  it("changes status along legal transitions alone, and keeps the history", function()
    local id = create().id
    assert.matches("is created and cannot become completed", refused("conflict", storage.transition_execution,
      storage, id, "completed"))
    storage:transition_execution(id, "running")
    storage:transition_execution(id, "paused")
    refused("conflict", storage.transition_execution, storage, id, "running", { from = "running" })
    storage:transition_execution(id, "running", { from = "paused" })
    local ended = storage:transition_execution(id, "failed", { error = "no power", state = { at = 3 } })
    assert.equal("no power", ended.error)
    assert.is_string(ended.completed_at)
    refused("conflict", storage.transition_execution, storage, id, "running")
    local steps = {}
    for i, change in ipairs(storage:execution_history(id)) do steps[i] = change.from_status .. ">"
      .. change.to_status end
    assert.same({ "created>running", "running>paused", "paused>running", "running>failed" }, steps)
    refused("not_found", storage.transition_execution, storage, nebula.crypto.uuid_v7(), "running")
    assert.matches("did you mean running", refused("validation", storage.transition_execution, storage, id, "runing"))
  end)

  it("lets one of many who compare and set win", function()
    local id = create().id
    local won = nebula.task.map({ 1, 2, 3, 4, 5, 6 }, function()
      return nebula.try(storage.transition_execution, storage, id, "running", { from = "created" }) ~= nil
    end)
    local count = 0
    for _, ok in ipairs(won) do count = count + (ok and 1 or 0) end
    assert.equal(1, count)
  end)

  it("updates 10,000 in one statement, all or nothing", function()
    local list, changes = {}, {}
    for i = 1, 10000 do list[i] = { workflow_id = workflow.id, state = { n = i } } end
    for i, made in ipairs(storage:create_executions(list)) do
      changes[i] = { id = made.id, status = "running", state = { done = i } }
    end
    local before = storage.db:stats().requests
    assert.equal(10000, storage:update_executions(changes))
    assert.is_true(storage.db:stats().requests - before <= 2)
    changes[1].status = "created"
    assert.matches("is running and cannot become created; nothing was changed",
      refused("conflict", storage.update_executions, storage, changes))
    changes[1].status, changes[2].id = nil, nebula.crypto.uuid_v7()
    changes[3].state = { other = true }
    refused("not_found", storage.update_executions, storage, changes)
    assert.is_nil(storage:get_execution(changes[3].id).state.other)
  end)

  it("changes the named fields and leaves the others", function()
    local id = create({ a = 1 }).id
    storage:update_execution { id = id, error = "odd" }
    assert.equal(1, storage:get_execution(id).state.a)
    storage:update_execution { id = id, error = nebula.null, state = { a = 2 } }
    local found = storage:get_execution(id)
    assert.is_nil(found.error)
    assert.equal(2, found.state.a)
    refused("validation", storage.update_execution, storage, { id = id, colour = "red" })
    refused("validation", storage.update_execution, storage, { id = "7" })
  end)

  it("finds those of a state among many that are completed, which are newer, by an index", function()
    local url = postgres.database()
    local alone <close> = storages.with_pool_config(url, { max_size = 1 }) -- its session counts what it reads
    alone:run_migrations { log = function() end }
    alone.db:exec "ALTER TABLE executions SET (autovacuum_enabled = false)" -- its reads would count, too
    local flow = alone:save_workflow { name = "w", definition = {} }.id
    for _, part in ipairs { { "running", 5 }, { "failed", 5 }, { "completed", 20000 } } do
      alone.db:exec("INSERT INTO executions (workflow_id, status) SELECT $1, $2 FROM generate_series(1, $3)", flow,
        part[1], part[2])
    end
    local function read()
      alone.db:query "SELECT pg_stat_force_next_flush()"
      return alone.db:value [[
        SELECT heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read
        FROM pg_statio_user_tables
        WHERE relname = 'executions'
      ]]
    end
    local function pages(given, count)
      local before = read()
      assert.equal(count, #alone:list_executions(given))
      return read() - before
    end
    for _ = 1, 2 do
      for _ = 1, 8 do -- also once the server has a plan for all
        local one = pages({ status = "running" }, 5)
        assert.is_true(one < 50, one .. " pages")
        local several = pages({ status = { "failed", "running", "failed" }, limit = 8 }, 8)
        assert.is_true(several < 100, several .. " pages")
      end
      alone.db:exec "ANALYZE executions"
    end
    local rows = alone:list_executions { status = { "running", "failed", "completed" }, limit = 3 }
    assert.equal(rows[1].id, alone:list_executions({ limit = 1 })[1].id)
    assert.is_true(rows[1].id > rows[2].id and rows[2].id > rows[3].id)
    assert.same({}, alone:list_executions { status = {} })
  end)

  it("pages from the newest on, by status", function()
    local own = storage:save_workflow { name = "paged", definition = {} }
    for _ = 1, 5 do storage:create_execution { workflow_id = own.id } end
    local first = storage:list_executions { workflow_id = own.id, status = "created", limit = 3 }
    local second = storage:list_executions { workflow_id = own.id, status = { "created" }, limit = 3,
      after = first[3].id }
    assert.equal(3, #first)
    assert.equal(2, #second)
    assert.is_true(first[3].id > second[1].id)
  end)

  it("updates only what nobody has changed since, where it is asked to", function()
    local read = storage:get_execution(create({}).id)
    storage:update_execution { id = read.id, state = { n = 1 }, updated_at = read.updated_at }
    assert.matches("was changed by another since it was read", refused("conflict", storage.update_execution, storage,
      { id = read.id, state = { n = 2 }, updated_at = read.updated_at }))
    local other = create {}
    refused("conflict", storage.update_executions, storage, { { id = other.id, state = { n = 3 } },
      { id = read.id, state = { n = 3 }, updated_at = read.updated_at } })
    assert.is_nil(storage:get_execution(other.id).state.n)
  end)

  it("cancels, pauses, resumes and tries again a whole run with its jobs", function()
    local run = create {}
    local function job(status)
      local id = storage:push_job({ payload = {}, execution_id = run.id }).id
      storage.db:exec("UPDATE workflow_jobs SET status = $2 WHERE id = $1", id, status)
      return id
    end
    local pending, dead, done = job "pending", job "dead", job "completed"
    local function statuses()
      return { storage:get_job(pending).status, storage:get_job(dead).status, storage:get_job(done).status }
    end
    storage:transition_execution(run.id, "running")
    assert.equal("paused", storage:pause_execution(run.id).status)
    refused("conflict", storage.pause_execution, storage, run.id)
    assert.equal("running", storage:resume_execution(run).status)
    refused("conflict", storage.resume_execution, storage, run.id)
    assert.equal("cancelling", storage:cancel_execution(run.id, "no longer wanted").status)
    assert.equal("cancelling", storage:cancel_execution(run.id).status)
    assert.same({ "cancelled", "dead", "completed" }, statuses())
    assert.equal("no longer wanted", storage:get_execution(run.id).error)
    refused("conflict", storage.retry_execution, storage, run.id)
    storage:transition_execution(run.id, "cancelled")
    local again = storage:retry_execution(run.id)
    assert.equal("created", again.status)
    assert.is_nil(again.error)
    assert.is_nil(again.completed_at)
    assert.same({ "cancelled", "pending", "completed" }, statuses())
    assert.equal("cancelled", storage:cancel_execution(run.id).status)
    storage:transition_execution(storage:retry_execution(run.id).id, "running")
    storage:transition_execution(run.id, "completed")
    refused("conflict", storage.cancel_execution, storage, run.id)
    refused("conflict", storage.retry_execution, storage, run.id)
    for _, operation in ipairs { "cancel_execution", "pause_execution", "resume_execution", "retry_execution" } do
      refused("not_found", storage[operation], storage, nebula.crypto.uuid_v7())
      refused("validation", storage[operation], storage, "7")
    end
  end)

  it("keeps a history that nobody rewrites, and that goes with its execution", function()
    local id = create({}).id
    storage:transition_execution(id, "running")
    local _, err = nebula.try(storage.db.exec, storage.db, "UPDATE execution_history SET to_status = 'failed'")
    assert.matches("append%-only", err.message)
    assert.equal(1, #storage:execution_history(id))
    storage.db:exec("DELETE FROM executions WHERE id = $1", id)
    assert.equal(0, #storage:execution_history(id))
  end)
end)
