-- Workflow definitions: versions, deployment, search.
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local storages = require "nebula.storage"

describe("workflows", function()
  local storage

  setup(function()
    storage = storages.with_pool_config(postgres.database(), { max_size = 6 })
    storage:run_migrations { log = function() end }
  end)
  teardown(function() storage:close() end)

  local function refused(kind, ...)
    local _, err = nebula.try(...)
    assert.is_table(err)
    assert.equal(kind, err.kind)
    assert.equal(kind == "conflict" and "database" or nil, err.source)
    return err.message
  end

  it("gives each save of a name its next version, also to savers at once", function()
    local saved = nebula.task.map({ 1, 2, 3, 4, 5, 6 }, function(i)
      return storage:save_workflow { name = "versions", definition = { step = i } }.version
    end, { concurrency = 6 })
    table.sort(saved)
    assert.same({ 1, 2, 3, 4, 5, 6 }, { table.unpack(saved, 1, 6) })
    assert.equal(6, storage:get_workflow { name = "versions" }.version)
    assert.equal(2, storage:get_workflow { name = "versions", version = 2 }.version)
    assert.is_nil(storage:get_workflow { name = "versions", version = 7 })
    assert.is_nil(storage:get_workflow { name = "nobody" })
  end)

  it("saves the same version twice only with the same definition", function()
    local first = storage:save_workflow { name = "same", version = 1, definition = { a = { 1, 2 } } }
    assert.equal(first.id, storage:save_workflow { name = "same", version = 1, definition = { a = { 1, 2 } } }.id)
    local message = refused("conflict", storage.save_workflow, storage, { name = "same", version = 1,
      definition = { a = 3 } })
    assert.matches("same version 1 exists", message)
  end)

  it("changes a row by its id, compared with when it was read", function()
    local workflow = storage:save_workflow { name = "cas", definition = { n = 1 } }
    workflow.definition = { n = 2 }
    local changed = storage:save_workflow(workflow)
    assert.equal(2, changed.definition.n)
    assert.equal(workflow.id, changed.id)
    refused("conflict", storage.save_workflow, storage, workflow)
  end)

  it("deploys one version of a name at a time", function()
    local first = storage:save_workflow { name = "deployed", definition = {} }
    storage:save_workflow { name = "deployed", definition = { two = true } }
    storage:deploy_workflow(first.id)
    local second = storage:deploy_workflow { name = "deployed", version = 2 }
    assert.equal("active", second.status)
    assert.is_string(second.deployed_at)
    assert.equal("archived", storage:get_workflow(first.id).status)
    assert.equal(1, #storage:list_workflows { name = "deployed", deployed = true })
    refused("not_found", storage.deploy_workflow, storage, { name = "deployed", version = 9 })
    assert.is_false(storage:archive_workflow(second.id).deployed)
  end)

  it("pages by name and version", function()
    for i = 1, 5 do storage:save_workflow { name = "page" .. i, definition = {} } end
    local names, after = {}, nil
    repeat
      local page = storage:list_workflows { name = { "page1", "page2", "page3", "page4", "page5" }, limit = 2,
        after = after }
      for _, workflow in ipairs(page) do names[#names + 1] = workflow.name end
      after = page[#page]
    until #page < 2
    assert.same({ "page1", "page2", "page3", "page4", "page5" }, names)
  end)

  it("finds definitions by containment and by path", function()
    storage:save_workflow { name = "http", definition = { steps = { { type = "http", url = "https://example.org" } } } }
    storage:save_workflow { name = "sql", definition = { steps = { { type = "sql" } } } }
    local found = storage:search_workflows { contains = { steps = { { type = "http" } } } }
    assert.equal("http", found[1].name)
    assert.equal(1, #found)
    found = storage:search_workflows { path = '$.steps[*] ? (@.type == "sql")' }
    assert.equal("sql", found[1].name)
    refused("validation", storage.search_workflows, storage, {})
  end)

  it("answers a search by its index, however many definitions there are", function()
    storage.db:exec [[
      INSERT INTO workflows (name, definition)
      SELECT 'many' || i, jsonb_build_object('steps', jsonb_build_array(jsonb_build_object('type', 'kind' || i)))
      FROM generate_series(1, 5000) AS i
    ]]
    storage.db:exec "ANALYZE workflows"
    for _, search in ipairs { { contains = { steps = { { type = "kind7" } } } },
      { path = '$.steps[*] ? (@.type == "kind7")' },
      { contains = { steps = { { type = "kind7" } } }, status = "draft" } } do
      assert.equal("many7", storage:search_workflows(search)[1].name)
      local plan
      local explaining = { query = function(_, sql, ...)
        plan = nebula.json.encode(storage.db:query("EXPLAIN " .. sql, ...))
        return {}
      end }
      storage.search_workflows({ reads = explaining }, search)
      assert.matches("Bitmap Index Scan on idx_workflows_definition", plan, 1, true)
    end
    storage.db:exec "DELETE FROM workflows WHERE name LIKE 'many%'"
  end)

  it("carries definitions to another database: all or nothing, and twice is once", function()
    local other <close> = storages.with_pool_config(postgres.database(), { max_size = 3 })
    other:run_migrations { log = function() end }
    for i = 1, 3 do storage:save_workflow { name = "moved", definition = { n = i, big = 9007199254740993 } } end
    storage:deploy_workflow { name = "moved", version = 2 }
    local lines = {}
    assert.equal(3, storage:export_workflows(function(line) lines[#lines + 1] = line end, { name = "moved" }))
    local function source()
      local i = 0
      return function()
        i = i + 1
        return lines[i]
      end
    end
    other:deploy_workflow(other:save_workflow { name = "moved", version = 9, definition = {} })
    assert.same({ created = 3, unchanged = 0 }, other:import_workflows(source()))
    assert.same({ created = 0, unchanged = 3 }, other:import_workflows(source()))
    assert.equal(2, other:list_workflows({ name = "moved", deployed = true })[1].version)
    assert.equal(9007199254740993, other:get_workflow({ name = "moved", version = 3 }).definition.big)
    lines[1] = lines[1]:gsub('"n":1', '"n":10')
    lines[4] = '{"name":"new","version":1,"definition":{}}'
    assert.matches("moved version 1 exists with another definition", refused("conflict", other.import_workflows, other,
      source()))
    lines[1] = '{"name":"bad","version":1,"definition":[]}\n'
    assert.matches("line 1: definition wants a JSON object", refused("validation", other.import_workflows, other,
      source()))
    assert.is_nil(other:get_workflow { name = "new" })
    local path = directory.make("exports-" .. child.next_number "directories") .. "/workflows.ndjson"
    assert.equal(3, storage:export_workflows(path, { name = "moved" }))
    assert.same({ created = 0, unchanged = 3 }, other:import_workflows(path))
  end)

  it("refuses what is no workflow, by the field's name", function()
    local save = storage.save_workflow
    assert.matches("definition wants a JSON object", refused("validation", save, storage, { name = "x",
      definition = 7 }))
    assert.matches("not an array", refused("validation", save, storage, { name = "x", definition = { 1, 2 } }))
    assert.matches("name wants text", refused("validation", save, storage, { definition = {} }))
    assert.matches("NUL", refused("validation", save, storage, { name = "x", definition = { a = "b\0c" } }))
    assert.matches("255", refused("validation", save, storage, { name = ("x"):rep(256), definition = {} }))
    assert.matches("did you mean active", refused("validation", save, storage, { name = "x", definition = {},
      status = "activ" }))
    assert.matches("did you mean definition", refused("validation", save, storage, { name = "x", definitions = {} }))
    assert.is_nil(storage:get_workflow { name = "x" })
  end)
end)
