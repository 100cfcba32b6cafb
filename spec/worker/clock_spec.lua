-- A worker on a machine whose clock is wrong by an hour, before or behind: leases, schedules, policies and
-- the history of failures go by the database's clock.
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local program = require "spec.support.nebula"
local storages = require "nebula.storage"

local LONG = 60 -- seconds that nothing here should take
local HOUR = 3600
local SKEWED_CLOCK = nebula.fs.realpath(directory.build .. "/skewed_clock.so")

-- Takes nothing where its clock is an hour off the time that was written into it.
local POLICY = [[return {
  claim = function(ctx)
    if math.abs(ctx.now - %f) > 1800 then return nil end
    return {}
  end,
  retry = function(job, failure, ctx) return 1 end,
}]]

describe("a worker whose clock is wrong", function()
  local storage, url, project

  setup(function()
    url = postgres.database()
    storage = storages.with_pool_config(url, { max_size = 4 })
    storage:run_migrations { log = function() end }
    project = program.scratch()
    program.write(project, {
      ["handlers/now.lua"] = "return function() return { wall = require('nebula').time.now() } end",
      ["handlers/nap.lua"] = "return function() require('nebula').task.sleep(6) end",
      ["handlers/fail.lua"] = "return function() error 'no' end",
      ["policies/timed.lua"] = POLICY:format(nebula.time.now()),
    })
  end)
  teardown(function() storage:close() end)
  before_each(function() storage.db:exec "TRUNCATE workflow_jobs, job_workers" end)

  local function count(where) return storage.db:value("SELECT count(*) FROM workflow_jobs WHERE " .. where) end
  local function await(what, ready) return child.await(what, LONG, ready) end

  local function worker(skew)
    local preload = { os.getenv "NEBULA_SPEC_PRELOAD", SKEWED_CLOCK } -- the sanitizers' first
    if not preload[1] then preload = { SKEWED_CLOCK } end
    return program.spawn {
      args = { "worker", "--lease", "4s", "--poll", "100ms", "--policy", project .. "/policies/timed.lua" },
      cwd = project,
      env = { DATABASE_URL = url, NEBULA_LOG = "error", XDG_RUNTIME_DIR = project,
        LD_PRELOAD = table.concat(preload, ":"), NEBULA_SPEC_SKEW = tostring(skew) },
    }
  end

  for _, skew in ipairs { HOUR, -HOUR } do
    it(("by %d s goes by the database's"):format(skew), function()
      local ids = storage:push_jobs {
        { payload = { handler = "now" } }, { payload = { handler = "nap" } },
        { payload = { handler = "fail" }, max_retries = 1 },
        { payload = { handler = "now" }, delay = 2 }, { payload = { handler = "now" }, delay = HOUR - 600 },
      }
      local right = worker(0)
      await("the nap's lease", function() return count "status = 'running'" > 0 end)
      local wrong = worker(skew)
      await("both workers", function() return storage.db:value "SELECT count(*) FROM job_workers" == 2 end)
      -- Neither takes what the other holds, nor what is due later.
      await("the jobs that are due", function() return count "status IN ('completed', 'dead')" == 4 end)
      assert.equal(1, count "status = 'pending'")
      assert.equal(0, count "status = 'completed' AND retry_count <> 0")
      local failed = storage:get_job(ids[3])
      assert.equal(2, #failed.failures)

      right:kill "TERM"
      assert.equal(0, right:wait().status)
      ids = storage:push_jobs {
        { payload = { handler = "now" } }, { payload = { handler = "nap" } },
        { payload = { handler = "fail" }, max_retries = 1 }, { payload = { handler = "now" }, delay = 1 },
      }
      await("the same by the wrong one alone", function() return count "status IN ('completed', 'dead')" == 8 end)
      assert.equal(0, count "status = 'completed' AND retry_count <> 0")
      local now = storage.db:value "SELECT extract(epoch FROM clock_timestamp())::float8"
      assert.is_true(math.abs(storage:get_job(ids[1]).result.wall - now - skew) < 600) -- it is wrong indeed
      for _, failure in ipairs(storage:get_job(ids[3]).failures) do
        assert.is_true(math.abs(nebula.time.parse(failure.at) - now) < 600, failure.at)
      end
      assert.equal(0, count "abs(extract(epoch FROM clock_timestamp() - started_at)) > 600")
      wrong:kill "TERM"
      assert.equal(0, wrong:wait().status)
    end)
  end
end)
