-- Pauses, keys that are held for a time or until a job begins, and what a cancelled handler gets.
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local storages = require "nebula.storage"
local workers = require "nebula.worker"

local LONG = 60 -- seconds that nothing here should take

describe("the queue", function()
  local storage

  setup(function()
    storage = storages.with_pool_config(postgres.database(), { max_size = 16 })
    storage:run_migrations { log = function() end }
  end)
  teardown(function() storage:close() end)
  before_each(function() storage.db:exec "TRUNCATE workflow_jobs, job_pauses, job_keys, job_workers" end)

  local function push(fields)
    fields.payload = fields.payload or { handler = "x" }
    return storage:push_job(fields)
  end

  local function await(what, ready)
    local last = nebula.time.monotonic() + LONG
    while not ready() do
      assert(nebula.time.monotonic() < last, what)
      nebula.task.sleep(0.01)
    end
  end

  -- Runs fn beside a worker whose handler is given, then stops the worker.
  local function beside(handler, fn)
    local worker = workers.new(storage, { handler = handler, poll = 0.05 })
    local running = nebula.task.spawn(worker.run, worker)
    local _ <close> = setmetatable({}, { __close = function()
      worker:stop()
      running:join()
    end })
    fn(worker)
  end

  local function status(id) return storage:get_job(id).status end

  describe("paused", function()
    it("takes nothing, accepts pushes, and goes on when it is resumed", function()
      assert.is_true(storage:pause_queue(nil, "the billing service is down"))
      assert.is_false(storage:pause_queue())
      local id = push({}).id
      assert.same({}, storage:claim_jobs("w", 5))
      local stats = storage:queue_stats()
      assert.is_true(stats.paused)
      assert.equal("the billing service is down", storage:paused_lanes()[1].reason)
      assert.is_true(storage:resume_queue())
      assert.is_false(storage:resume_queue())
      assert.equal(id, storage:claim_job("w").id)
    end)

    it("holds in a worker that runs, and lets its jobs end", function()
      local gate, begun = nebula.task.channel(), 0
      beside(function()
        begun = begun + 1
        if begun == 1 then gate:receive() end
      end, function(worker)
        local first = push({}).id
        await("a start", function() return begun == 1 end)
        storage:pause_queue()
        await("the pause", function() return worker.halted end)
        local second = push({}).id
        gate:send(true)
        await("the end of what ran", function() return status(first) == "completed" end)
        assert.equal("pending", status(second))
        storage:resume_queue()
        await("the rest", function() return status(second) == "completed" end)
      end)
    end)

    it("ends a draining worker, whose jobs wait", function()
      push {}
      storage:pause_queue()
      local counts = workers.new(storage, { handler = function() end, drain = true }):run()
      assert.equal(0, counts.claimed)
    end)

    it("leaves one lane alone, by its name or its workflow's id", function()
      local workflow = nebula.crypto.uuid_v7()
      local a, b, c = push({ lane = "a" }).id, push({ lane = "b" }).id, push({ workflow_id = workflow }).id
      storage:pause_queue "a"
      storage:pause_queue(workflow)
      assert.same({ "a", workflow }, (function()
        local names = storage:queue_stats().paused_lanes
        table.sort(names, function(x) return x == "a" end)
        return names
      end)())
      local counts = workers.new(storage, { handler = function() end, drain = true }):run()
      assert.equal(1, counts.completed)
      assert.equal("completed", status(b))
      assert.same({}, storage:claim_jobs("w", 5))
      storage:resume_queue "a"
      assert.equal(a, storage:claim_job("w").id)
      assert.equal("pending", status(c))
    end)
  end)

  describe("a unique key", function()
    it("may be held only until the job begins", function()
      local key = { unique_key = "k", unique_while = "pending" }
      local first = push { unique_key = key.unique_key, unique_while = key.unique_while }
      assert.is_true(push({ unique_key = "k", unique_while = "pending" }).duplicate)
      local second
      workers.new(storage, { drain = true, handler = function(_, job)
        if job.id == first.id then second = push { unique_key = "k", unique_while = "pending" } end
      end }):run()
      assert.is_nil(second.duplicate)
      assert.equal("completed", status(second.id))
      push { unique_key = "k", unique_while = "pending" }
      local claimed = storage:claim_job "w"
      assert.is_nil(push({ unique_key = "k", unique_while = "pending" }).duplicate)
      storage:fail_job(claimed, "comes again beside the other")
      assert.equal(2, storage:queue_stats().due + storage:queue_stats().scheduled)
    end)

    it("may be held for a time, whatever becomes of the job", function()
      local first = push { unique_key = "k", unique_for = "1h" }
      storage:complete_job(storage:claim_job "w")
      local again = push { unique_key = "k", unique_for = "1h" }
      assert.equal(first.id, again.id)
      assert.is_true(again.duplicate)
      storage.db:exec "UPDATE job_keys SET held_until = now()"
      assert.is_nil(push({ unique_key = "k", unique_for = "1h" }).duplicate)
    end)

    it("is forgotten when it is held no longer", function()
      for i = 1, 3 do push { unique_key = "k" .. i, unique_for = i == 3 and "1h" or 0 } end
      beside(function() end, function()
        await("its end", function() return storage.db:value "SELECT count(*) FROM job_keys" == 1 end)
      end)
    end)

    it("is taken once in a batch, and once among many that push at the same time", function()
      local job = { payload = { handler = "x" }, unique_key = "b", unique_for = 60 }
      local ids = storage:push_jobs { job, { payload = { handler = "y" } }, job }
      assert.equal(ids[1], ids[3])
      assert.are_not.equal(ids[1], ids[2])
      local fresh, list = 0, {}
      for i = 1, 12 do list[i] = i end
      nebula.task.map(list, function()
        if not push({ unique_key = "c", unique_for = 60 }).duplicate then fresh = fresh + 1 end
      end, { concurrency = 12 })
      assert.equal(1, fresh)
      assert.equal(3, storage.db:value "SELECT count(*) FROM workflow_jobs")
    end)

    it("is not held for a time by a push that a job in the queue made a duplicate", function()
      push { unique_key = "k" }
      assert.is_true(push({ unique_key = "k", unique_for = "1h" }).duplicate)
      storage:complete_job(storage:claim_job "w")
      assert.is_nil(push({ unique_key = "k", unique_for = "1h" }).duplicate)
    end)

    it("is refused where its scope is none, or stands alone", function()
      local _, err = nebula.try(push, { unique_key = "k", unique_while = "ever" })
      assert.matches('unique_while: "ever" is none of active, pending', err.message)
      _, err = nebula.try(push, { unique_for = "1h" })
      assert.matches("unique_for wants a unique_key", err.message)
    end)
  end)

  it("ends a running handler that is cancelled from elsewhere: `cancelled` is raised where it waits", function()
    local kind
    beside(function()
      local _ <close> = setmetatable({}, { __close = function(_, err) kind = err and err.kind end })
      nebula.task.sleep(LONG * 2)
    end, function(worker)
      local id = push({}).id
      await("a lease", function() return status(id) == "running" end)
      assert.is_true(storage:cancel_job(id))
      await("the end of the handler", function() return kind end)
      await("its slot", function() return worker.running == 0 end)
      assert.equal("cancelled", kind)
      assert.equal("cancelled", status(id))
      assert.equal(1, worker.counts.cancelled)
      assert.equal(0, worker.counts.lost)
    end)
  end)

  it("snoozes a claimed job without counting a failure", function()
    local id = push({}).id
    storage:snooze_job(storage:claim_job "w", "1h")
    local row = storage:get_job(id)
    assert.equal("pending", row.status)
    assert.equal(0, row.retry_count)
    assert.equal(1, storage:queue_stats().scheduled)
  end)

  it("knows the workers of all hosts while they live", function()
    beside(function() end, function(worker)
      await("its row", function() return #storage:list_workers() == 1 end)
      local found = storage:list_workers()
      assert.equal(worker.id, found[1].id)
      assert.equal(require("nebula.system").ids().pid, found[1].pid)
      assert.equal("priority", found[1].state.policy)
    end)
    assert.same({}, storage:list_workers())
  end)

  it("counts a large queue without reading what has finished", function()
    storage.db:exec [[
      INSERT INTO workflow_jobs (status, finished_at, payload)
      SELECT 'completed', now(), '{}' FROM generate_series(1, 20000)
    ]]
    push {}
    storage.db:exec "ANALYZE workflow_jobs"
    local plan = storage.db:query [[
      EXPLAIN SELECT count(*) FROM (SELECT FROM workflow_jobs WHERE status = 'dead' LIMIT 100000) s
    ]]
    for _, line in ipairs(plan) do assert.not_matches("Seq Scan", line["QUERY PLAN"]) end
    assert.equal(1, storage:queue_stats().due)
  end)
end)
