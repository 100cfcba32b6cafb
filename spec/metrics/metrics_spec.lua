-- nebula.metrics and what a worker serves of it.
local metrics = require "nebula.metrics"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local program = require "spec.support.nebula"
local storages = require "nebula.storage"

describe("nebula.metrics", function()
  local function lines(pattern)
    local found = {}
    for line in metrics.text():gmatch "[^\n]+" do
      if line:find(pattern) then found[#found + 1] = line end
    end
    return found
  end

  it("writes counters, gauges and histograms as Prometheus reads them", function()
    local counter = metrics.counter { name = "a_total", help = "Of a", labels = { "kind" } }
    counter:add(2, { kind = 'x"\\\n' })
    counter:add(nil, { kind = "y" })
    metrics.gauge({ name = "a_now" }):set(1.5)
    local histogram = metrics.histogram { name = "a_seconds", buckets = { 0.5, 1 } }
    for _, value in ipairs { 0.1, 0.7, 3 } do histogram:observe(value) end
    assert.same({
      "# HELP a_total Of a", "# TYPE a_total counter", [[a_total{kind="x\"\\\n"} 2]], [[a_total{kind="y"} 1]],
      "# TYPE a_now gauge", "a_now 1.5", "# TYPE a_seconds histogram", [[a_seconds_bucket{le="0.5"} 1]],
      [[a_seconds_bucket{le="1"} 2]], [[a_seconds_bucket{le="+Inf"} 3]], "a_seconds_sum 3.7999999999999998",
      "a_seconds_count 3",
    }, lines "a_")
  end)

  it("gives the same metric to a file that is loaded again, and refuses another of its name", function()
    local one = metrics.counter { name = "b_total" }
    assert.equal(one, metrics.counter { name = "b_total" })
    for _, wrong in ipairs {
      function() metrics.gauge { name = "b_total" } end,
      function() metrics.counter { name = "b_total", labels = { "x" } } end,
      function() metrics.counter { name = "no name" } end,
      function() one:add(-1) end,
      function() one:set(1) end,
      function() metrics.counter({ name = "b_labelled", labels = { "x" } }):add(1) end,
    } do
      local _, err = nebula.try(wrong)
      assert.equal("validation", err.kind)
    end
  end)

  it("keeps no more than a thousand series of one", function()
    local metric = metrics.gauge { name = "c_now", labels = { "id" } }
    for i = 1, 1500 do metric:set(i, { id = i }) end
    assert.equal(1000, #lines "^c_now")
  end)
end)

describe("nebula worker --metrics", function()
  local storage, url, directory
  setup(function()
    url = postgres.database()
    storage = storages.with_pool_config(url, { max_size = 4 })
    storage:run_migrations { log = function() end }
    directory = program.scratch()
    program.write(directory, { ["nebula.conf.lua"] = "return {}", ["handlers/mine.lua"] = [[
      local runs = require("nebula").metrics.counter { name = "mine_total", help = "Runs of mine" }
      return function() runs:add() end
    ]] })
  end)
  teardown(function() storage:close() end)

  it("serves metrics, health and readiness until it ends", function()
    storage:push_job { payload = { handler = "mine" } }
    storage:push_job { payload = { handler = "nobody" }, max_retries = 0 }
    local process = program.spawn { args = { "worker", "--metrics", "0", "--poll", "0.05" }, cwd = directory,
      env = { DATABASE_URL = url }, stderr = "stdout" }
    local log, port = "", nil
    while not port do
      log = log .. assert(process:read(), log)
      port = log:match "metrics are served.-port=(%d+)"
    end
    local function get(path, method)
      return nebula.http.request { url = "http://127.0.0.1:" .. port .. path, deadline = 60, method = method }
    end
    local text
    local function tells(outcome) return text:find('nebula_jobs_total{outcome="' .. outcome .. '"} 1\n', 1, true) end
    repeat -- the queue's counts are left out where the database is too slow with them
      text = get("/metrics").body
    until tells "completed" and tells "dead" and text:find('nebula_queue_jobs{state="dead"}', 1, true)
    assert.matches("mine_total 1\n", text)
    assert.matches('nebula_job_duration_seconds_count{handler="mine"} 1\n', text)
    assert.matches('nebula_queue_jobs{state="dead"} %d', text)
    assert.equal("ok\n", get("/healthz").body)
    repeat until get("/readyz").status == 200
    assert.equal(404, get("/").status)
    assert.equal(405, get("/metrics", "POST").status)
    process:kill(15)
    assert.equal(0, process:wait().status)
    local _, err = nebula.try(get, "/healthz")
    assert.equal("io", err.kind)
  end)

  it("refuses an address that is none at the start", function()
    local out = program.run { args = { "worker", "--metrics", "nowhere" }, env = { DATABASE_URL = url },
      cwd = directory }
    assert.equal(2, out.status)
    assert.matches("metrics wants %[HOST:%]PORT", out.stderr)
  end)
end)
