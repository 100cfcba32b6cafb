-- Several worker processes under a supervisor: killed, stopped under load, reloaded.
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local storages = require "nebula.storage"

local PROGRAM = nebula.fs.realpath(directory.build .. "/nebula")
local LONG = 60 -- seconds that nothing here should take

describe("nebula worker --processes", function()
  local storage, url, project, runtime
  local started = {}

  setup(function()
    url = postgres.database()
    storage = storages.with_pool_config(url, { max_size = 8 })
    storage:run_migrations { log = function() end }
    storage.db:exec "CREATE TABLE effects (job UUID)"
    project, runtime = directory.make_outside "supervised", directory.make_outside "supervised-runtime"
    nebula.fs.mkdir(project .. "/handlers")
    local files = {
      nap = "return function() require('nebula').task.sleep(0.01) end",
      held = [[
        local nebula = require "nebula"
        return function() while not nebula.fs.stat "let-go" do nebula.task.sleep(0.02) end end
      ]],
      forever = "return function() require('nebula').task.sleep(600) end",
      version = "return function() return 1 end",
      die = [[
        return function(ctx, job)
          ctx.db:exec("INSERT INTO effects (job) VALUES ($1)", job.id)
          require("nebula.system").kill(require("nebula.system").ids().pid, "KILL")
        end
      ]],
    }
    for name, text in pairs(files) do nebula.fs.write(("%s/handlers/%s.lua"):format(project, name), text) end
    nebula.fs.write(project .. "/nebula.conf.lua", "return {}")
  end)
  teardown(function() storage:close() end)
  before_each(function()
    storage.db:exec "TRUNCATE workflow_jobs, effects, job_workers, job_periodic"
    nebula.try(nebula.fs.remove, project .. "/let-go")
  end)
  after_each(function()
    for _, process in ipairs(started) do
      if not process:wait(0) then process:kill(9) end
      process:wait()
    end
    started = {}
  end)

  local function spawn(...)
    local process = child.spawn {
      file = PROGRAM, args = { "worker", ... }, cwd = project, stdout = "null", stderr = "stdout", stdin = "",
      env = { DATABASE_URL = url, XDG_RUNTIME_DIR = runtime, NEBULA_LOG = "error" },
    }
    started[#started + 1] = process
    return process
  end

  local function push(handler, count, fields)
    local list = {}
    for i = 1, count do
      list[i] = { payload = { handler = handler } }
      for name, value in pairs(fields or {}) do list[i][name] = value end
    end
    return storage:push_jobs(list)
  end

  local function count(where) return storage.db:value("SELECT count(*) FROM workflow_jobs WHERE " .. where) end
  local function await(what, ready) return child.await(what, LONG, ready) end

  local function pids()
    local list = {}
    for i, row in ipairs(storage:list_workers()) do list[i] = row.pid end
    return list
  end

  local function await_workers(number) await(number .. " workers", function() return #pids() == number end) end

  local function let_go() nebula.fs.write(project .. "/let-go", "") end

  local function kill(pid, signal) require("nebula.system").kill(pid, signal) end

  it("completes the neighbours of a job that kills its process again and again, and ends that one dead", function()
    local killer = push("die", 1, { max_retries = 2 })[1]
    push("nap", 200)
    local process = spawn("--processes", "2", "--lease", "2s", "--concurrency", "4", "--poll", "0.1s")
    await("the end of every job", function() return count "status NOT IN ('completed', 'dead')" == 0 end)
    process:kill(15)
    assert.equal(0, process:wait().status)
    assert.equal("dead", storage:get_job(killer).status)
    assert.matches("its worker died", storage:get_job(killer).error)
    assert.equal(200, count "status = 'completed'")
    -- Three attempts; others may have taken it before a death was noticed.
    local tries = storage.db:value "SELECT count(*) FROM effects"
    assert.is_true(tries >= 3 and tries <= 6, tries)
    assert.same({}, pids())
  end)

  it("starts a killed process again", function()
    local process = spawn("--processes", "2")
    await_workers(2)
    local before = pids()
    kill(before[1], "KILL")
    await("a new one", function()
      for _, pid in ipairs(pids()) do
        if pid ~= before[1] and pid ~= before[2] then return true end
      end
    end)
    process:kill(15)
    assert.equal(0, process:wait().status)
  end)

  it("drains under load at SIGTERM: nothing runs afterwards, nothing is lost or counted", function()
    push("nap", 10000)
    push("held", 8, { priority = 5 })
    local process = spawn("--processes", "2", "--concurrency", "16")
    await("load on both", function()
      return count "status = 'completed'" > 50 and count "status = 'running' AND priority = 5" == 8 and #pids() == 2
    end)
    process:kill(15)
    local since = nebula.time.monotonic()
    await("the signal's effect", function()
      return storage.db:value "SELECT count(*) FROM job_workers WHERE state ->> 'stopping' <> 'true'" == 0
    end)
    let_go()
    assert.equal(0, process:wait().status)
    assert.is_true(nebula.time.monotonic() - since < 60)
    assert.equal(0, count "status = 'running'")
    assert.equal(0, count "retry_count > 0")
    assert.equal(8, count "status = 'completed' AND payload ->> 'handler' = 'held'")
    assert.equal(10008, count "status IN ('pending', 'completed')")
    assert.is_true(count "status = 'pending'" > 0)
  end)

  it("gives everything back at the second signal", function()
    push("forever", 6)
    local process = spawn("--processes", "2", "--concurrency", "4")
    await("leases", function() return count "status = 'running'" == 6 end)
    process:kill(15)
    process:kill(2)
    assert.equal(0, process:wait().status)
    assert.equal(6, count "status = 'pending' AND retry_count = 0")
  end)

  it("ends with its supervisor, however that one ended", function()
    push("held", 2)
    local process = spawn("--processes", "2")
    await_workers(2)
    await("the leases", function() return count "status = 'running'" == 2 end)
    process:kill(9)
    process:wait()
    let_go()
    await("the end of both", function() return #pids() == 0 end)
    assert.equal(0, count "status = 'running'")
  end)

  it("ends at once with status 2 where the configuration would be refused again", function()
    local process = spawn("--processes", "2", "--handlers", "/nonexistent")
    assert.equal(2, process:wait().status)
  end)

  it("loads an edited handler between two jobs, works on with the one before where that is broken", function()
    local process = spawn()
    local path = project .. "/handlers/version.lua"
    local function answer()
      local id = push("version", 1)[1]
      await("a result", function() return count("status = 'completed' AND id = '" .. id .. "'") == 1 end)
      return storage:get_job(id).result
    end
    assert.equal(1, answer())
    nebula.fs.write(path, "return function( = 2 end")
    for _ = 1, 3 do assert.equal(1, answer()) end
    nebula.fs.write(path, "return function() return 2 end")
    await("the new one", function() return answer() == 2 end)
    process:kill(15)
    assert.equal(0, process:wait().status)
    assert.equal(0, count "retry_count > 0")
  end)

  it("reads the configuration again at SIGHUP, and keeps the one before where it is wrong", function()
    local process = spawn("--processes", "2")
    await_workers(2)
    nebula.fs.write(project .. "/nebula.conf.lua", [[return { periodic = { { "99 * * * *", handler = "version" } } }]])
    process:kill(1)
    nebula.fs.write(project .. "/nebula.conf.lua", [[return { periodic = { { "* * * * *", handler = "version" } } }]])
    await("the entry", function()
      process:kill(1)
      return storage.db:value "SELECT count(*) FROM job_periodic" == 1
    end)
    assert.equal(2, #pids())
    process:kill(15)
    assert.equal(0, process:wait().status)
    nebula.fs.write(project .. "/nebula.conf.lua", "return {}")
  end)
end)
