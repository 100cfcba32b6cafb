-- The queue's operations: pushing, claims with fencing tokens, retries, looking after it.
local child = require "spec.support.child"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local storages = require "nebula.storage"

describe("the queue", function()
  local storage

  setup(function()
    storage = storages.with_pool_config(postgres.database(), { max_size = 8 })
    storage:run_migrations { log = function() end }
  end)
  teardown(function() storage:close() end)
  before_each(function() storage.db:exec "TRUNCATE workflow_jobs" end)

  local function refused(kind, ...)
    local _, err = nebula.try(...)
    assert.is_table(err)
    assert.equal(kind, err.kind)
    return err.message
  end

  local function push(fields)
    fields.payload = fields.payload or { handler = "noop" }
    return storage:push_job(fields).id
  end

  local function expire(id)
    storage.db:exec("UPDATE workflow_jobs SET lease_until = now() - interval '1 second' WHERE id = $1", id)
  end

  describe("push", function()
    it("takes 10,000 jobs in one statement, all or none", function()
      local list = {}
      for i = 1, 10000 do list[i] = { payload = { handler = "noop", n = i } } end
      push {}
      local before = storage.db:stats().requests
      assert.equal(10000, #storage:push_jobs(list))
      assert.is_true(storage.db:stats().requests - before <= 4) -- with those that tell the workers
      list[9999].priority = 1 << 40
      assert.matches("priority", refused("validation", storage.push_jobs, storage, list))
      assert.equal(10001, storage.db:value "SELECT count(*) FROM workflow_jobs")
    end)

    it("holds one pending or running job of a unique key", function()
      local first = storage:push_job { payload = { handler = "a" }, unique_key = "k" }
      local again = storage:push_job { payload = { handler = "a" }, unique_key = "k" }
      assert.equal(first.id, again.id)
      assert.is_true(again.duplicate)
      local job = storage:claim_job "w"
      assert.is_true(storage:push_job({ payload = { handler = "a" }, unique_key = "k" }).duplicate)
      storage:complete_job(job)
      assert.is_nil(storage:push_job({ payload = { handler = "a" }, unique_key = "k" }).duplicate)
    end)

    it("waits for no other push that is not committed yet", function()
      local url = postgres.database()
      local one <close> = storages.with_pool_config(url)
      local other <close> = storages.with_pool_config(url)
      one:run_migrations { log = function() end }
      one.db:transaction(function(tx)
        one:push_job({ payload = { handler = "a" } }, tx) -- the first of this object
        nebula.task.deadline(60, other.push_job, other, { payload = { handler = "a" } })
      end)
      assert.equal(2, one.db:value [[
        SELECT count(*) FROM workflow_jobs j JOIN workflows w ON w.id = j.workflow_id AND w.name = 'nebula.adhoc'
      ]])
    end)

    it("gives a job of plain SQL an id in the order of time, as push_job does", function()
      local ids = {}
      for i = 1, 6 do
        ids[i] = i % 2 == 0 and push {}
          or storage.db:value [[INSERT INTO workflow_jobs (payload) VALUES ('{"handler": "noop"}') RETURNING id]]
        assert.matches("^%x+%-%x+%-7%x%x%x%-[89ab]%x%x%x%-%x+$", ids[i])
        storage.db:exec "SELECT pg_sleep(0.002)" -- the time in them is in milliseconds
      end
      local sorted = table.move(ids, 1, #ids, 1, {})
      table.sort(sorted)
      assert.same(sorted, ids)
    end)

    it("is there when the caller's transaction commits, and only then", function()
      nebula.try(storage.db.transaction, storage.db, function(tx)
        storage:push_job({ payload = { handler = "a" } }, tx)
        error "no"
      end)
      assert.equal(0, storage.db:value "SELECT count(*) FROM workflow_jobs")
      storage.db:transaction(function(tx) storage:push_job({ payload = { handler = "a" } }, tx) end)
      assert.equal(1, storage.db:value "SELECT count(*) FROM workflow_jobs")
    end)

    it("refuses what is no job, by the field's name", function()
      assert.matches("payload wants a JSON object", refused("validation", storage.push_job, storage, {}))
      assert.matches("payload", refused("validation", storage.push_job, storage, { payload = { f = print } }))
      assert.matches("did you mean priority", refused("validation", storage.push_job, storage, { payload = {},
        prioritiy = 1 }))
      assert.matches("delay", refused("validation", storage.push_job, storage, { payload = {}, delay = "soon" }))
    end)
  end)

  describe("a claim", function()
    it("takes the highest priority first, then the oldest, and nothing that is not due", function()
      local low, late = push { priority = 1 }, push { priority = 9, delay = 3600 }
      local old = push { priority = 5, scheduled_at = "2020-01-01T00:00:00Z" }
      local new = push { priority = 5 }
      local ids = {}
      for i, job in ipairs(storage:claim_jobs("w", 10)) do ids[i] = job.id end
      assert.same({ old, new, low }, ids)
      assert.equal("pending", storage:get_job(late).status)
    end)

    it("gives each job to one worker", function()
      for _ = 1, 60 do push {} end
      local seen, total = {}, 0
      nebula.task.map({ "a", "b", "c", "d", "e", "f" }, function(worker)
        for _, job in ipairs(storage:claim_jobs(worker, 10)) do
          assert.is_nil(seen[job.id])
          seen[job.id], total = true, total + 1
        end
      end, { concurrency = 6 })
      while true do
        local rest = storage:claim_jobs("a", 60)
        if #rest == 0 then break end
        total = total + #rest
      end
      assert.equal(60, total)
    end)

    it("is fenced once its lease has passed to another, and then changes nothing", function()
      push {}
      local mine = storage:claim_job "slow"
      storage.db:exec([[
        UPDATE workflow_jobs SET status = 'pending', locked_by = NULL, lease_until = NULL WHERE id = $1
      ]], mine.id)
      local theirs = storage:claim_job "other"
      assert.equal(mine.id, theirs.id)
      assert.is_true(theirs.token > mine.token)
      refused("fenced", storage.complete_job, storage, mine, { from = "mine" })
      refused("fenced", storage.fail_job, storage, mine, "mine")
      refused("fenced", storage.release_jobs, storage, { mine })
      assert.same({ mine.id }, storage:heartbeat_jobs { mine })
      storage:complete_job(theirs, { from = "theirs" })
      assert.equal("theirs", storage:get_job(mine.id).result.from)
      refused("fenced", storage.complete_job, storage, theirs)
    end)

    it("completes a batch all or none", function()
      for _ = 1, 3 do push {} end
      local jobs = storage:claim_jobs("w", 3)
      storage:cancel_job(jobs[2].id)
      assert.matches("nothing was changed", refused("fenced", storage.complete_jobs, storage, jobs))
      assert.equal("running", storage:get_job(jobs[1].id).status)
      assert.equal(2, storage:complete_jobs { jobs[1], jobs[3] })
    end)

    it("is known by its id to the storage that claimed it", function()
      push {}
      local job = storage:claim_job "w"
      storage:complete_job(job.id, { ok = true })
      assert.equal("completed", storage:get_job(job.id).status)
      assert.matches("not held here", refused("fenced", storage.complete_job, storage, job.id))
    end)

    it("is renewed by a heartbeat, and given back by a release", function()
      push {}
      local job = storage:claim_job("w", { lease = 60 })
      expire(job.id)
      assert.same({}, storage:heartbeat_jobs({ job }, { lease = 60 }))
      assert.is_true(storage.db:value([[
        SELECT lease_until > now() + interval '50 seconds' FROM workflow_jobs WHERE id = $1
      ]], job.id))
      storage:release_jobs { job }
      local row = storage:get_job(job.id)
      assert.equal("pending", row.status)
      assert.equal(0, row.retry_count)
      assert.is_nil(row.locked_by)
    end)

    it("completes within the caller's transaction", function()
      push {}
      local job = storage:claim_job "w"
      nebula.try(storage.db.transaction, storage.db, function(tx)
        storage:complete_job(job, nil, tx)
        error "rolled back"
      end)
      assert.equal("running", storage:get_job(job.id).status)
    end)

    it("does not touch what another engine holds", function()
      local id = push {}
      storage.db:exec([[
        UPDATE workflow_jobs SET status = 'running', locked_by = id, locked_at = now() WHERE id = $1
      ]], id)
      assert.same({}, storage:claim_jobs("w", 5))
    end)
  end)

  describe("a failure", function()
    it("comes again later each time, then is dead with its reason and history", function()
      local id = push { max_retries = 2 }
      for attempt = 1, 2 do
        local answer = storage:fail_job(storage:claim_job "w", "boom " .. attempt)
        assert.equal("pending", answer.status)
        assert.is_true(answer.delay > 0)
        storage.db:exec("UPDATE workflow_jobs SET scheduled_at = now() WHERE id = $1", id)
      end
      assert.equal("dead", storage:fail_job(storage:claim_job "w", { kind = "io", message = "boom 3" }).status)
      local row = storage:get_job(id)
      assert.equal("dead", row.status)
      assert.equal("boom 3 (after 3 attempts)", row.error)
      assert.equal(3, row.retry_count)
      assert.equal(3, #row.failures)
      assert.equal("boom 1", row.failures[1].message)
      assert.equal("io", row.failures[3].kind)
    end)

    it("keeps a reason that PostgreSQL could not store as it is", function()
      local id = push { max_retries = 0 }
      storage:fail_job(storage:claim_job "w", "NUL \0 and no UTF-8 \xff")
      assert.equal("NUL \\0 and no UTF-8 ? (after 1 attempts)", storage:get_job(id).error)
    end)
  end)

  it("cancels what has not ended", function()
    local id = push {}
    assert.is_true(storage:cancel_job(id))
    assert.is_false(storage:cancel_job(id))
    assert.equal("cancelled", storage:get_job(id).status)
    refused("not_found", storage.cancel_job, storage, nebula.crypto.uuid_v7())
  end)

  it("requeues by filter, with all retries again", function()
    local ids = {}
    for i = 1, 3 do
      ids[i] = push { max_retries = 0 }
      storage:fail_job(storage:claim_job "w", i == 3 and "other" or "a timeout of it")
    end
    assert.equal(2, storage:requeue_jobs { status = "dead", error = "%timeout%" })
    local row = storage:get_job(ids[1])
    assert.equal("pending", row.status)
    assert.equal(0, row.retry_count)
    assert.equal("dead", storage:get_job(ids[3]).status)
    assert.matches("none of failed", refused("validation", storage.requeue_jobs, storage, { status = "completed" }))
  end)

  it("leaves a job whose key a push takes while it is requeued", function()
    local id = push { unique_key = "contended" }
    storage:cancel_job(id)
    local other = push {}
    storage:cancel_job(other)
    local counted
    nebula.task.scope(function(scope)
      storage.db:transaction(function(tx)
        storage:push_job({ payload = { handler = "noop" }, unique_key = "contended" }, tx)
        scope:spawn(function() counted = storage:requeue_jobs { status = "cancelled" } end)
        child.await("the requeue that waits for the push", 60, function()
          return storage.db:value [[
            SELECT true FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%retry_count = 0%'
          ]]
        end)
      end)
    end)
    assert.equal(1, counted)
    assert.equal("cancelled", storage:get_job(id).status)
    assert.equal("pending", storage:get_job(other).status)
  end)

  it("lists by filter in pages, and counts", function()
    for i = 1, 5 do push { payload = { handler = "h" .. i % 2 } } end
    push { delay = 100 }
    assert.equal(3, #storage:list_jobs { handler = "h1" })
    local first = storage:list_jobs { status = "pending", limit = 4 }
    assert.equal(2, #storage:list_jobs { status = "pending", limit = 4, after = first[4] })
    local stats = storage:queue_stats()
    assert.equal(5, stats.due)
    assert.equal(1, stats.scheduled)
    assert.is_true(stats.oldest_wait >= 0)
  end)
end)
