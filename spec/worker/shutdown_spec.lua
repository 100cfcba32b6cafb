-- How a worker process ends: killed, stopped, drained; and what becomes of its jobs.
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local storages = require "nebula.storage"
local workers = require "nebula.worker"

local PROGRAM = nebula.fs.realpath(directory.build .. "/nebula")
local LONG = 60 -- seconds that nothing here should take

-- How many workers are stopped past their leases at once, and how often. NEBULA_SPEC_LONG=1: 200 in all.
local STOPPED, ROUNDS = 2, 1
if os.getenv "NEBULA_SPEC_LONG" == "1" then STOPPED, ROUNDS = 8, 25 end

describe("nebula worker", function()
  local storage, url, handlers, runtime
  local started = {}

  setup(function()
    url = postgres.database()
    storage = storages.with_pool_config(url, { max_size = 8 })
    storage:run_migrations { log = function() end }
    storage.db:exec "CREATE TABLE effects (job UUID, at TIMESTAMPTZ DEFAULT clock_timestamp())"
    handlers, runtime = directory.make "handlers", directory.make_outside "runtime"
    local files = {
      count = [[
        return function(ctx, job)
          ctx.tx(function(tx) tx:exec("INSERT INTO effects (job) VALUES ($1)", job.id) end)
        end
      ]],
      late = [[
        return function(ctx, job)
          local nebula = require "nebula"
          while not nebula.fs.stat(job.payload.after) do nebula.task.sleep(0.02) end
          ctx.tx(function(tx) tx:exec("INSERT INTO effects (job) VALUES ($1)", job.id) end)
        end
      ]],
      short = "return function() end",
      nap = "return function() require('nebula').task.sleep(0.01) end",
      forever = "return function() require('nebula').task.sleep(600) end",
      die = [[
        return function(ctx, job)
          ctx.db:exec("INSERT INTO effects (job) VALUES ($1)", job.id)
          local pid = io.open("/proc/self/stat"):read "n"
          require("nebula.system").kill(math.tointeger(pid), "KILL")
        end
      ]],
    }
    for name, text in pairs(files) do nebula.fs.write(("%s/%s.lua"):format(handlers, name), text) end
  end)
  teardown(function() storage:close() end)
  before_each(function() storage.db:exec "TRUNCATE workflow_jobs, effects" end)
  after_each(function()
    for _, process in ipairs(started) do
      if not process:wait(0) then process:kill(9) end
      process:wait()
    end
    started = {}
  end)

  local function spawn(args)
    local process = child.spawn {
      file = PROGRAM, args = { "worker", "--handlers", handlers, table.unpack(args) },
      env = { DATABASE_URL = url, XDG_RUNTIME_DIR = runtime, NEBULA_LOG = "error" }, stdout = "null",
        stderr = "stdout", stdin = "",
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

  it("loses nothing when it is killed in the middle, and does nothing twice", function()
    push("count", 2000, { max_retries = 100 })
    for _ = 1, 3 do
      local before = count "status = 'completed'"
      local process = spawn { "--lease", "1s", "--concurrency", "8" }
      await("some jobs", function() return count "status = 'completed'" > before + 50 end)
      process:kill(9)
      process:wait()
    end
    local process = spawn { "--lease", "1s" }
    await("every job", function() return count "status = 'completed'" == 2000 end)
    process:kill(15)
    assert.equal(0, process:wait().status)
    assert.equal(2000, storage.db:value "SELECT count(*) FROM effects")
    assert.equal(2000, storage.db:value "SELECT count(DISTINCT job) FROM effects")
  end)

  it("has its short jobs free again at once when it is killed", function()
    push("nap", 500)
    local process = spawn {}
    await("a batch", function() return count "status = 'completed'" > 0 end)
    process:kill(9)
    process:wait()
    await("the server to notice on both connections", function()
      storage:claim_jobs("other", 1000)
      return count "status = 'pending'" == 0
    end)
    assert.equal(0, count "status = 'running' AND token <> 1") -- no lease had to be waited for
  end)

  it("ends a job that kills its process in the dead letter, and completes its neighbours", function()
    local killer = push("die", 1, { max_retries = 2 })[1]
    push("nap", 30)
    await("the end of every job", function()
      spawn({ "--drain", "--lease", "2s", "--concurrency", "4" }):wait()
      return count "status NOT IN ('completed', 'dead')" == 0
    end)
    local row = storage:get_job(killer)
    assert.equal("dead", row.status)
    assert.matches("its worker died", row.error)
    assert.equal(30, count "status = 'completed'")
    assert.equal(3, storage.db:value("SELECT count(*) FROM effects WHERE job = $1", killer))
  end)

  it("drains when it is asked to end: what runs may finish, nothing new begins", function()
    local after = runtime .. "/drained"
    push("late", 3, { payload = { handler = "late", after = after } })
    local process = spawn {}
    await("the leases", function() return count "status = 'running'" == 3 end)
    process:kill(15)
    await("the signal's effect", function()
      return storage.db:value "SELECT count(*) FROM job_workers WHERE state ->> 'stopping' = 'true'" == 1
    end)
    push("short", 5)
    nebula.fs.write(after, "")
    assert.equal(0, process:wait().status)
    assert.equal(3, count "status = 'completed' AND payload ->> 'handler' = 'late'")
    assert.equal(5, count "status = 'pending' AND payload ->> 'handler' = 'short'")
  end)

  it("gives running jobs back at the second signal, without counting an attempt", function()
    local id = push("forever", 1)[1]
    local process = spawn {}
    await("a lease", function() return storage:get_job(id).status == "running" end)
    process:kill(15)
    process:kill(2)
    await("its end", function() return process:wait(0) end)
    local row = storage:get_job(id)
    assert.equal("pending", row.status)
    assert.equal(0, row.retry_count)
  end)

  it("leaves no trace of itself, though it ended while it told of itself", function()
    local IS_TELLING = [[
      SELECT count(*) FROM pg_stat_activity
      WHERE datname = current_database() AND wait_event_type = 'Lock' AND query ~ 'INTO job_workers'
    ]]
    local watch <close> = nebula.pg.connect { url = url, max_connections = 2 }
    local worker = workers.new(storage, { handler = function() end })
    local running = nebula.task.spawn(worker.run, worker)
    await("the worker", function() return watch:value "SELECT count(*) FROM job_workers" == 1 end)
    watch:exec [[
      CREATE FUNCTION slowed() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN new; END';
      CREATE TRIGGER slowed BEFORE INSERT ON job_workers FOR EACH ROW EXECUTE FUNCTION slowed();
    ]]
    watch:transaction(function(tx)
      tx:exec "SELECT pg_advisory_xact_lock(1)"
      await("a look that waits", function() return watch:value(IS_TELLING) == 1 end)
      worker:stop()
      nebula.try(nebula.task.deadline, 0.5, running.join, running) -- the time to go without having waited
    end)
    running:join()
    await("the end of the look", function() return watch:value(IS_TELLING) == 0 end)
    assert.equal(0, watch:value "SELECT count(*) FROM job_workers")
    watch:exec "DROP FUNCTION slowed CASCADE"
  end)

  it("is fenced when it was stopped past its lease, and the effect stands once", function()
    for _ = 1, ROUNDS do
      storage.db:exec "TRUNCATE workflow_jobs, effects"
      local after = runtime .. "/after"
      nebula.try(nebula.fs.remove, after)
      local victims = {}
      for i = 1, STOPPED do victims[i] = spawn { "--lease", "1s", "--concurrency", "1", "--connections", "1" } end
      push("late", STOPPED, { payload = { handler = "late", after = after } })
      await("the leases", function() return count "status = 'running'" == STOPPED end)
      for _, process in ipairs(victims) do process:kill(19) end
      await("the end of the leases", function() return count "status = 'running' AND lease_until >= now()" == 0 end)
      nebula.fs.write(after, "")
      local other = spawn { "--lease", "1s", "--poll", "0.1" }
      await("the rescue", function() return count "status = 'completed'" == STOPPED end)
      for _, process in ipairs(victims) do
        process:kill(18)
        process:kill(15)
      end
      for _, process in ipairs(victims) do assert.equal(0, process:wait().status) end
      other:kill(15)
      assert.equal(0, other:wait().status)
      assert.equal(STOPPED, count "status = 'completed'")
      assert.same({ effects = STOPPED, jobs = STOPPED }, storage.db:one [[
        SELECT count(*) AS effects, count(DISTINCT job) AS jobs FROM effects
      ]])
    end
  end)

  it("says in one line what is wrong, with the right status", function()
    local function run(env, ...)
      return child.run { file = PROGRAM, args = { "worker", ... }, env = env, stdin = "", cwd = runtime }
    end
    local out = run({ DATABASE_URL = "" })
    assert.equal(2, out.status)
    assert.matches("DATABASE_URL", out.stderr)
    out = run({ DATABASE_URL = "postgresql:///x?host=/nonexistent" })
    assert.equal(1, out.status)
    assert.matches("cannot connect", out.stderr)
    out = run({ DATABASE_URL = url }, "--handlers", "/nonexistent")
    assert.equal(2, out.status)
    assert.matches("no such directory", out.stderr)
    out = run({ DATABASE_URL = url }, "--policy", "nobody")
    assert.equal(2, out.status)
    assert.matches('no policy "nobody"', out.stderr)
    nebula.fs.write(handlers .. "/bad-policy.lua", "return {\n claim = = }")
    out = run({ DATABASE_URL = url }, "--policy", handlers .. "/bad-policy.lua")
    assert.equal(1, out.status)
    assert.matches("bad%-policy%.lua:2:", out.stderr)
  end)
end)
