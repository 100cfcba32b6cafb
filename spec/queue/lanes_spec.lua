-- Claims by lanes: shares, caps, rates, windows, and where a job's lane comes from.
local core = require "nebula"
local limits = require "nebula.jobs.limits"
local policies = require "nebula.policy"
local postgres = require "spec.support.postgres"
local storages = require "nebula.storage"

describe("a claim by lanes", function()
  local storage

  setup(function()
    storage = storages.with_pool_config(postgres.database(), { max_size = 8 })
    storage:run_migrations { log = function() end }
  end)
  teardown(function() storage:close() end)
  before_each(function()
    storage.db:exec "TRUNCATE workflow_jobs, job_lanes, job_lane_usage, job_lane_keys, job_policies, job_pauses"
  end)

  local function use(source, values)
    local made = policies.from_source("mine", "policies/mine.lua", source, values)
    made:plan(1)
    storage:use_policy(made)
    return made
  end

  local function push(tenant, count, fields)
    local list = {}
    for i = 1, count do
      list[i] = { payload = { tenant = tenant, n = i } }
      for name, value in pairs(fields or {}) do list[i][name] = value end
    end
    return storage:push_jobs(list)
  end

  local function tenants_of(rows)
    local counts = {}
    for _, row in ipairs(rows) do counts[row.payload.tenant] = (counts[row.payload.tenant] or 0) + 1 end
    return counts
  end

  it("never takes more of a lane than its cap, until one of them ends in whatever way", function()
    use "return { lane = 'payload.tenant', claim = function() return { cap = 3 } end }"
    push("a", 50)
    push("b", 2)
    local rows = storage:claim_jobs("w", 100)
    assert.same({ a = 3, b = 2 }, tenants_of(rows))
    assert.same({}, storage:claim_jobs("w", 100))
    local of_a = {}
    for _, row in ipairs(rows) do
      if row.lane == "a" then of_a[#of_a + 1] = row end
    end
    storage:complete_job(of_a[1])
    assert.same({ a = 1 }, tenants_of(storage:claim_jobs("w", 100)))
    storage:cancel_job(of_a[2].id)
    assert.same({ a = 1 }, tenants_of(storage:claim_jobs("w", 100)))
    storage:release_jobs { of_a[3] }
    assert.same({ a = 1 }, tenants_of(storage:claim_jobs("w", 100)))
    storage.db:exec "UPDATE workflow_jobs SET lease_until = now() - interval '1 s' WHERE status = 'running'"
    assert.same({ a = 3 }, tenants_of(storage:claim_jobs("w", 100)))
  end)

  it("shares by weight, and gives what a lane cannot use to the others", function()
    use [[return { lane = "payload.tenant",
      claim = function() return { weight = function(lane) return lane.key == "gold" and 4 or 1 end } end }]]
    push("gold", 100)
    push("plain", 100)
    assert.same({ gold = 40, plain = 10 }, tenants_of(storage:claim_jobs("w", 50)))
    storage.db:exec "DELETE FROM workflow_jobs WHERE lane = 'gold' AND status = 'pending'"
    push("gold", 5)
    assert.same({ gold = 5, plain = 45 }, tenants_of(storage:claim_jobs("w", 50)))
  end)

  it("comes to every lane, a bounded number at a time, however much the first ones hold", function()
    use "return { lane = 'payload.tenant', claim = function() return { cap = 1 } end }"
    local list = {}
    for i = 1, 300 do
      for _ = 1, 2 do list[#list + 1] = { payload = { tenant = ("t%03d"):format(i) } } end
    end
    storage:push_jobs(list)
    local taken, count = {}, 0
    for _ = 1, 12 do
      for _, job in ipairs(storage:claim_jobs("w", 1000)) do
        assert.is_nil(taken[job.lane])
        taken[job.lane], count = true, count + 1
      end
    end
    assert.equal(300, count)
  end)

  it("takes a whole batch from one lane where it alone has jobs", function()
    use "return { lane = 'payload.tenant', claim = function() return { weight = 1 } end }"
    push("b", 400)
    for i = 1, 50 do push("t" .. i, 1) end
    assert.equal(300, #storage:claim_jobs("w", 300))
  end)

  it("reads what it takes, not the backlog: a hundred times the lanes and jobs cost a few times as much", function()
    local one <close> = storages.with_pool_config(postgres.database(), { max_size = 1 }) -- one session does it all
    one:run_migrations { log = function() end }
    one:use_policy(policies.from_source("mine", "policies/mine.lua", [[return { lane = 'payload.tenant',
      claim = function() return { cap = 3, weight = function() return 1 end } end }]]))
    one.db:exec "ALTER TABLE workflow_jobs SET (autovacuum_enabled = false)" -- its reads would count, too
    local function blocks()
      one.db:query "SELECT pg_stat_force_next_flush()"
      return one.db:value [[
        SELECT sum(heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read)::int8
        FROM pg_statio_user_tables
        WHERE relname = 'workflow_jobs'
      ]]
    end
    local function cost(lanes, jobs)
      one.db:exec "TRUNCATE workflow_jobs, job_lanes"
      one.db:exec([[
        INSERT INTO workflow_jobs (payload, lane, lane_by)
        SELECT jsonb_build_object('tenant', 't' || i % $2), 't' || i % $2, 'payload.tenant'
        FROM generate_series(1, $1::int) i
      ]], jobs, lanes)
      local before = blocks()
      assert.equal(100, #one:claim_jobs("w", 100))
      return blocks() - before
    end
    local few, many = cost(100, 1000), cost(10000, 100000)
    assert.is_true(few > 100, few .. " blocks") -- the count works
    assert.is_true(many <= 4 * few, ("%d blocks, with few lanes %d"):format(many, few))
  end)

  it("keeps to the plan's order within a lane, and leaves what is for later", function()
    use "return { claim = function() return { cap = 2, order = { 'scheduled_at' } } end }"
    push("a", 1, { priority = 9, scheduled_at = 2000 })
    local first = push("a", 1, { scheduled_at = 1000 })[1]
    push("a", 1, { delay = 3600, priority = 99 })
    local rows = storage:claim_jobs("w", 9)
    assert.equal(2, #rows)
    assert.equal(first, rows[1].id)
  end)

  it("gives select a window of each lane, without payloads until it reads one", function()
    local mine = use [[return { lane = "payload.tenant", claim = function() return { window = 3 } end,
      select = function(candidates)
        local out = {}
        for i = #candidates, 1, -1 do
          if #candidates ~= 6 then error "a window of 3 of each of 2 lanes" end
          if math.type(candidates[i].priority) ~= "integer" or candidates[i].scheduled_at > 2e9 then error "types" end
          if rawget(candidates[i], "payload") then error "payload" end
          out[#out + 1] = candidates[i]
        end
        return out
      end }]]
    push("a", 5)
    push("b", 5)
    local rows = storage:claim_jobs("w", 6)
    assert.same({ a = 3, b = 3 }, tenants_of(rows))
    assert.equal(3, rows[1].payload.n)
    assert.is_nil(mine.reads_payload)
  end)

  it("lets select read payloads, and leave jobs out", function()
    local mine = use [[return { select = function(candidates)
      local out = {}
      for _, job in ipairs(candidates) do
        if job.payload.n % 2 == 0 then out[#out + 1] = job end
      end
      table.sort(out, function(a, b) return a.payload.n > b.payload.n end)
      return out
    end }]]
    push("a", 6)
    local order = {}
    for i, row in ipairs(storage:claim_jobs("w", 10)) do order[i] = row.payload.n end
    assert.same({ 6, 4, 2 }, order)
    assert.is_true(mine.reads_payload)
    push("a", 6)
    assert.equal(3, #storage:claim_jobs("w", 10))
    assert.equal(6, storage:queue_stats().due)
  end)

  it("goes on where select, a weight or a cap fails, and keeps every job", function()
    use [[return { select = function() return { { id = "of nobody" } } end,
      claim = function() return { weight = function() return "heavy" end, cap = 2 } end }]]
    push("a", 5)
    assert.equal(2, #storage:claim_jobs("w", 9))
    storage.db:exec "TRUNCATE workflow_jobs, job_lanes"
    use "return { claim = function() return { cap = function(lane) return lane.nothing.here end } end }"
    push("a", 5)
    assert.equal(1, #storage:claim_jobs("w", 9)) -- one at a time until it is mended
    assert.equal(5, storage.db:value "SELECT count(*) FROM workflow_jobs")
  end)

  it("keeps to a cap while the policy's claim fails", function()
    use [[
      local asked = 0
      return { claim = function()
        asked = asked + 1
        if asked > 1 then error "broken" end
        return { cap = 2 }
      end }]]
    push("a", 5)
    assert.equal(2, #storage:claim_jobs("w", 9))
    assert.equal(0, #storage:claim_jobs("w", 9))
  end)

  it("asks a function that never ends for two lanes at most", function()
    local rows = {}
    for i = 1, 9 do rows[i] = { lane = "t" .. i, running = 0 } end
    local function weights(endless)
      local weighed = {}
      local policy = policies.from_source("mine", "policies/mine.lua", ([[
        return { lane = "payload.tenant", claim = function()
          return { weight = function(lane) while lane.key <= "t%d" do end return 5 end }
        end }]]):format(endless))
      for i, lane in ipairs(limits.lanes(policy, policy:plan(1), rows)) do weighed[i] = lane.weight end
      return weighed
    end
    assert.same({ 1, 5, 5, 5, 5, 5, 5, 5, 5 }, weights(1))
    assert.same({ 1, 1, 1, 1, 1, 1, 1, 1, 1 }, weights(4))
  end)

  it("is its own worker's, of many at once", function()
    use "return { lane = 'payload.tenant', claim = function() return { weight = 1 } end }"
    for i = 1, 30 do push("t" .. i, 4) end
    local workers = { "a", "b", "c", "d", "e", "f" }
    core.task.map(workers, function(worker)
      repeat
        local jobs = storage:claim_jobs(worker, 2)
        for _, job in ipairs(jobs) do storage:complete_job(job) end
      until #jobs == 0
    end, { concurrency = #workers })
    assert.equal(120, storage.db:value "SELECT count(*) FROM workflow_jobs WHERE status = 'completed'")
  end)

  it("leaves a job in another declaration's lane to the transaction that holds it", function()
    use "return { lane = 'payload.tenant', claim = function() return { weight = 1 } end }"
    push("a", 1)
    storage.db:exec "UPDATE workflow_jobs SET lane = 'old', lane_by = 'payload.other'"
    storage.db:transaction(function(tx)
      tx:exec "SELECT FROM workflow_jobs FOR UPDATE"
      assert.same({}, core.task.deadline(60, storage.claim_jobs, storage, "w", 1))
    end)
    assert.same({ a = 1 }, tenants_of(storage:claim_jobs("w", 1)))
  end)

  it("lets no more begin than burst and rate allow, by the database's clock", function()
    use "return { lane = 'payload.tenant', claim = function() return { rate = 20, burst = 5 } end }"
    push("a", 200)
    local clock = "SELECT extract(epoch FROM clock_timestamp())::float8"
    local began, taken = storage.db:value(clock), 0
    local now
    repeat
      taken = taken + #storage:claim_jobs("w", 100)
      now = storage.db:value(clock)
      assert.is_true(taken <= 5 + 20 * (now - began), taken .. " after " .. now - began)
    until taken >= 15
    assert.is_true(now - began >= 0.5)
  end)

  it("is bound by the limits of the version in force, whatever its own policy says", function()
    use "return { claim = function() return { cap = 100 } end }"
    push("a", 20)
    local lane = storage.db:value "SELECT lane FROM workflow_jobs LIMIT 1"
    storage.db:exec "INSERT INTO job_policies (name, source) VALUES ('strict', 'return {}')"
    storage.db:exec("INSERT INTO job_lanes (lane, version, cap) SELECT $1, max(version), 2 FROM job_policies", lane)
    assert.equal(2, #storage:claim_jobs("w", 50))
    storage.db:exec "INSERT INTO job_policies (name, source) VALUES ('later', 'return {}')"
    assert.equal(18, #storage:claim_jobs("w", 50))
  end)

  it("writes a lane anew where it meets one by another declaration; one that was given stays", function()
    use "return { lane = 'payload.n', claim = function() return { cap = 9 } end }"
    push("a", 3)
    push("b", 2, { lane = "vip" })
    use "return { lane = 'payload.tenant', claim = function() return { cap = 2 } end }"
    local lanes = {}
    for _ = 1, 3 do
      for _, row in ipairs(storage:claim_jobs("w", 50)) do lanes[row.lane] = (lanes[row.lane] or 0) + 1 end
    end
    assert.same({ a = 2, vip = 2 }, lanes)
  end)

  it("has a lane for whatever a payload holds", function()
    use "return { lane = 'payload.tenant.id', claim = function() return { cap = 1 } end }"
    local long = ("x"):rep(5000)
    for _, id in ipairs { 7, 7.5, true, "", long, { 1 }, core.null } do
      storage:push_job { payload = { tenant = { id = id } } }
    end
    storage:push_job { payload = { tenant = "none" } }
    local lanes = {}
    for i, row in ipairs(storage.db:query 'SELECT DISTINCT lane COLLATE "C" AS lane FROM workflow_jobs ORDER BY 1') do
      lanes[i] = row.lane
    end
    local workflow = "6ecd2b0f-6009-5a60-a575-ee6236849e14"
    assert.same({ workflow, "7", "7.5", storage.db:value("SELECT md5($1)", long), "true" }, lanes)
    assert.equal(5, #storage:claim_jobs("w", 50))
  end)
end)
