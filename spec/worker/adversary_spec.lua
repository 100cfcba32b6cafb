-- Handlers that misbehave, rows that nobody of ours wrote, and what the worker makes of them.
local nebula = require "nebula"
local policies = require "nebula.policy"
local postgres = require "spec.support.postgres"
local storages = require "nebula.storage"
local workers = require "nebula.worker"

local LONG = 60 -- seconds that nothing here should take

describe("a worker among hostile handlers", function()
  local storage

  setup(function()
    storage = storages.with_pool_config(postgres.database(), { max_size = 20 })
    storage:run_migrations { log = function() end }
  end)
  teardown(function() storage:close() end)
  before_each(function() storage.db:exec "TRUNCATE workflow_jobs" end)

  local function push(count, fields)
    local list = {}
    for i = 1, count do
      list[i] = { payload = { handler = "x", n = i } }
      for name, value in pairs(fields or {}) do list[i][name] = value end
    end
    return storage:push_jobs(list)
  end

  local function work(handler, opts)
    opts = opts or {}
    opts.handler, opts.drain = handler, true
    return nebula.task.deadline(LONG, function() return workers.new(storage, opts):run() end)
  end

  local function count(where) return storage.db:value("SELECT count(*) FROM workflow_jobs WHERE " .. where) end

  local function spin(seconds)
    local last = nebula.time.monotonic() + seconds
    while nebula.time.monotonic() < last do end
  end

  it("counts an attempt for a handler that cancels its own task", function()
    push(3, { max_retries = 0 })
    local calls = 0
    work(function()
      calls = calls + 1
      assert(calls <= 3, "again and again")
      nebula.task.current():cancel()
      nebula.task.sleep(1)
    end)
    assert.equal(3, calls)
    assert.equal(3, count "status = 'dead' AND error LIKE '%cancelled%'")
  end)

  it("is not kept from its end by progress that a left task tells after its handler", function()
    push(2)
    local told = false
    work(function(ctx, job)
      if job.payload.n == 2 then
        while not told do nebula.task.sleep(0.01) end
        return
      end
      ctx.tx(function() end) -- from now on under a lease
      nebula.task.spawn(function()
        while count "status = 'completed'" == 0 do nebula.task.sleep(0.01) end
        nebula.task.sleep(0.05)
        ctx.progress(1)
        told = true
      end)
    end, { concurrency = 2 })
    assert.equal(2, count "status = 'completed'")
  end)

  it("counts an attempt for a handler that raises an error called fenced", function()
    push(1, { max_retries = 0 })
    local calls = 0
    work(function()
      calls = calls + 1
      assert(calls == 1, "again and again")
      error(nebula.error { kind = "fenced", message = "another job's claim" })
    end)
    assert.equal(1, count "status = 'dead' AND error LIKE 'another job%'")
  end)

  it("fails a leased job alone whose result the database cannot hold", function()
    push(4, { max_retries = 0 })
    work(function(_, job)
      nebula.task.sleep(0.3) -- by now it is a lease
      if job.payload.n == 2 then return nebula.json.number "1e200000" end
    end)
    assert.equal(3, count "status = 'completed'")
    assert.equal(1, count "status = 'dead'")
  end)

  it("never leaves a batch without a runner while slots are free", function()
    push(40)
    local counts = work(function(_, job)
      if job.payload.n <= 2 then nebula.task.sleep(0.3) end
    end, { concurrency = 1, connections = 4, batch = 5 })
    assert.equal(40, counts.completed)
  end)

  local function stopped_at_once(ready)
    push(6)
    local worker, after
    local seen = 0
    worker = workers.new(storage, { concurrency = 1, connections = 1, handler = function(ctx)
      seen = seen + 1
      assert(not after, "a job that was given back")
      if seen == 1 then nebula.try(ctx.tx, function() error "no" end) end -- from now on leased at once
      nebula.task.sleep(600)
    end })
    worker.slow = 1
    local running = nebula.task.spawn(worker.run, worker)
    nebula.task.deadline(LONG, function()
      while not ready(worker, seen) do nebula.task.sleep(0) end
      worker:stop()
      after = true
      worker:stop()
      running:join()
    end)
    assert.equal(6, count "status = 'pending' AND retry_count = 0")
  end

  it("stops at once with leases that wait for a slot, and runs none of those it gave back", function()
    stopped_at_once(function(_, seen) return seen == 1 end)
  end)

  it("stops at once with leases of which none has begun, and begins none", function()
    stopped_at_once(function(worker) return next(worker.leased) end)
  end)

  it("completes jobs that compute for longer than a lease, one after the other", function()
    push(3, { max_retries = 20 })
    local calls = 0
    local function compute()
      calls = calls + 1
      spin(1.3)
    end
    nebula.task.deadline(LONG, function() -- on a machine that stalls some leases end, and their jobs run again
      repeat work(compute, { lease = 1, concurrency = 4, connections = 1 }) until count "status = 'completed'" == 3
    end)
    assert.is_true(calls <= 3 * 21, calls .. " calls")
  end)

  it("keeps a batch of computing handlers within its lease", function()
    push(8)
    local calls = 0
    work(function()
      calls = calls + 1
      spin(0.6)
    end, { lease = 4, concurrency = 8, connections = 1 })
    assert.equal(8, count "status = 'completed'")
    assert.equal(8, calls)
  end)

  it("wakes every task of a handler that wants the transaction", function()
    push(1)
    work(function(ctx)
      local wins = 0
      nebula.task.scope(function(scope)
        for _ = 1, 3 do
          scope:spawn(function()
            local _, err = nebula.try(ctx.tx, function(tx) tx:exec "SELECT 1" end)
            if not err then wins = wins + 1 end
          end)
        end
      end)
      assert(wins == 1)
    end)
    assert.equal(1, count "status = 'completed'")
  end)

  it("gives a transaction to jobs whose payload is no object", function()
    storage.db:exec "INSERT INTO workflow_jobs (payload) VALUES (NULL), ('null'), ('[1]'), ('7')"
    local counts = work(function(ctx) return ctx.tx(function() return 1 end) end)
    assert.equal(4, counts.completed)
  end)

  it("works what other programs wrote, however strange", function()
    storage.db:exec [[
      INSERT INTO workflow_jobs (payload, priority, scheduled_at, retry_count, max_retries, status)
      VALUES ((repeat('[', 5000) || repeat(']', 5000))::jsonb, 9, now(), 0, 0, 'pending'),
        ('{"n": 1e400}', 8, '-infinity', 0, 0, 'pending'),
        ('{"n": 123456789012345678901234567890}', NULL, '0044-03-15 BC', NULL, 0, 'pending'),
        ('"text"', -2147483648, '-infinity', 0, NULL, 'pending')
    ]]
    push(3)
    work(function() end)
    assert.equal(6, count "status = 'completed'")
    assert.equal(1, count "status IN ('completed', 'dead') AND priority = 9")
  end)

  it("blames a suspect alone for the end of its process, not the leases beside it", function()
    local ids = push(3)
    storage:claim_jobs("vanished", 3)
    storage.db:exec "UPDATE workflow_jobs SET lease_until = now() - interval '1 s'"
    storage.db:exec("UPDATE workflow_jobs SET suspect = true WHERE id = $1", ids[2])
    nebula.task.deadline(LONG, function()
      repeat work(function() nebula.task.sleep(0.01) end) until count "status = 'completed'" == 3
    end)
    local rows = storage.db:query "SELECT id, retry_count AS tries FROM workflow_jobs ORDER BY id"
    assert.same({ { id = ids[1], tries = 0 }, { id = ids[2], tries = 1 }, { id = ids[3], tries = 0 } },
      { rows[1], rows[2], rows[3] })
  end)

  it("leases no more jobs than it can run, once their handler wants leases", function()
    push(300)
    local most = 0
    local worker
    worker = workers.new(storage, { concurrency = 4, connections = 1, drain = true, handler = function(ctx)
      ctx.tx(function() nebula.task.sleep(0.001) end)
      local held = 0
      for _ in pairs(worker.leased) do held = held + 1 end
      if worker.counts.completed > 150 then most = math.max(most, held) end
    end })
    nebula.task.deadline(LONG, function() worker:run() end)
    assert.equal(300, count "status = 'completed'")
    assert.is_true(most <= 8, most .. " leases for 4 slots")
  end)

  it("claims nothing where its policy says nothing now, and can be stopped", function()
    push(1)
    storage:use_policy(policies.from_source("never", "never.lua", "return { claim = function() end }"))
    finally(function() storage:use_policy(policies.default()) end)
    local worker = workers.new(storage, { handler = function() end })
    local policy = storage:policy()
    local asked, plan = 0, policy.plan_or_default
    policy.plan_or_default = function(...)
      asked = asked + 1
      return plan(...)
    end
    local running = nebula.task.spawn(worker.run, worker)
    nebula.task.deadline(LONG, function()
      nebula.task.sleep(0.3)
      worker:stop()
      running:join()
    end)
    assert.is_true(asked < 100, asked .. " times in 0.3 s")
    assert.equal(1, count "status = 'pending'")
  end)
end)
