-- What a policy costs: jobs a second through the worker by fair_share and by concurrency_limit (jobs
-- of 50 tenants, a handler that does nothing), against the default policy in the same run.
local policies = require "nebula.policy"
local simulate = require "nebula.simulate"
local storages = require "nebula.storage"
local workers = require "nebula.worker"

local JOBS, TENANTS = 100000, 50

local FILL = [[
  INSERT INTO workflow_jobs (payload, lane, lane_by)
  SELECT jsonb_build_object('handler', 'noop', 'tenant', 't' || i % $2),
    CASE WHEN $3 THEN 't' || i % $2 END, CASE WHEN $3 THEN 'payload.tenant' END
  FROM generate_series(1, $1::int) i
]]

local function fill(storage, laned)
  storage.db:exec "TRUNCATE workflow_jobs, job_lanes, job_lane_usage, job_lane_keys"
  storage.db:exec(FILL, JOBS, TENANTS, laned)
  storage.db:exec "ANALYZE workflow_jobs"
  storage.db:exec "CHECKPOINT"
end

local function by_tenant(name, values)
  local source = ("local p = policy %q\nreturn { lane = 'payload.tenant', options = p.options, claim = p.claim }")
    :format(name)
  return policies.from_source(name, name .. ".lua", source, values)
end

return function(bench)
  local storage <close> = storages.with_pool_config(bench.postgres():database(), { max_size = 8 })
  storage:run_migrations { log = function() end }

  local function rate(policy, laned)
    fill(storage, laned)
    storage:use_policy(policy)
    return bench.rate(JOBS, function()
      local counts = workers.new(storage, { concurrency = 100, drain = true, handler = function() end }):run()
      assert(counts.completed == JOBS)
    end)
  end

  for _, case in ipairs {
    { "fair_share", by_tenant "fair_share" },
    { "concurrency_limit, 20 of a tenant", by_tenant("concurrency_limit", { limit = 20 }) },
  } do
    bench.compare {
      name = ("%s, %d jobs of %d tenants"):format(case[1], JOBS, TENANTS), peer = "the default policy",
      unit = "jobs/s", rounds = 3,
      ours = function() return rate(case[2], true) end,
      theirs = function() return rate(policies.default(), false) end,
    }
  end

  local load = {}
  for i = 1, 10 do
    load[i] = { jobs = JOBS, every = 0.1, takes = 1, payload = { tenant = "t" .. i }, workflow_id = "t" .. i }
  end
  local settings = { concurrency_limit = { limit = 20 }, rate_limit = { rate = 12 } }
  for _, name in ipairs { "priority", "fifo", "fair_share", "concurrency_limit", "rate_limit" } do
    local seconds = 10 * JOBS / bench.rate(10 * JOBS, function()
      simulate.run { policy = policies.load(name, settings[name]), workers = 110, load = load }
    end)
    print(("a simulation of %d jobs of 10 lanes by %s: %.1f s"):format(10 * JOBS, name, seconds))
  end
end
