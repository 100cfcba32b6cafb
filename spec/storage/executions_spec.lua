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
end)
