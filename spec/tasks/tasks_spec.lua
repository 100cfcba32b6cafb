-- Admin tasks: the frame, and the tasks that come with the host.
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local storages = require "nebula.storage"
local tasks = require "nebula.tasks"

local PROGRAM = directory.build .. "/nebula"

describe("admin tasks", function()
  local storage, url

  setup(function()
    url = postgres.database()
    storage = storages.with_pool_config(url, { max_size = 6 })
    storage:run_migrations { log = function() end }
  end)
  teardown(function() storage:close() end)

  before_each(function()
    storage.db:exec "TRUNCATE workflow_jobs"
    storage.db:exec [[
      INSERT INTO workflow_jobs (payload, status, created_at)
      SELECT '{"handler": "x"}', s, now() - interval '20 days'
      FROM unnest(ARRAY['completed', 'cancelled', 'dead', 'pending']) s, generate_series(1, 300)
    ]]
  end)

  local function nebula_task(args, stdin)
    return child.run { file = PROGRAM, args = { "task", table.unpack(args) }, env = { DATABASE_URL = url },
      stdin = stdin or "" }
  end

  local function count() return storage.db:value "SELECT count(*) FROM workflow_jobs" end

  it("are listed with what they do", function()
    local out = nebula_task {}
    assert.equal(0, out.status)
    assert.matches("purge%-jobs%s+Delete finished jobs past their retention", out.stdout)
    assert.matches("execution%-stats", out.stdout)
  end)

  it("say beforehand what they would do, and change nothing then", function()
    local out = nebula_task { "purge-jobs", "--dry-run", "--json" }
    assert.same({ completed = 300, cancelled = 300 }, nebula.json.decode(out.stdout).would_delete)
    assert.equal(1200, count())
  end)

  it("ask before they destroy, and are refused where nobody can be asked", function()
    local out = nebula_task { "purge-jobs" }
    assert.equal(2, out.status)
    assert.matches("%-%-yes", out.stderr)
    assert.equal(1200, count())
  end)

  it("delete in batches what the options name", function()
    local out = nebula_task { "purge-jobs", "--keep", "dead=1d", "--yes", "--json" }
    assert.equal(0, out.status)
    assert.equal(300, nebula.json.decode(out.stdout).deleted)
    assert.same({ deleted = 600 }, (tasks.run(storage, "purge-jobs", {})))
    assert.equal(300, count())
  end)

  it("check their options", function()
    local out = nebula_task { "purge-jobs", "--keep", "completd=1d", "--yes" }
    assert.equal(2, out.status)
    assert.matches("did you mean completed%?", out.stderr)
    out = nebula_task { "purge-jobs", "--keep", "completed=soon", "--yes" }
    assert.equal(2, out.status)
    assert.matches('wants a duration such as "14d"', out.stderr)
    out = nebula_task { "purge-job" }
    assert.equal(2, out.status)
    assert.matches("did you mean purge%-jobs", out.stderr)
    assert.matches("did you mean archive%-executions%?", nebula_task({ "archve" }).stderr) -- by its first word
    assert.equal(1200, count())
  end)

  it("run one at a time", function()
    local task = { name = "exclusive", options = {}, run = function()
      local _, err = nebula.try(tasks.run, storage, { name = "exclusive", options = {}, run = function() end })
      return err and err.kind
    end }
    assert.equal("conflict", tasks.run(storage, task))
    assert.is_nil(tasks.run(storage, { name = "exclusive", options = {}, run = function() end }))
    local held <close> = storage.db:acquire()
    local pid = held:value "SELECT pg_backend_pid()"
    local key = require("nebula.advisory").key "nebula task purge-jobs"
    assert.is_true(require("nebula.advisory").try(held, key))
    local out = nebula_task { "purge-jobs", "--yes" }
    assert.equal(1, out.status)
    assert.matches("task purge%-jobs is running already: process " .. pid .. " %(", out.stderr)
    require("nebula.advisory").unlock(held, key)
  end)

  it("cannot write in a preview", function()
    local _, err = nebula.try(tasks.preview, storage, { name = "writes", options = {},
      preview = function(ctx) ctx.db:exec "DELETE FROM workflow_jobs" end }, {})
    assert.equal("25006", err.code)
    assert.equal(1200, count())
  end)

  it("keep a checkpoint, in the transaction of their work where they say so", function()
    tasks.run(storage, { name = "points", options = {}, run = function(ctx)
      assert.is_nil(ctx.checkpoint:load())
      ctx.checkpoint:save { after = 7 }
      nebula.try(ctx.db.transaction, ctx.db, function(tx)
        ctx.checkpoint:save({ after = 8 }, tx)
        error "rolled back"
      end)
    end })
    local found = tasks.run(storage, { name = "points", options = {}, run = function(ctx)
      local value = ctx.checkpoint:load()
      ctx.checkpoint:save(nil)
      return value
    end })
    assert.equal(7, found.after)
  end)

  it("tell how executions ended", function()
    local workflow = storage:save_workflow { name = "stats", definition = {} }
    local made = storage:create_executions { { workflow_id = workflow.id }, { workflow_id = workflow.id } }
    storage:update_executions { { id = made[1].id, status = "running" }, { id = made[2].id, status = "failed" } }
    storage:transition_execution(made[1].id, "completed")
    local rows = tasks.run(storage, "execution-stats", { workflow = "stats" }).rows
    assert.equal(2, #rows)
    assert.equal("completed", rows[1].status)
    assert.equal(1, rows[1].executions)
  end)

  it("end between two batches where somebody asks for it, with what they did kept", function()
    local asked, rounds = false, 0
    local _, err = nebula.try(tasks.run, storage, { name = "stops", options = {}, run = function(ctx)
      ctx.batches(function()
        rounds, asked = rounds + 1, rounds == 2
        return ctx.db:exec "DELETE FROM workflow_jobs WHERE id IN (SELECT id FROM workflow_jobs LIMIT 10)"
      end)
    end }, {}, { stop_asked = function() return asked end })
    assert.equal("cancelled", err.kind)
    assert.equal(3, rounds)
    assert.equal(1170, count())
  end)

  it("end cleanly at Ctrl-C, with status 130", function()
    local path = directory.make("endless") .. "/endless.lua"
    nebula.fs.write(path, [[return { run = function(ctx)
      ctx.batches(function() print "batch" io.stdout:flush() return 1 end)
    end }]])
    local running = child.spawn { file = PROGRAM, args = { "task", path }, env = { DATABASE_URL = url },
      stdout = "pipe", stderr = "pipe" }
    assert.matches("batch", running:read "stdout")
    running:kill "INT"
    local stopped = running:wait(90)
    assert.equal(130, stopped and stopped.status)
  end)

  it("wait while a table they work on is vacuumed or the server is busy, and say so", function()
    local said = {}
    local throttle = require("nebula.throttle").new { label = "task x", max_lag = 5, max_active = 0,
      log = function(line) said[#said + 1] = line end }
    local server <close> = postgres.server() -- where nobody else is at work
    local db <close> = nebula.pg.connect { url = server:url(), max_connections = 3 }
    local session <close> = db:acquire()
    local pid = session:value "SELECT pg_backend_pid()"
    local busy = nebula.task.spawn(function() nebula.try(session.exec, session, "SELECT pg_sleep(600)") end)
    child.await("a busy server", 90, function()
      return db:value("SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $1", pid)
    end)
    local resting = nebula.task.spawn(throttle.rest, throttle, db, 0)
    child.await("the throttle's word", 90, function() return #said > 0 end)
    db:value("SELECT pg_cancel_backend($1)", pid)
    busy:join()
    resting:join()
    assert.equal(1, #said)
    assert.matches("^task x waits: %d+ statements run at the server$", said[1])
  end)

  it("exit with 1 where they found something wrong", function()
    local path = directory.make("finds") .. "/finds.lua"
    nebula.fs.write(path, "return { read_only = true, run = function() return { wrong = 1 }, false end }")
    assert.equal(1, nebula_task({ path }).status)
    assert.equal(0, nebula_task({ path, "--dry-run" }).status)
  end)

  it("are named where they are broken", function()
    local path = directory.make("tasks") .. "/broken.lua"
    nebula.fs.write(path, "return {\n run = = }")
    local _, err = nebula.try(tasks.load, path)
    assert.matches("broken%.lua:2:", err.message)
  end)
end)
