-- Another engine on the same tables, that knows V1 to V3 alone: it pushes, claims and finishes by plain SQL
-- beside our worker.
local directory = require "spec.support.directory"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local storages = require "nebula.storage"
local workers = require "nebula.worker"

local OURS, THEIRS = 400, 300
local ENGINE = "00000000-0000-0000-0000-0000000000e1"

local PUSH = [[
  INSERT INTO workflow_jobs (id, workflow_id, execution_id, priority, scheduled_at, status, payload, created_at)
  VALUES (gen_random_uuid(), $1, $2, 0, now(), 'pending', '{"engine": true}', now())
]]

local CLAIM = [[
  UPDATE workflow_jobs
  SET status = 'running', locked_by = $1, locked_at = now()
  WHERE id = (
    SELECT id FROM workflow_jobs
    WHERE status = 'pending' AND scheduled_at <= now()
    ORDER BY priority DESC, scheduled_at
    LIMIT 1
    FOR UPDATE SKIP LOCKED
  )
  RETURNING id
]]

describe("an engine that knows V1 to V3", function()
  it("works the queue beside our worker: each job is done once, by one of them", function()
    local url = postgres.database()
    local storage <close> = storages.with_pool_config(url, { max_size = 6 })
    storage:run_migrations { log = function() end }
    local engine <close> = nebula.pg.connect { url = url, max_connections = 2 }
    local workflow = storage:save_workflow { name = "shared", definition = {} }
    engine:exec("INSERT INTO executions (id, workflow_id, status, started_at, state, created_at, updated_at) "
      .. "VALUES (gen_random_uuid(), $1, 'whatever', now(), '{}', now(), now())", workflow.id)
    local run = engine:value "SELECT id FROM executions"
    for _ = 1, THEIRS // 2 do engine:exec(PUSH, workflow.id, run) end
    local held = engine:value(CLAIM, ENGINE) -- for as long as all this takes
    local done = { [held] = 1 }
    local function did(id) done[id] = (done[id] or 0) + 1 end
    local by_engine, by_worker = 0, 0

    nebula.task.scope(function(scope)
      scope:spawn(function()
        local list = {}
        for i = 1, OURS do list[i] = { payload = { handler = "any", n = i }, workflow_id = workflow.id } end
        storage:push_jobs(list)
      end)
      scope:spawn(function()
        for _ = 1, THEIRS // 2 do engine:exec(PUSH, workflow.id, run) end
      end)
      for _ = 1, 2 do
        scope:spawn(function()
          while by_engine + by_worker < OURS + THEIRS - 1 do
            local id = engine:value(CLAIM, ENGINE)
            if id then
              did(id)
              by_engine = by_engine + 1
              assert.equal(1, engine:exec("UPDATE workflow_jobs SET status = 'completed' WHERE id = $1 AND status = "
                .. "'running' AND locked_by = $2", id, ENGINE))
            else
              nebula.task.sleep(0.002)
            end
          end
        end)
      end
      scope:spawn(function()
        while by_engine + by_worker < OURS + THEIRS - 1 do
          workers.new(storage, { drain = true, handler = function(_, job)
            did(job.id)
            by_worker = by_worker + 1
          end }):run()
        end
      end)
    end)

    local total = 0
    for _, times in pairs(done) do
      assert.equal(1, times)
      total = total + 1
    end
    assert.equal(OURS + THEIRS, total)
    assert.is_true(by_engine > 0 and by_worker > 0)
    assert.same({ { status = "completed", count = OURS + THEIRS - 1 }, { status = "running", count = 1 } },
      { table.unpack(storage.db:query "SELECT status, count(*) AS count FROM workflow_jobs GROUP BY 1 ORDER BY 1") })
    assert.equal(ENGINE, storage:get_job(held).locked_by)
    assert.equal("whatever", storage:get_execution(run).status)
    assert.equal(1, engine:exec("UPDATE workflow_jobs SET status = 'completed' WHERE id = $1", held))
  end)

  it("keeps the jobs that name no handler, whatever the policy: our worker takes those that do", function()
    local url = postgres.database()
    local storage <close> = storages.with_pool_config(url, { max_size = 6 })
    storage:run_migrations { log = function() end }
    local workflow = storage:save_workflow { name = "shared", definition = {} }
    local handlers = directory.make "engine-handlers"
    nebula.fs.write(handlers .. "/ours.lua", "return function() end")
    for _ = 1, 40 do storage.db:exec(PUSH, workflow.id, nebula.crypto.uuid_v7()) end
    storage.db:exec "INSERT INTO workflow_jobs (payload) VALUES (NULL), ('[\"handler\"]'), ('{\"handler\": null}')"
    for _, source in ipairs {
      "return {}", "return { lane = 'payload.tenant', claim = function() return { cap = 2 } end }",
      "return { select = function(candidates) return candidates end }",
    } do
      local path = handlers .. "/policy.lua.txt"
      nebula.fs.write(path, source)
      storage.db:exec [[INSERT INTO workflow_jobs (payload) SELECT '{"handler": "ours"}' FROM generate_series(1, 20)]]
      local counts = workers.new(storage, { drain = true, handlers = handlers, policy = path }):run()
      assert.same({ 20, 20, 0 }, { counts.claimed, counts.completed, counts.failed })
    end
    assert.same({ { count = 43, retry_count = 0 } }, { table.unpack(storage.db:query [[
      SELECT count(*) AS count, max(retry_count) AS retry_count FROM workflow_jobs WHERE status = 'pending'
    ]]) })
  end)
end)
