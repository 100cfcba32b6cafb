-- Publishing a policy: into the table, to every worker and every pusher, back again, or refused.
local core = require "nebula"
local child = require "spec.support.child"
local nebula = require "spec.support.nebula"
local postgres = require "spec.support.postgres"
local published = require "nebula.policy.published"
local storages = require "nebula.storage"
local workers = require "nebula.worker"

local LONG = 60 -- seconds that nothing here should take

describe("a published policy", function()
  local storage, project, env
  local BACKWARDS = [[return { claim = function() return { order = { "priority asc", "scheduled_at" } } end }]]

  setup(function()
    project = nebula.scratch()
    env = { DATABASE_URL = postgres.database(), NEBULA_LOG = "info" }
    storage = storages.with_pool_config(env.DATABASE_URL, { max_size = 10 })
    storage:run_migrations { log = function() end }
  end)
  teardown(function() storage:close() end)
  before_each(function()
    storage.db:exec "TRUNCATE workflow_jobs, job_policies RESTART IDENTITY"
    nebula.write(project, { ["nebula.conf.lua"] = "return {}", ["policies/backwards.lua"] = BACKWARDS })
  end)

  local function fresh() return storages.with_pool_config(env.DATABASE_URL, { max_size = 4 }) end

  local function run(...) return nebula.run { args = { ... }, env = env, cwd = project } end

  local function must(...)
    local result = run(...)
    assert.equal(0, result.status, result.stdout .. result.stderr)
    return result.stdout
  end

  it("is what new storages claim, push and count by", function()
    nebula.write(project, { ["policies/strict.lua"] = [[return {
      options = { least = { default = 1 } },
      admit = function(job, ctx)
        if (job.payload.n or 0) < ctx.options.least then return false, "too small" end
        return { priority = job.payload.n }
      end,
    }]] })
    must("policy", "use", "strict", "--set", "least=3", "--payload", '{"n": 5}')
    local own <close> = fresh()
    local _, err = core.try(own.push_job, own, { payload = { n = 2 } })
    assert.equal("policy", err.kind)
    assert.matches("policy strict refuses the job: too small", err.message)
    assert.equal(7, own:get_job(own:push_job({ payload = { n = 7 } }).id).priority)
    local stats = own:queue_stats()
    assert.same({ "strict", 1 }, { stats.policy, stats.policy_version })
  end)

  it("takes the policies that it loads along, so that nobody needs its files", function()
    nebula.write(project, {
      ["policies/base.lua"] = "return { claim = function() return { order = { 'priority asc' } } end }",
      ["policies/on_base.lua"] = "local base = policy 'base'\nreturn { claim = base.claim }",
    })
    must("policy", "use", "on_base")
    core.fs.remove(project .. "/policies/base.lua")
    local own <close> = fresh()
    assert.equal("priority", own:policy():plan(4).order)
    assert.truthy(must("policy", "show"):find("priority asc", 1, true))
  end)

  it("is followed by a pusher inside its own transaction", function()
    local own <close> = storages.with_pool_config(env.DATABASE_URL, { max_size = 1 })
    own.db:transaction(function(tx) own:push_job({ payload = { handler = "x" } }, tx) end)
    assert.equal(1, own.db:value "SELECT count(*) FROM workflow_jobs")
  end)

  it("is refused with file and line where it does not pass, and what was in force stays", function()
    must("policy", "use", "backwards")
    for source, message in pairs {
      ["return {\n\n  claim = = }"] = "bad%.lua:3:",
      ["return {\n  admit = function(job) return job.payload.a.b end }"] = "bad%.lua:2:",
      ["return { claim = function() return { order = { 'payload' } } end }"] = "claim's order \"payload\"",
      ["return { retry = function() return 'soon' end }"] = "returns seconds",
      ["return { select = function() return 7 end }"] = "select returns a list",
      ["return { lane = 'payload.', claim = function() return { cap = 1 } end }"] = "payload.tenant",
      ["return { claim = function() return { cap = 'many' } end }"] = "claim's cap is a number",
      ["return { options = { cap = 8 } }"] = "options%.cap is declared by a table",
    } do
      nebula.write(project, { ["policies/bad.lua"] = source })
      for _, command in ipairs { "use", "check" } do
        local result = run("policy", command, "bad")
        assert.equal(1, result.status, source)
        assert.matches(message, result.stdout .. result.stderr)
      end
    end
    local result = run("policy", "use", "backwards", "--set", "colour=red")
    assert.equal(2, result.status)
    assert.matches("unknown option colour", result.stderr)
    local rows = published.list(storage.db, 9)
    assert.same({ "backwards", 1 }, { rows[1].name, #rows })
  end)

  it("goes back to the one before", function()
    assert.equal(1, run("policy", "use", "--previous").status)
    must("policy", "use", "backwards")
    must("policy", "use", "priority", "--set", "longest=5m")
    must("policy", "use", "--previous")
    local list = core.json.decode(must("policy", "list", "--json"))
    local names = {}
    for i, row in ipairs(list.published) do names[i] = row.name end
    assert.same({ "backwards", "priority", "backwards" }, names)
    assert.is_true(list.published[1].in_force)
    assert.equal(300, list.published[2].options.longest)
    assert.truthy(must("policy", "list"):find("in force", 1, true))
  end)

  it("reaches a running worker between two claims, without stopping it", function()
    local order = {}
    local worker = workers.new(storage, { concurrency = 1, connections = 1, batch = 1, poll = 0.02,
      handler = function(_, job) order[#order + 1] = job.payload.n end })
    local working = core.task.spawn(worker.run, worker)
    child.await("the worker", LONG, function() return worker.policy end)
    assert.equal("priority", worker.policy.name)
    published.use(storage.db, project .. "/policies/backwards.lua")
    child.await("the new policy", LONG, function() return worker.policy.name == "backwards" end)
    local list = {}
    for i = 1, 5 do list[i] = { payload = { n = i }, priority = i } end
    storage:push_jobs(list)
    child.await("the jobs", LONG, function() return #order == 5 end)
    worker:stop()
    working:join()
    assert.same({ 1, 2, 3, 4, 5 }, order)
  end)

  it("that does not load, put there by somebody else, is refused by the workers; the one before works on", function()
    local own <close> = fresh()
    published.use(storage.db, project .. "/policies/backwards.lua")
    assert.equal("backwards", own:policy().name)
    storage.db:exec "INSERT INTO job_policies (name, source) VALUES ('broken', 'return { claim = = }')"
    own.following.look_at = 0
    assert.equal("backwards", own:policy().name)
    local late <close> = fresh()
    assert.equal("backwards", late:policy().name)
  end)

  it("shows in the log of a worker, by name and version", function()
    must("policy", "use", "backwards")
    local result = run("worker", "--drain")
    assert.equal(0, result.status)
    assert.matches("policy in force.-backwards", result.stderr)
    assert.matches("version=1", result.stderr)
  end)

  it("runs the specs of a policy, and tells by its status whether they pass", function()
    local spec = [[
      local policy = require "nebula.policy"
      describe("backwards", function()
        it("turns the order round", function()
          assert.equal("%s", policy.load("backwards"):claim().order[1])
        end)
      end)
    ]]
    nebula.write(project, { ["spec/policies/backwards_spec.lua"] = spec:format "priority asc" })
    assert.truthy(must("policy", "test", "backwards"):find("1 success", 1, true))
    nebula.write(project, { ["spec/policies/backwards_spec.lua"] = spec:format "priority desc" })
    assert.equal(1, run("policy", "test", "backwards").status)
    assert.matches("does not exist", run("policy", "test", "nobody").stderr)
  end)
end)
