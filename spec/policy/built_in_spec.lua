-- The built-in policies, in virtual time and on the command line; and one named in nebula.conf.lua.
local core = require "nebula"
local nebula = require "spec.support.nebula"
local policy = require "nebula.policy"
local postgres = require "spec.support.postgres"
local simulate = require "nebula.simulate"
local storages = require "nebula.storage"

local NAMES = { "priority", "fifo", "fair_share", "concurrency_limit", "rate_limit", "weighted", "aging", "deadline",
  "business_hours" }
local MONDAY = 1767571200 -- 2026-01-05T00:00:00Z

describe("the built-in policies", function()
  local function load(name, values)
    local made = policy.load(name, values)
    made.lane = "payload.tenant"
    return made
  end

  local function jobs(tenant, count, fields)
    local part = { jobs = count, takes = 1, payload = { tenant = tenant } }
    for field, value in pairs(fields or {}) do part[field] = value end
    return part
  end

  it("pass their checks, and can be published", function()
    local url = postgres.database()
    local storage <close> = storages.with_pool_config(url, { max_size = 2 })
    storage:run_migrations { log = function() end }
    for i, name in ipairs(NAMES) do
      local checked = nebula.run { args = { "policy", "check", name } }
      assert.equal(0, checked.status, checked.stdout .. checked.stderr)
      local used = nebula.run { args = { "policy", "use", name }, env = { DATABASE_URL = url } }
      assert.equal(0, used.status, used.stderr)
      assert.equal(("policy %s is in force as version %d\n"):format(name, i), used.stdout)
    end
  end)

  it("share by worker-seconds: fair_share", function()
    local run = simulate.run { policy = load "fair_share", workers = 4,
      load = { jobs("long", 60, { takes = 20 }), jobs("short", 3000) } }
    local by_count = simulate.run { policy = load("priority"), workers = 4,
      load = { jobs("long", 60, { takes = 20 }), jobs("short", 3000) } }
    assert.is_true(run.lanes.short.starved <= 20)
    assert.is_true(by_count.lanes.short.starved >= 280)
    run = simulate.run { policy = load "fair_share", workers = 4,
      load = { jobs("big", 1000), jobs("small", 20, { every = 5, takes = 2 }) } }
    assert.is_true(run.lanes.small.wait.p95 <= 1)
  end)

  it("bound what runs, and what begins: concurrency_limit, rate_limit", function()
    local run = simulate.run { policy = load("concurrency_limit", { limit = 3 }), workers = 10,
      load = { jobs("a", 30), jobs("b", 2) } }
    assert.same({ 3, 2, 10 }, { run.lanes.a.running.max, run.lanes.b.running.max, run.seconds })
    run = simulate.run { policy = load("rate_limit", { rate = 2, burst = 4 }), workers = 100, load = { jobs("a", 14) } }
    assert.equal(5, run.lanes.a.wait.max)
  end)

  it("prefer whom they are told to: weighted", function()
    local run = simulate.run { policy = load("weighted", { gold = { "acme" }, shares = 4 }), workers = 10,
      load = { jobs("acme", 400), jobs("small", 400) } }
    assert.equal(8, run.lanes.acme.running.max)
  end)

  it("let nobody starve: aging", function()
    local stream = { jobs("high", 600, { every = 1, priority = 5 }), jobs("low", 1, { at = 10 }) }
    local aging = policy.load("aging", { step = "10s" })
    local run = simulate.run { policy = aging, workers = 1, load = { { jobs = 20, takes = 1, priority = 5 }, stream[1],
      { jobs = 1, at = 10, takes = 1, workflow_id = "low" } } }
    assert.is_true(run.lanes.low.wait.max < 100)
    local plain = simulate.run { policy = "priority", workers = 1, load = { { jobs = 20, takes = 1, priority = 5 },
      stream[1], { jobs = 1, at = 10, takes = 1, workflow_id = "low" } } }
    assert.is_true(plain.lanes.low.wait.max > 500)
  end)

  it("look at due times: deadline", function()
    local deadline = load "deadline"
    local function candidate(id, due) return { id = id, payload = { due = due } } end
    deadline.clock = function() return 1000000 end
    local picked = deadline:select { candidate("late", 1), candidate("none"), candidate("b", 1000020),
      candidate("a", 1000010) }
    local ids = {}
    for i, job in ipairs(picked) do ids[i] = job.id end
    assert.same({ "a", "b", "none", "late" }, ids)
    assert.is_false((deadline:admit { payload = { due = "soon" } }))
  end)

  it("know day from night: business_hours", function()
    local hours = load("business_hours", { zone = "Europe/Berlin", by_day = 2 })
    local function most_at(hour, day)
      return simulate.run { policy = hours, workers = 9, start = MONDAY + (day or 0) * 86400 + hour * 3600,
        load = { jobs("a", 90) } }.lanes.a.running.max
    end
    assert.same({ 9, 2, 9, 9 }, { most_at(3), most_at(10), most_at(18), most_at(10, 5) })
  end)

  it("stand beside one of a project, published with what it loads and worked: tenants", function()
    local project, url = nebula.scratch(), postgres.database()
    local storage <close> = storages.with_pool_config(url, { max_size = 2 })
    storage:run_migrations { log = function() end }
    nebula.write(project, { ["handlers/nothing.lua"] = "return function() end" })
    local function run(...) return nebula.run { args = { ... }, env = { DATABASE_URL = url }, cwd = project } end
    local used = run("policy", "use", nebula.root .. "/examples/policies/tenants.lua", "--set", "gold=acme")
    assert.equal(0, used.status, used.stderr)
    assert.matches("payload.tenant is missing", run("queue", "push", "nothing", "{}").stderr)
    for i = 1, 3 do
      local payload = ('{"tenant": "%s", "due": %d}'):format(i == 1 and "acme" or "other", MONDAY + i)
      assert.equal(0, run("queue", "push", "nothing", payload).status)
    end
    local worked = run("worker", "--drain")
    assert.equal(0, worked.status, worked.stderr)
    assert.same({ { lane = "acme", n = 1 }, { lane = "other", n = 2 } }, storage.db:query [[
      SELECT lane, count(*)::int AS n FROM workflow_jobs WHERE status = 'completed' GROUP BY lane ORDER BY lane
    ]])
  end)

  it("are what nebula.conf.lua names, where none is published", function()
    local project, url = nebula.scratch(), postgres.database()
    local storage <close> = storages.with_pool_config(url, { max_size = 2 })
    storage:run_migrations { log = function() end }
    local env = { DATABASE_URL = url, NEBULA_LOG = "info" }
    nebula.write(project, {
      ["nebula.conf.lua"] = "return { policy = { 'tenants', cap = 2, gold = { 'acme' } } }",
      ["policies/tenants.lua"] = [[return { lane = "payload.tenant",
        options = { cap = { default = 8 }, gold = { type = "list", default = {} } },
        admit = function(job) if not job.payload.tenant then return false, "payload.tenant is missing" end end,
        claim = function(ctx) return { cap = ctx.options.cap } end }]],
      ["handlers/nothing.lua"] = "return function() end",
    })
    local function run(...) return nebula.run { args = { ... }, env = env, cwd = project } end
    assert.matches("payload.tenant is missing", run("queue", "push", "nothing", "{}").stderr)
    assert.equal(0, run("queue", "push", "nothing", '{"tenant": "acme"}').status)
    assert.equal("acme", storage.db:value "SELECT lane FROM workflow_jobs")
    assert.matches("tenants, which nebula.conf.lua names %(cap=2 gold=acme%)", run("policy", "list").stdout)
    assert.matches("policy in force.-tenants", run("worker", "--drain").stderr)
    assert.equal("completed", storage.db:value "SELECT status FROM workflow_jobs")
    assert.equal(0, run("policy", "use", "fifo").status)
    assert.equal("fifo", core.json.decode(run("queue", "stats", "--json").stdout).policy)
    nebula.write(project, { ["nebula.conf.lua"] = "return { policy = { 'tenants', cup = 2 } }" })
    storage.db:exec "TRUNCATE job_policies"
    local result = run("worker", "--drain")
    assert.equal(2, result.status)
    assert.matches("nebula.conf.lua: policy: .*did you mean cap", result.stderr)
  end)
end)
