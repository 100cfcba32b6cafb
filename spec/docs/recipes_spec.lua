-- The recipes of examples/RECIPES.md, each as it stands over a database with something in it: what it does, not only
-- that it runs.
local blocks = require "spec.docs.blocks"
local child = require "spec.support.child"
local core = require "nebula"
local http_proxy = require "spec.support.http_proxy"
local nebula = require "spec.support.nebula"
local postgres = require "spec.support.postgres"
local storages = require "nebula.storage"

local MOST_LINES = 20

describe("the recipe", function()
  local project, env, storage, db, billing, recipes

  lazy_setup(function()
    project, recipes = nebula.scratch(), {}
    for _, block in ipairs(blocks.read "examples/RECIPES.md") do
      if block.words.file then recipes[block.words.file] = block.text end
    end
    nebula.write(project, recipes)
    nebula.write(project, { ["nebula.conf.lua"] = ("return { blobs = 'file:%s/blobs' }"):format(project) })
    env = { DATABASE_URL = postgres.database(), NEBULA_LOG = "error" }
    storage = storages.new { database_url = env.DATABASE_URL, blobs = "file:" .. project .. "/blobs" }
    db = storage.db
    storage:run_migrations { log = function() end }
    billing = storage:save_workflow { name = "billing", definition = { steps = { "charge" } } }
    storage:deploy_workflow(billing.id)
  end)

  lazy_teardown(function() storage:close() end)

  before_each(function() db:exec "TRUNCATE executions, execution_history, workflow_jobs, blobs" end)

  local function run(name, options)
    options = options or {}
    options.args, options.cwd, options.env = { name, table.unpack(options.args or {}) }, project, options.env or env
    return nebula.run(options)
  end

  local function said(...)
    local result = run(...)
    assert.equal(0, result.status, result.stderr)
    return result.stdout
  end

  -- An execution with this status, last changed so many hours ago.
  local function execution(status, hours, state, message)
    local id = storage:create_execution({ workflow_id = billing.id, state = state or {} }).id
    db:exec([[UPDATE executions SET status = $2::text, error = $4, updated_at = now() - make_interval(hours => $3::int),
      completed_at = CASE WHEN $2::text <> 'running' THEN now() - make_interval(hours => $3::int) END WHERE id = $1]],
      id, status, hours, message)
    return id
  end

  local function job(status, id, payload, message)
    return db:value([[INSERT INTO workflow_jobs (status, execution_id, payload, error)
      VALUES ($1, coalesce($2, gen_random_uuid()), $3, $4) RETURNING id]], status, id, core.pg.json(payload), message)
  end

  it("is short, and one of ten", function()
    local count = 0
    for name, text in pairs(recipes) do
      count = count + 1
      assert.is_true(select(2, text:gsub("\n", "")) <= MOST_LINES, name)
    end
    assert.equal(10, count)
  end)

  it("failures.lua posts what failed since yesterday, or prints it", function()
    execution("failed", 1, nil, "no card")
    execution("failed", 30, nil, "long ago")
    execution("completed", 1)
    assert.equal("    1  billing: no card\n", said "failures.lua")
    local hook <close> = http_proxy.start()
    hook:rules { { method = "POST", path = "/chat", ["do"] = "answer", status = 200 } }
    local with_hook = { DATABASE_URL = env.DATABASE_URL, NEBULA_HOOK = hook.url .. "/chat" }
    assert.equal("", said("failures.lua", { env = with_hook }))
    assert.same({ text = "    1  billing: no card" }, core.json.decode(hook:log()[1].body))
    hook:rules { { ["do"] = "answer", status = 403 } }
    assert.equal(1, run("failures.lua", { env = with_hook }).status)
  end)

  it("queue-stands.lua fails where a due job has waited for long", function()
    local id = job("pending", nil, {})
    said "queue-stands.lua"
    db:exec("UPDATE workflow_jobs SET scheduled_at = now() - interval '400 seconds' WHERE id = $1", id)
    local result = run "queue-stands.lua"
    assert.equal(1, result.status)
    assert.matches("the oldest due job has waited for 4%d%d s", result.stderr)
  end)

  it("again.lua brings the dead jobs of an outage back, later than now", function()
    for _ = 1, 20 do job("dead", nil, {}, "upstream answered 503") end
    local bad, waiting = job("dead", nil, {}, "bad input"), job("pending", nil, {})
    local before, began = storage:get_job(waiting).scheduled_at, db:value "SELECT now()"
    assert.equal("20 jobs come again within the hour\n", said "again.lua")
    assert.equal("dead", storage:get_job(bad).status)
    assert.equal(before, storage:get_job(waiting).scheduled_at)
    assert.equal(20, db:value("SELECT count(DISTINCT scheduled_at) FROM workflow_jobs WHERE scheduled_at > $1", began))
  end)

  it("fail-lost.lua fails executions with nothing left to run, and no others", function()
    local lost, working, young = execution("running", 30), execution("running", 30), execution("running", 1)
    job("dead", lost, {})
    job("pending", working, {})
    assert.equal("1 executions failed\n", said "fail-lost.lua")
    assert.equal("no job of it is left", storage:get_execution(lost).error)
    for _, id in ipairs { working, young } do assert.equal("running", storage:get_execution(id).status) end
  end)

  it("push-lines.lua pushes a job for each line", function()
    local lines = {}
    for i = 1, 2500 do lines[i] = ("name %d\n"):format(i) end
    assert.equal("2500 jobs pushed\n", said("push-lines.lua", { stdin = table.concat(lines) }))
    assert.equal(2500, db:value "SELECT count(DISTINCT payload ->> 'name') FROM workflow_jobs")
    assert.equal("0 jobs pushed\n", said "push-lines.lua")
  end)

  it("export.lua writes rows as CSV, compressed", function()
    local id = execution("failed", 1, nil, 'said "no", twice')
    assert.matches("^1 rows in file:", said "export.lua")
    local reader <close> = storage.blobs:reader("exports/executions.csv.gz", { decompress = "gzip" })
    local text = reader:read()
    assert.equal(1, text:find(id .. ",billing,failed,", 1, true))
    assert.truthy(text:find('"said ""no"", twice"', 1, true))
  end)

  it("forget.lua removes everything of a tenant, and nothing of another", function()
    local mine, other = execution("completed", 1, { tenant = "a" }), execution("completed", 1, { tenant = "b" })
    for _, id in ipairs { mine, other } do
      storage.blobs:upload("artifacts/" .. id, "data", { execution_id = id })
      job("completed", id, { tenant = id == mine and "a" or "b" })
    end
    assert.equal("1 executions forgotten\n", said("forget.lua", { args = { "--tenant", "a" } }))
    assert.is_nil(storage:get_execution(mine))
    assert.is_false(storage.blobs:exists("artifacts/" .. mine))
    assert.equal(other, db:value "SELECT execution_id FROM workflow_jobs")
    assert.equal("data", (storage.blobs:download("artifacts/" .. other)))
    assert.equal(2, run("forget.lua").status)
  end)

  it("largest.lua lists the executions whose artifacts take the most", function()
    local small, large = execution("completed", 1), execution("completed", 1)
    storage.blobs:upload("artifacts/small", "x", { execution_id = small })
    storage.blobs:upload("artifacts/large", ("x"):rep(100000), { execution_id = large })
    local out = said "largest.lua"
    assert.is_true(out:find(large, 1, true) < out:find(small, 1, true))
    assert.matches("98 kB", out)
  end)

  it("end-idle.lua ends sessions that hold a transaction and do nothing", function()
    nebula.write(project, { ["end-idle-now.lua"] = recipes["end-idle.lua"]:gsub("3600", "0") })
    local other <close> = core.pg.connect { url = env.DATABASE_URL, max_connections = 1 }
    local session <close> = other:acquire()
    session:exec "BEGIN"
    local pid = session:value "SELECT pg_backend_pid()"
    assert.equal("", said "end-idle.lua")
    child.await("an idle session", 60, function()
      return db:value("SELECT state = 'idle in transaction' FROM pg_stat_activity WHERE pid = $1", pid)
    end)
    assert.truthy(said("end-idle-now.lua"):find(pid .. "\t.*\tended"))
  end)

  it("definitions.lua writes the definitions in force", function()
    said "definitions.lua"
    assert.same({ steps = { "charge" } }, core.json.decode(core.fs.read(project .. "/definitions/billing.json")))
  end)
end)
