-- `nebula worker` as a process: killed in the middle, told to stop, and given a handler or a policy
-- that is broken. Jobs are neither lost, nor done twice, nor stuck.
local core = require "nebula"
local child = require "spec.support.child"
local nebula = require "spec.support.nebula"
local postgres = require "spec.support.postgres"

local JOBS, KILLS = 400, 4

local HANDLERS = {
  -- Its effect and its completion are one transaction; some jobs outlast the row lock.
  ["handlers/effect.lua"] = [[
    local nebula = require "nebula"
    return { run = function(ctx, job)
      nebula.task.sleep(job.payload.number % 10 == 0 and 0.5 or 0.01)
      ctx.tx(function(tx) tx:exec("INSERT INTO effects VALUES ($1)", job.payload.number) end)
    end }
  ]],
  ["handlers/fine.lua"] = "return { run = function() return { done = true } end }",
  ["handlers/held.lua"] = [[
    local nebula = require "nebula"
    return { run = function() while not nebula.fs.stat "let-go" do nebula.task.sleep(0.02) end end }
  ]],
  ["handlers/broken.lua"] = "return {\n  run = function(\n}",
  ["handlers/throws.lua"] = "return { run = function()\n  error('no such customer')\nend }",
}

local POLICIES = {
  ["policies/broken.lua"] = "return { claim = function( }",
  ["policies/throws.lua"] = "return { claim = function() error('cannot decide') end }",
  ["policies/loops.lua"] = "return { claim = function() while true do end end }",
  ["policies/tires.lua"] = [[
    local claims = 0
    return { claim = function()
      claims = claims + 1
      if claims > 2 then error "cannot decide" end
      return {}
    end }
  ]],
}

describe("nebula worker", function()
  local project, env, db

  before_each(function()
    project = nebula.scratch()
    nebula.write(project, HANDLERS)
    nebula.write(project, POLICIES)
    env = { DATABASE_URL = postgres.database() }
    local migrated = nebula.run { args = { "migrate", "up" }, env = env, cwd = project }
    assert.equal(0, migrated.status, migrated.stderr)
    db = core.pg.connect { url = env.DATABASE_URL }
  end)

  after_each(function() db:close() end)

  local function push(handler, payload)
    local pushed = nebula.run {
      args = { "queue", "push", handler, core.json.encode(payload or core.json.object()) }, env = env, cwd = project,
    }
    assert.equal(0, pushed.status, pushed.stderr)
  end

  local function drain(...)
    local result = nebula.run { args = { "worker", "--drain", "--lease", "1s", ... }, env = env, cwd = project }
    return result.status, result.stdout .. result.stderr
  end

  local function spawn(...)
    return nebula.spawn {
      args = { "worker", ... }, env = env, cwd = project, stdout = "null", stderr = "null",
    }
  end

  it("loses nothing and does nothing twice where it is killed", function()
    db:exec "CREATE TABLE effects (number INTEGER)"
    local filled = nebula.run {
      args = { "-e", ([[
        for i = 1, %d do queue.push("effect", { number = i }, { max_retries = 100 }) end]]):format(JOBS) },
      env = env, cwd = project,
    }
    assert.equal(0, filled.status, filled.stderr)
    local function effects() return db:value "SELECT count(*) FROM effects" end

    for round = 1, KILLS do
      local worker = spawn("--lease", "1s", "--concurrency", "8")
      child.await("some effects", 60, function() return effects() >= round * JOBS // (KILLS + 2) end, worker)
      worker:kill("KILL")
      worker:wait()
    end
    child.await("the rest of the jobs", 60, function()
      assert.equal(0, (drain()))
      return db:value "SELECT count(*) FROM workflow_jobs WHERE status IN ('pending', 'running')" == 0
    end)

    assert.equal(JOBS, db:value "SELECT count(*) FROM workflow_jobs WHERE status = 'completed'")
    assert.equal(JOBS, effects())
    assert.equal(JOBS, db:value "SELECT count(DISTINCT number) FROM effects")
  end)

  it("lets running jobs end on SIGTERM, and exits 0", function()
    for _ = 1, 3 do push "held" end
    local worker = spawn("--lease", "10s", "--concurrency", "2")
    child.await("two running jobs", 60, function()
      return db:value "SELECT count(*) FROM workflow_jobs WHERE status = 'running'" == 2
    end, worker)
    worker:kill("TERM")
    child.await("the signal's effect", 60, function()
      return db:value "SELECT count(*) FROM job_workers WHERE state ->> 'stopping' = 'true'" == 1
    end, worker)
    nebula.write(project, { ["let-go"] = "" })
    assert.same({ status = 0 }, worker:wait(60))
    assert.equal(2, db:value "SELECT count(*) FROM workflow_jobs WHERE status = 'completed'")
    assert.equal(1, db:value "SELECT count(*) FROM workflow_jobs WHERE status = 'pending'")
  end)

  it("keeps a job whose handler is broken, throws or is missing, with the reason", function()
    for _, handler in ipairs { "broken", "throws", "missing" } do push(handler) end
    local status, output = drain()
    assert.equal(0, status, output)
    local errors = {}
    for _, row in ipairs(db:query "SELECT payload ->> 'handler' AS handler, status, error FROM workflow_jobs") do
      assert.equal("pending", row.status)
      errors[row.handler] = row.error
    end
    assert.truthy(errors.broken:find("handlers/broken.lua:3:", 1, true), errors.broken)
    assert.truthy(errors.throws:find("handlers/throws.lua:2: no such customer", 1, true), errors.throws)
    assert.truthy(errors.missing:find('"missing"', 1, true), errors.missing)
  end)

  it("refuses a policy that does not compile, by file and line, and takes no job", function()
    push "fine"
    local status, output = drain("--policy", "policies/broken.lua")
    assert.equal(1, status)
    assert.truthy(output:find("policies/broken.lua:1:", 1, true), output)
    assert.equal("pending", db:value "SELECT status FROM workflow_jobs")
  end)

  it("refuses a policy that throws or loops, and takes no job", function()
    push "fine"
    for _, name in ipairs { "throws", "loops" } do
      local status, output = drain("--policy", "policies/" .. name .. ".lua")
      assert.equal(1, status, output)
      assert.truthy(output:find("policies/" .. name .. ".lua", 1, true), output)
    end
    assert.equal("pending", db:value "SELECT status FROM workflow_jobs")
  end)

  it("goes on by priority and time where a policy comes to throw, and says so", function()
    for _ = 1, 3 do
      push "fine"
      push "fine"
      local status, output = drain("--policy", "policies/tires.lua", "--batch", "1")
      assert.equal(0, status, output)
      assert.truthy(output:find("cannot decide", 1, true), output)
    end
    assert.equal(6, db:value "SELECT count(*) FROM workflow_jobs WHERE status = 'completed'")
  end)
end)
