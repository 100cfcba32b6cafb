-- Where a claim begins in the queue: below its mark nothing waits for longer than the reported lag, and
-- what a claim reads does not grow with what is finished.
local child = require "spec.support.child"
local claim = require "nebula.worker.claim"
local directory = require "spec.support.directory"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local storages = require "nebula.storage"
local Watermarks = require "nebula.worker.watermark"
local workers = require "nebula.worker"

local LONG = 60 -- seconds that nothing here should take

-- The base schema's columns alone, as another engine inserts them.
local FOREIGN = [[
  INSERT INTO workflow_jobs (id, workflow_id, execution_id, priority, scheduled_at, status, payload, created_at)
  VALUES (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), $1, now() - make_interval(secs => $2), 'pending',
    '{"handler": "x", "foreign": true}', now())
]]

describe("the watermark of a claim", function()
  local storage, other, url, worker, running

  setup(function()
    url = postgres.database()
    storage = storages.with_pool_config(url, { max_size = 8 })
    other = storages.with_pool_config(url, { max_size = 4 }) -- as another process: it is heard of by NOTIFY
    storage:run_migrations { log = function() end }
  end)
  teardown(function()
    other:close()
    storage:close()
  end)
  before_each(function()
    storage.db:exec "TRUNCATE workflow_jobs"
    worker = workers.new(storage, { handler = function() end, connections = 1 })
    running = nebula.task.spawn(worker.run, worker)
  end)
  after_each(function()
    worker:stop()
    running:join()
  end)

  local function await(what, ready) return child.await(what, LONG, ready) end
  local function mark() return worker.marks.at[0] and worker.marks.at[0].at end
  local function done(id)
    return function() return storage:get_job(id).status == "completed" end
  end

  -- Jobs are pushed and worked until the mark has come to lie above a time.
  local function pass(at)
    await("the mark", function()
      storage:push_jobs { { payload = { handler = "x" } } }
      return mark() and mark() > at
    end)
  end

  it("lets a push come to light that began before and was committed after", function()
    local id
    storage.db:transaction(function(tx)
      id = other:push_job({ payload = { handler = "x" } }, tx).id
      pass(tx:value "SELECT now()")
    end)
    await("the late push", done(id))
    assert.equal(0, worker.marks.late) -- it was told of
  end)

  it("is held by rows that another claimer has locked, until it gives up", function()
    local id, job
    storage.db:transaction(function(tx)
      repeat -- until it is locked before the worker has it
        id = storage:push_job({ payload = { handler = "x" }, delay = 0.3 }).id
        job = storage:get_job(id)
      until tx:one("SELECT FROM workflow_jobs WHERE id = $1 AND status = 'pending' FOR UPDATE", id)
      await("its time", function() return tx:value("SELECT clock_timestamp() > $1::timestamptz + '0.3 s'",
        job.scheduled_at) end)
      local before = worker.counts.completed
      await("others", function()
        storage:push_jobs { { payload = { handler = "x" } } }
        return worker.counts.completed > before + 20
      end)
      assert.is_true(mark() <= job.scheduled_at)
    end)
    await("the job that was locked", done(id))
    assert.equal(0, worker.marks.late)
  end)

  it("is held by rows that may not be taken now", function()
    storage:pause_queue "still"
    await("the pause", function() return worker.lanes_paused end)
    local id = storage:push_job({ payload = { handler = "x" }, lane = "still" }).id
    local job = storage:get_job(id)
    local before = worker.counts.completed
    await("others", function()
      storage:push_jobs { { payload = { handler = "x" } } }
      return worker.counts.completed > before + 20
    end)
    assert.is_true(mark() <= job.scheduled_at)
    storage:resume_queue "still"
    await("the job of the lane", done(id))
    assert.equal(0, worker.marks.late)
  end)

  it("does not hide what another program inserts with a time in the past", function()
    storage:push_job { payload = { handler = "x" } }
    pass(storage.db:value "SELECT now()")
    storage.db:exec(FOREIGN, 0, 3600)
    await("the foreign job", function()
      return storage.db:value [[
        SELECT count(*) FROM workflow_jobs WHERE payload ? 'foreign' AND status = 'completed'
      ]] == 1
    end)
    assert.equal(1, worker.marks.late)
    assert.is_true(worker.marks.lag > 0)
  end)

  it("exists for priorities that were seen; others are read from their head", function()
    storage:push_job { payload = { handler = "x" } }
    pass(storage.db:value "SELECT now()")
    for _, priority in ipairs { 7, -3, 2147483647, -2147483648 } do storage.db:exec(FOREIGN, priority, 3600) end
    storage.db:exec(FOREIGN, nil, 3600)
    await("them all", function()
      return storage.db:value "SELECT count(*) FROM workflow_jobs WHERE status <> 'completed'" == 0
    end)
    assert.equal(0, worker.marks.late)
    assert.same({ 2147483647, 7, 0, -3, -2147483648 }, worker.marks.known)
  end)

  it("is lowered by a job that is given back, or pushed for a time in the past, elsewhere", function()
    local at = storage.db:value "SELECT now()"
    local id
    storage.db:transaction(function(tx) -- claimed before the worker sees it
      id = other:push_job({ payload = { handler = "x" } }, tx).id
      tx:exec("UPDATE workflow_jobs SET status = 'running', token = 1, locked_by = $1, lease_until = now() + '1 h'"
        .. " WHERE id = $2", other:worker_uuid "me", id)
    end)
    pass(at)
    other:release_jobs { { id = id, token = 1, worker = other:worker_uuid "me" } }
    await("the job that came back", done(id))
    pass(storage.db:value "SELECT now()")
    await("the job for the past", done(other:push_job({ payload = { handler = "x" }, scheduled_at = at }).id))
    assert.equal(0, worker.marks.late)
  end)
end)

describe("a mark", function()
  local plan = { order = "priority DESC, scheduled_at", limit = 10 }
  local TIME, EARLIER = "2026-01-01T00:00:02.000000Z", "2026-01-01T00:00:01.000000Z"
  local FIRST, SECOND = "00000000-0000-7000-8000-000000000001", "00000000-0000-7000-8000-000000000002"
  local marks

  before_each(function()
    marks = Watermarks.new("true", true)
    marks:saw({ { priority = 0 } }, plan)
  end)

  it("does not pass a job that was told of while a probe was under way", function()
    local _, asked = marks:probe(plan)
    marks:lower(0, EARLIER) -- committed after the probe had read
    marks:moved({ { priority = 0, at = TIME } }, asked)
    assert.equal("-infinity", marks.at[0].at)
  end)

  it("goes on among the jobs of one time by their ids, and is lowered to the first of them", function()
    local _, asked = marks:probe(plan)
    marks:moved({ { priority = 0, at = TIME, id = FIRST } }, asked)
    marks:moved({ { priority = 0, at = TIME, id = SECOND } }, asked)
    assert.same({ at = TIME, id = SECOND }, marks.at[0])
    marks:moved({ { priority = 0, at = TIME, id = FIRST } }, asked)
    assert.equal(SECOND, marks.at[0].id)
    marks:lower(0, TIME)
    assert.is_true(marks.at[0].id < FIRST)
  end)
end)

describe("what a claim reads", function()
  local storage, conn

  setup(function()
    storage = storages.with_pool_config(postgres.database(), { max_size = 8 })
    storage:run_migrations { log = function() end }
    conn = storage.db:acquire()
    conn:exec(claim.PLANNER)
  end)
  teardown(function()
    conn:close()
    storage:close()
  end)

  -- The pages that a statement reads, and its plan's nodes.
  local function explain(statement)
    local literal = {}
    for i = 2, #statement do literal[i - 1] = nebula.pg.literal(statement[i]) end
    local sql = statement[1]:gsub("%$(%d+)", function(i) return literal[tonumber(i)] end)
    local plan = conn:value("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " .. sql)[1].Plan
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], nebula.json.encode(plan)
  end

  local function fill(count, of)
    (of or storage).db:exec([[
      INSERT INTO workflow_jobs (payload, scheduled_at)
      SELECT '{"handler": "x"}', now() - '1 h'::interval + make_interval(secs => i * 0.001)
      FROM generate_series(1, $1) i
    ]], count)
  end

  it("does not depend on the backlog, where no statistics tell of it", function()
    fill(20000)
    local pages, plan = explain { claim.sql("priority DESC, scheduled_at", "NOT suspect"), 10 }
    assert.is_true(pages < 200, pages .. " pages")
    assert.is_nil(plan:find('"Sort"', 1, true))
  end)

  it("does not depend on the backlog for claim_jobs either", function()
    local alone <close> = storages.with_pool_config(postgres.database(), { max_size = 1 }) -- one session does it all
    alone:run_migrations { log = function() end }
    alone.db:exec "ALTER TABLE workflow_jobs SET (autovacuum_enabled = false)" -- its reads would count, too
    fill(20000, alone)
    local function pages()
      alone.db:query "SELECT pg_stat_force_next_flush()"
      return alone.db:value [[
        SELECT heap_blks_hit + heap_blks_read FROM pg_statio_user_tables WHERE relname = 'workflow_jobs'
      ]]
    end
    alone:policy()
    local before = pages()
    assert.equal(10, #alone:claim_jobs("w", 10))
    local read = pages() - before
    assert.is_true(read < 200, read .. " pages")
  end)

  -- The pages of a claim when `most` of the jobs that push() makes were worked under a snapshot, by a worker
  -- that takes jobs for its handlers, or for any.
  local function under_snapshot(policy, handlers, push, most)
    storage.db:exec "TRUNCATE workflow_jobs"
    push()
    local snapshot <close> = storage.db:acquire()
    snapshot:exec "BEGIN ISOLATION LEVEL REPEATABLE READ"
    snapshot:query "SELECT 1"
    local worker
    local function count()
      if worker.counts.completed >= most then worker:stop() end
    end
    package.loaded["spec.count"] = count
    worker = workers.new(storage, { policy = policy, handlers = handlers, handler = not handlers and count or nil })
    nebula.task.deadline(LONG, worker.run, worker)
    local marks, plan = worker.marks, worker.policy:plan_or_default(10)
    local where = claim.row_locks(worker):condition()
    local head = explain { claim.sql(marks:sort(plan), where), 10 }
    assert.is_true(head > 100, head .. " pages from the head") -- it is the case that is meant
    nebula.task.sleep(0.15) -- marks keep away from the present
    marks.probed = 0
    local probe, asked = marks:probe(plan)
    marks:moved(conn:query(table.unpack(probe)), asked)
    local pages = explain(marks:statement(claim.sql, where, plan))
    assert.is_true(pages < 40, ("%d pages, %d from the head"):format(pages, head)) -- ten rows are read and locked
    snapshot:exec "COMMIT"
  end

  -- A directory with the handler `x`, which does nothing but count.
  local function counting()
    local handlers = directory.make("watermark-" .. child.next_number "directories")
    nebula.fs.write(handlers .. "/x.lua", 'return function() require "spec.count" () end')
    return handlers
  end

  it("does not depend on what was finished under a snapshot that is still held", function()
    under_snapshot("priority", counting(), function() fill(6000) end, 5000)
    under_snapshot("priority", nil, function() fill(6000) end, 5000)
  end)

  it("nor where jobs are taken by time alone", function()
    under_snapshot("fifo", counting(), function() fill(6000) end, 5000)
  end)

  it("nor on what was finished of jobs that were pushed in one statement", function()
    under_snapshot("priority", counting(), function()
      local list = {}
      for i = 1, 10000 do list[i] = { payload = { handler = "x" } } end
      storage:push_jobs(list)
    end, 5000)
    under_snapshot("priority", counting(), function() -- as any other program pushes them
      storage.db:exec [[INSERT INTO workflow_jobs (payload) SELECT '{"handler": "x"}' FROM generate_series(1, 10000)]]
    end, 5000)
  end)

  it("nor of jobs that were given one and the same time", function()
    for _, policy in ipairs { "priority", "fifo" } do
      under_snapshot(policy, counting(), function()
        local list = {}
        for i = 1, 10000 do list[i] = { payload = { handler = "x" }, scheduled_at = "2026-01-01T00:00:00Z" } end
        storage:push_jobs(list)
      end, 5000)
    end
  end)

  it("does not depend on due jobs of another engine, which name no handler", function()
    storage.db:exec "TRUNCATE workflow_jobs"
    storage.db:exec [[
      INSERT INTO workflow_jobs (payload, priority, scheduled_at)
      SELECT '{"engine": true}', i % 3 - 1, now() - '1 h'::interval FROM generate_series(1, 20000) i
    ]]
    fill(20)
    local handlers = counting()
    local function pages_of(policy, most)
      local worker = workers.new(storage, { policy = policy, handlers = handlers })
      local plan, where = storage:policy():plan_or_default(10), claim.row_locks(worker):condition()
      local from_head = explain { claim.sql(worker.marks:sort(plan), where), 10 }
      assert.is_true(from_head < most, ("%s: %d pages from the head"):format(policy, from_head))
      worker.marks:saw({ { priority = 0 } }, plan)
      local probe, asked = worker.marks:probe(plan)
      worker.marks:moved(conn:query(table.unpack(probe)), asked)
      local pages = explain(worker.marks:statement(claim.sql, where, plan))
      assert.is_true(pages < 40, ("%s: %d pages"):format(policy, pages))
    end
    pages_of("priority", 40)
    pages_of("fifo", math.huge) -- by time alone they are read past once, then never again
  end)
end)
