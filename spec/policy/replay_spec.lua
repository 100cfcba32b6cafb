-- `nebula policy replay`: what policies would have done with the jobs that this database's queue worked.
local history = require "nebula.simulate.history"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local program = require "spec.support.nebula"
local storages = require "nebula.storage"
local workers = require "nebula.worker"

describe("nebula policy replay", function()
  local storage, url, directory

  setup(function()
    url = postgres.database()
    storage = storages.with_pool_config(url, { max_size = 8 })
    storage:run_migrations { log = function() end }
    directory = program.scratch()
    program.write(directory, { ["nebula.conf.lua"] = "return {}", ["policies/turns.lua"] = [[
      return { lane = "payload.tenant", claim = function() return { cap = 1 } end }
    ]] })
  end)
  teardown(function() storage:close() end)
  before_each(function() storage.db:exec "TRUNCATE workflow_jobs" end)

  -- A job that ended: due, begun and ended so many seconds ago.
  local function ended(tenant, due, began, finished)
    storage.db:exec([[
      INSERT INTO workflow_jobs (status, scheduled_at, created_at, started_at, locked_at, finished_at, payload)
      VALUES ('completed', now() - make_interval(secs => $1), now() - make_interval(secs => $1),
        now() - make_interval(secs => $2), now() - make_interval(secs => $3), now() - make_interval(secs => $3), $4)
    ]], due, began, finished, { handler = "x", tenant = tenant })
  end

  local function run(...)
    return program.run { args = { "policy", "replay", ... }, env = { DATABASE_URL = url }, cwd = directory }
  end

  it("reads when each job was due and how long it took, from what a worker has left", function()
    local ids = storage:push_jobs {
      { payload = { handler = "x", n = 1 } }, { payload = { handler = "x", n = 2 }, lane = "l" },
    }
    workers.new(storage, { drain = true, handler = function(_, job)
      if job.payload.n == 2 then nebula.task.sleep(0.7) end
    end }):run()
    local read = history.read(storage.db, 60, 100)
    assert.equal(2, read.jobs)
    local long = read.load[1].lane and read.load[1] or read.load[2]
    assert.equal("l", long.lane)
    assert.is_true(long.takes >= 0.69)
    assert.is_string(storage:get_job(ids[2]).started_at)
    assert.is_true(read.wait.p50 >= 0)
  end)

  it("takes the newest jobs of its window", function()
    for i = 1, 5 do ended("a", 100 * i + 10, 100 * i + 5, 100 * i) end
    assert.equal(5, history.read(storage.db, 3600, 100).jobs)
    assert.equal(2, history.read(storage.db, 250, 100).jobs)
    assert.equal(3, history.read(storage.db, 3600, 3).jobs)
    local _, err = nebula.try(history.read, storage.db, 10, 100)
    assert.equal("not_found", err.kind)
  end)

  it("puts policies side by side over the same jobs", function()
    for i = 1, 20 do ended(i <= 15 and "big" or "small", 1000 - i, 900, 890) end
    local out = run("fifo", "turns", "--since", "1h", "--workers", "2", "--json")
    assert.equal("", out.stderr)
    local results = nebula.json.decode(out.stdout)
    assert.equal("fifo", results[1].policy)
    assert.equal(20, results[1].completed)
    assert.equal(20, results[2].completed)
    assert.equal(1, results[2].lanes.big.running.max)
    assert.equal(15, results[2].lanes.big.jobs)
    assert.is_true(results[2].lanes.small.wait.max < results[1].seconds)
    out = run("fifo", "turns", "--since", "1h", "--svg", "out.svg")
    assert.matches("^<svg .*turns", nebula.fs.read(directory .. "/out.svg"))
    assert.matches("20 jobs ended in the last 1h00m; they waited p50 %d", out.stdout)
    out = run("fifo", "--since", "1s")
    assert.equal(1, out.status)
    assert.matches("nothing to replay", out.stderr)
  end)
end)
