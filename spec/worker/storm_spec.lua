-- Several workers on one queue, one of them killed or stopped again and again, and another engine that
-- knows only the first three migrations: every job is done, and the effect of each stands once.
local child = require "spec.support.child"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local program = require "spec.support.nebula"
local storages = require "nebula.storage"

-- NEBULA_SPEC_LONG=1: at the size that it is meant to stand.
local FULL = os.getenv "NEBULA_SPEC_LONG" == "1"
local JOBS, FOREIGN, WORKERS, KILLS = 4000, 200, 4, 9
if FULL then JOBS, FOREIGN, WORKERS, KILLS = 100000, 5000, 8, math.maxinteger end -- kills until all is done
local SWEEP = 10 -- seconds within which a worker looks for vanished ones, with some to spare
local LONG = FULL and 600 or 180 -- seconds that nothing here should take

-- An engine of its own, in the base schema's columns alone: pushes, claims, works, finishes.
local FOREIGN_PUSH = [[
  INSERT INTO workflow_jobs (id, workflow_id, execution_id, priority, scheduled_at, status, payload, created_at)
  SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 0, now(), 'pending', '{"handler": "count"}', now()
  FROM generate_series(1, $1)
]]
local FOREIGN_CLAIM = [[
  UPDATE workflow_jobs SET status = 'running', locked_by = $1, locked_at = now()
  WHERE id IN (
    SELECT id FROM workflow_jobs
    WHERE status = 'pending' AND scheduled_at <= now()
    ORDER BY priority DESC, scheduled_at
    LIMIT 5
    FOR UPDATE SKIP LOCKED
  )
  RETURNING id
]]
local FOREIGN_FINISH = [[
  WITH done AS (
    UPDATE workflow_jobs SET status = 'completed', locked_by = NULL WHERE id = ANY ($1) AND locked_by = $2 RETURNING id
  )
  INSERT INTO effects (job) SELECT id FROM done
]]

describe("a storm of killed and stopped workers", function()
  local storage, url, handlers, runtime
  local started = {}

  setup(function()
    url = postgres.database()
    storage = storages.with_pool_config(url, { max_size = 8 })
    storage:run_migrations { log = function() end }
    storage.db:exec "CREATE TABLE effects (job UUID)"
    handlers, runtime = program.scratch(), program.scratch()
    program.write(handlers, {
      ["count.lua"] = [[
        return function(ctx, job)
          ctx.tx(function(tx) tx:exec("INSERT INTO effects (job) VALUES ($1)", job.id) end)
        end
      ]],
      ["short.lua"] = "return function() end",
      ["nap.lua"] = "return function() require('nebula').task.sleep(math.random() * 0.4) end",
    })
  end)
  teardown(function()
    for _, process in ipairs(started) do
      if not process:wait(0) then
        process:kill(9)
        process:wait()
      end
    end
    storage:close()
  end)

  local function spawn()
    local process = program.spawn {
      args = { "worker", "--handlers", handlers, "--lease", "1s", "--poll", "100ms", "--concurrency", "16" },
      env = { DATABASE_URL = url, XDG_RUNTIME_DIR = runtime, NEBULA_LOG = "error" }, stdout = "null", cwd = runtime,
    }
    started[#started + 1] = process
    return process
  end

  local function count(where) return storage.db:value("SELECT count(*) FROM workflow_jobs WHERE " .. where) end

  local function foreign_engine(done)
    local me = nebula.crypto.uuid_v4()
    while not done() do
      local ids = {}
      for i, row in ipairs(storage.db:query(FOREIGN_CLAIM, me)) do ids[i] = row.id end
      if #ids > 0 then storage.db:exec(FOREIGN_FINISH, ids, me) end
      nebula.task.sleep(0.02)
    end
  end

  it("loses no job and doubles no effect", function()
    local names = { "count", "count", "short", "nap" }
    local list = {}
    for i = 1, JOBS do list[i] = { payload = { handler = names[i % 4 + 1] }, max_retries = 1000 } end
    for first = 1, JOBS, 10000 do storage:push_jobs(table.move(list, first, math.min(first + 9999, JOBS), 1, {})) end
    storage.db:exec(FOREIGN_PUSH, FOREIGN)

    local over = false
    local engine = nebula.task.spawn(foreign_engine, function() return over end)
    local workers = {}
    for i = 1, WORKERS do workers[i] = spawn() end
    local total = JOBS + FOREIGN
    local kill = 0
    while kill < KILLS do
      kill = kill + 1
      if FULL then
        nebula.task.sleep(2)
        if count "status <> 'completed'" == 0 then break end
        assert.equal(0, count(("status = 'running' AND lease_until < now() - interval '%d s'"):format(SWEEP)))
      else
        child.await("progress", LONG, function() return count "status = 'completed'" >= total * kill // (KILLS + 4) end)
      end
      local i = math.random(WORKERS)
      if kill % 3 == 0 then
        workers[i]:kill "STOP"
        local before = count "status = 'completed'"
        child.await("the rescue of what it held", LONG, function()
          return count "status = 'running' AND lease_until < now()" == 0 and
            (count "status = 'completed'" > before + 20 or count "status <> 'completed'" == 0)
        end)
        workers[i]:kill "CONT"
      else
        workers[i]:kill(9)
        workers[i]:wait()
        workers[i] = spawn()
      end
    end
    child.await("every job", LONG, function() return count "status <> 'completed'" == 0 end)
    over = true
    engine:join()
    for _, process in ipairs(workers) do process:kill "TERM" end
    for _, process in ipairs(workers) do assert.equal(0, process:wait().status) end

    assert.equal(total, count "status = 'completed'")
    assert.same({ effects = storage.db:value [[
      SELECT count(*) FROM workflow_jobs WHERE payload ->> 'handler' = 'count' OR locked_by IS NULL
    ]], jobs = storage.db:value "SELECT count(DISTINCT job) FROM effects" }, {
      effects = storage.db:value "SELECT count(*) FROM effects", jobs = storage.db:value "SELECT count(*) FROM effects",
    })
  end)
end)
