local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local program = require "spec.support.nebula"
local storages = require "nebula.storage"

describe("leases", function()
  local url, storage, handlers

  setup(function()
    url = postgres.database()
    storage = storages.with_pool_config(url, { max_size = 4 })
    storage:run_migrations { log = function() end }
    handlers = program.scratch()
    nebula.fs.write(handlers .. "/compute.lua", [[
      local nebula = require "nebula"
      return function(ctx)
        nebula.task.sleep(0.3) -- by now it is a lease
        local until_time = nebula.time.monotonic() + 12.5
        while nebula.time.monotonic() < until_time do end
      end
    ]])
    nebula.fs.write(handlers .. "/wait.lua", [[
      local nebula = require "nebula"
      return function(ctx)
        ctx.progress(1, 2, "halves")
        nebula.task.sleep(13)
      end
    ]])
  end)
  teardown(function() storage:close() end)

  local function worker()
    return program.spawn {
      args = { "worker", "--lease", "4s", "--handlers", handlers, "--poll", "100ms" },
      env = { DATABASE_URL = url, NEBULA_LOG = "warn" },
    }
  end

  it("of a process hold while one of its handlers computes for three of them", function()
    storage:push_jobs {
      { payload = { handler = "compute" } }, { payload = { handler = "wait" } }, { payload = { handler = "wait" } },
    }
    local first = worker()
    nebula.task.deadline(60, function()
      while storage.db:value "SELECT count(*) FROM workflow_jobs WHERE status = 'running'" < 3 do
        nebula.task.sleep(0.02)
      end
    end)
    local second = worker() -- would rescue what it finds expired
    nebula.task.deadline(120, function()
      while storage.db:value "SELECT count(*) FROM workflow_jobs WHERE status = 'completed'" < 3 do
        nebula.task.sleep(0.02)
      end
    end)
    assert.same({ token = 1, tries = 0 }, storage.db:one [[
      SELECT max(token) AS token, max(retry_count) AS tries FROM workflow_jobs
    ]])
    assert.equal(2, storage.db:value "SELECT count(*) FROM workflow_jobs WHERE progress ->> 'unit' = 'halves'")
    for _, process in ipairs { first, second } do
      process:kill "TERM"
      assert.equal(0, process:wait().status)
    end
  end)
end)
