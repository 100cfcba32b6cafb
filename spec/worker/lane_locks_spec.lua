-- How a worker's claims by lanes go on where the one before ended.
local claim = require "nebula.worker.claim"
local laned = require "nebula.jobs.laned"
local nebula = require "nebula"
local policies = require "nebula.policy"
local postgres = require "spec.support.postgres"
local storages = require "nebula.storage"

local LANES, JOBS, BATCH = 10, 6000, 100

describe("a worker's claims by lanes", function()
  local storage, conn, kept, used, taker, policy

  setup(function()
    storage = storages.with_pool_config(postgres.database(), { max_size = 4 })
    storage:run_migrations { log = function() end }
    policy = policies.from_source("mine", "policies/mine.lua",
      "return { lane = 'payload.tenant', claim = function() return { weight = 1 } end }")
    conn = storage.db:acquire()
    conn:exec(claim.PLANNER)
    conn:exec "ALTER TABLE workflow_jobs SET (autovacuum_enabled = false)" -- its reads would count, too
  end)
  teardown(function()
    conn:close()
    storage:close()
  end)
  before_each(function()
    conn:exec "TRUNCATE workflow_jobs, job_lanes" -- all by the session that counts what it reads
    conn:exec([[
      INSERT INTO workflow_jobs (payload, lane, lane_by, scheduled_at)
      SELECT jsonb_build_object('tenant', 't' || i % $2), 't' || i % $2, 'payload.tenant',
        now() - interval '1 h' + make_interval(secs => i * 0.001)
      FROM generate_series(1, $1::int) i
    ]], JOBS, LANES)
    kept, used = {}, {}
    taker = laned.new {
      worker = nebula.crypto.uuid_v7(), lease = 30, policy = function() return policy end, kept = kept,
      unnoted = function(lane) return used[lane] or 0 end,
    }
  end)

  -- One batch, completed, and what it read of the table. What is kept stays until it is forgotten.
  local function work()
    local function read()
      conn:query "SELECT pg_stat_force_next_flush()"
      return conn:value [[
        SELECT heap_blks_hit + heap_blks_read FROM pg_statio_user_tables WHERE relname = 'workflow_jobs'
      ]]
    end
    local before = read()
    local rows
    repeat rows = taker:take(conn, { { "BEGIN" } }, policy:plan(BATCH)) until rows -- nil: to look again at once
    local ids = {}
    for i, job in ipairs(rows) do ids[i] = job.id end
    conn:exec "COMMIT"
    local cost = read() - before
    conn:exec("UPDATE workflow_jobs SET status = 'completed' WHERE id = ANY ($1)", ids)
    kept.until_time = math.huge
    return rows, cost
  end

  it("do not read what was finished under a snapshot that is still held", function()
    local snapshot <close> = storage.db:acquire()
    snapshot:exec "BEGIN ISOLATION LEVEL REPEATABLE READ"
    snapshot:query "SELECT 1"
    local _, first = work()
    local last
    for _ = 2, JOBS / BATCH - 1 do _, last = work() end
    taker:forget()
    local _, head = work()
    snapshot:exec "COMMIT"
    assert.is_true(last <= 2 * first, ("%d blocks, the first %d"):format(last, first))
    assert.is_true(head > 5 * first, head .. " blocks from the head") -- it is the case that is meant
  end)

  it("are weighed by what jobs used until now, between two looks, too", function()
    local before = policy
    local _ <close> = setmetatable({}, { __close = function() policy = before end })
    policy = policies.from_source("shares", "policies/shares.lua", [[
      return { lane = "payload.tenant", claim = function()
        return { weight = function(lane) return lane.used > 1 and 1e-9 or 1 end }
      end }]])
    local function lanes_taken()
      local counts = {}
      for _, job in ipairs((work())) do counts[job.lane] = (counts[job.lane] or 0) + 1 end
      return counts
    end
    assert.is_true((lanes_taken().t3 or 0) > 0)
    local lanes = kept.lanes
    used.t3 = 2
    assert.is_nil(lanes_taken().t3)
    assert.equal(lanes, kept.lanes)
  end)

  it("find the jobs that they moved into their lane, where they came upon no others", function()
    storage.db:exec [[
      DELETE FROM workflow_jobs WHERE payload ->> 'tenant' <> 't1';
      UPDATE workflow_jobs SET lane = 'old', lane_by = 'payload.other'
    ]]
    assert.is_true(#work() > 0)
  end)

  it("come back to what was given back, at the next look from the head", function()
    local first = work()[1]
    work()
    storage.db:exec("UPDATE workflow_jobs SET status = 'pending' WHERE id = $1", first.id)
    for _, job in ipairs((work())) do assert.is_true(job.id ~= first.id) end
    kept.until_time = 0
    local found = false
    for _, job in ipairs((work())) do found = found or job.id == first.id end
    assert.is_true(found)
  end)
end)
