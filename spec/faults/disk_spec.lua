-- A server whose disk is full: what needs room is refused by name, or the server is brought down; the
-- worker stays, and goes on once there is room.
local child = require "spec.support.child"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local program = require "spec.support.nebula"
local storages = require "nebula.storage"
local task = nebula.task

local LONG = 120 -- seconds that nothing here should take
local LARGE = 4 -- jobs that need much room
local NO_ROOM = "No space left on device"

local NEXT_SEGMENT = "SELECT pg_logical_emit_message(false, '', ''), pg_switch_wal()"

local PROJECT = {
  ["handlers/effect.lua"] = [[
    return function(ctx, job)
      ctx.tx(function(tx) tx:exec("INSERT INTO effects VALUES ($1)", job.id) end)
    end
  ]],
  -- waits for a file, and then needs more room than a server keeps ahead
  ["handlers/large.lua"] = [[
    local nebula = require "nebula"
    return function(ctx, job)
      while not nebula.fs.stat(job.payload.after) do nebula.task.sleep(0.02) end
      ctx.tx(function(tx) tx:exec("INSERT INTO effects VALUES ($1, repeat('x', 1000000))", job.id) end)
    end
  ]],
  ["handlers/short.lua"] = "return function() end",
  ["policies/again.lua"] = "return { retry = function() return 0.1 end, rescue = function() return 0 end }",
}

describe("a full disk of the server", function()
  local server, storage, project, worker, told

  setup(function()
    server = postgres.server { wal_recycle = "off", max_wal_size = "32MB", min_wal_size = "32MB" }
    server:with_disk()
  end)
  teardown(function() server:close() end)

  before_each(function()
    local url = server:database()
    storage = storages.with_pool_config(url, { max_size = 4 })
    storage:run_migrations { log = function() end }
    storage.db:exec "CREATE TABLE effects (job UUID, filler TEXT)"
    storage.db:exec "ALTER TABLE effects ALTER COLUMN filler SET STORAGE EXTERNAL"
    project, told = program.scratch(), {}
    program.write(project, PROJECT)
    worker = program.spawn {
      args = { "worker", "--lease", "3s", "--poll", "100ms", "--policy", project .. "/policies/again.lua" },
      env = { DATABASE_URL = url, NEBULA_LOG = "warn", XDG_RUNTIME_DIR = project }, cwd = project,
      stdout = project .. "/log", stderr = "stdout",
    }
  end)
  after_each(function()
    if not worker:wait(0) then worker:kill(9) end
    worker:wait()
    storage:close()
  end)

  local function count(where) return storage.db:value("SELECT count(*) FROM workflow_jobs WHERE " .. where) end
  local function await(what, ready) return child.await(what, LONG, ready, worker) end
  local function said(text) return child.read_file(project .. "/log"):find(text, 1, true) end

  -- Pushes until over() is true, and notes what it was told of each job; refused(err) hears what went wrong.
  local function produce(over, refused)
    local names = { "effect", "short" }
    while not over() do
      local list = {}
      for i = 1, math.random(4) do
        list[i] = { id = nebula.crypto.uuid_v7(), max_retries = 1000,
          payload = { handler = names[math.random(#names)], filler = ("x"):rep(1000) } }
      end
      local _, err = nebula.try(task.deadline, 1, storage.push_jobs, storage, list)
      local how = "acked"
      if err then how = (err.kind == "unknown_outcome" or err.kind == "timeout") and "unknown" or "failed" end
      for _, job in ipairs(list) do told[job.id] = how end
      if err then
        assert.is_true(how == "unknown" or err.retryable, tostring(err))
        refused(err)
      end
      task.sleep(0.01)
    end
  end

  -- What was acknowledged is there, what failed is not; all is done, each once; the worker ends in order.
  local function check()
    await("every job", function() return count "status <> 'completed'" == 0 end)
    worker:kill "TERM"
    assert.equal(0, worker:wait().status)
    local found, acked = {}, 0
    for row in storage.db:rows "SELECT id FROM workflow_jobs" do
      found[row.id] = true
      assert.are_not.equal("failed", told[row.id])
    end
    for id, how in pairs(told) do
      if how == "acked" then
        acked = acked + 1
        assert.is_true(found[id], id .. " was acknowledged, and is gone")
      end
    end
    assert.is_true(acked > 0)
    local effects = count "payload ->> 'handler' <> 'short'"
    assert.same({ effects = effects, jobs = effects }, storage.db:one [[
      SELECT count(*) AS effects, count(DISTINCT job) AS jobs FROM effects
    ]])
  end

  it("fails pushes and jobs by name, and all goes on once there is room", function()
    local over, refused, last, after = false, 0, nil, project .. "/after"
    for _ = 1, LARGE do
      storage:push_job { max_retries = 1000, payload = { handler = "large", after = after } }
    end
    task.scope(function(scope)
      scope:spawn(produce, function() return over end, function(err)
        if err.code == "53100" then refused, last = refused + 1, err end
      end)
      await("some work", function()
        return count "status = 'completed'" >= 10 and count "status = 'running'" >= LARGE
      end)
      server:fill_disk(true)
      nebula.fs.write(after, "")
      await("refusals", function() return refused >= 10 and said(NO_ROOM) end)
      server:fill_disk(false)
      local before = count "status = 'completed'"
      await("more work", function() return count "status = 'completed'" >= before + 10 end)
      over = true
    end)
    assert.equal("database", last.kind)
    assert.matches("^database: could not extend file .*" .. NO_ROOM .. " %[53100%]", tostring(last))
    check()
  end)

  it("that brings it down loses nothing that it acknowledged", function()
    local over, failures = false, 0
    task.scope(function(scope)
      scope:spawn(produce, function() return over end, function() failures = failures + 1 end)
      await("some work", function() return count "status = 'completed'" >= 10 end)
      server:fill_disk(true)
      await("its end", function() -- once it has no segment of its log left that it made ahead
        if server:log():find "PANIC:[^\n]*No space left on device" then return failures >= 2 end
        nebula.try(task.deadline, 1, storage.db.exec, storage.db, NEXT_SEGMENT)
      end)
      server:fill_disk(false)
      server:restart "immediate"
      local before -- a connection that broke may be noticed by the next statement only
      await("an answer", function()
        before = nebula.try(count, "status = 'completed'")
        return before
      end)
      await("more work", function() return (nebula.try(count, "status = 'completed'") or 0) >= before + 10 end)
      over = true
    end)
    check()
  end)
end)
