-- Everything at once: two workers and several producers behind bad networks, while the server restarts,
-- backends are ended, the store fails and one worker is killed or stopped. Each producer keeps a list of
-- what it was told; it is held against the database at the end. The other worker runs throughout, and its
-- memory and open files stay what they were.
local child = require "spec.support.child"
local http_proxy = require "spec.support.http_proxy"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local program = require "spec.support.nebula"
local proxy = require "spec.support.proxy"
local s3 = require "spec.support.s3"
local storages = require "nebula.storage"
local task = nebula.task

-- NEBULA_SPEC_LONG=1: long enough to see what grows.
local LONG = os.getenv "NEBULA_SPEC_LONG" == "1"
local SECONDS = LONG and 300 or 12
local PATIENCE = 180 -- seconds that nothing here should take
local PRODUCERS, AHEAD = 4, 300
local GROWTH_MIB = LONG and 16 or 48 -- what an allocator may keep of a peak
local ACKED = 100 -- at least

local POLICY = "return { retry = function() return 0.2 end, rescue = function() return 0 end }"

local HANDLERS = {
  ["handlers/effect.lua"] = [[
    return function(ctx, job)
      ctx.tx(function(tx) tx:exec("INSERT INTO effects (job) VALUES ($1)", job.id) end)
    end
  ]],
  ["handlers/object.lua"] = [[
    return function(ctx, job)
      local text = job.id:rep(200)
      ctx.blobs:put("soak/" .. job.id, text)
      if ctx.blobs:get("soak/" .. job.id) ~= text then error "another's bytes" end
      ctx.tx(function(tx) tx:exec("INSERT INTO effects (job) VALUES ($1)", job.id) end)
    end
  ]],
  ["handlers/slow.lua"] = [[
    return function(ctx, job)
      require("nebula").task.sleep(math.random() * 0.5)
      for _ in ctx.db:rows "SELECT generate_series(1, 500)" do end
      ctx.tx(function(tx) tx:exec("INSERT INTO effects (job) VALUES ($1)", job.id) end)
    end
  ]],
}

describe("a soak in mixed faults", function()
  local server, between, store, storage, project, env
  local told, acked, started = {}, 0, {}

  setup(function()
    server = postgres.server { fsync = "on", synchronous_commit = "on" }
    between, store = proxy.postgres(server), http_proxy.start(s3.endpoint())
    storage = storages.with_pool_config(server:url(), { max_size = 8 })
    storage:run_migrations { log = function() end }
    storage.db:exec "CREATE TABLE effects (job UUID)"
    project = program.scratch()
    program.write(project, HANDLERS)
    program.write(project, { ["policies/again.lua"] = POLICY })
    env = s3.environment()
    env.S3_ENDPOINT = store.url
    env.DATABASE_URL, env.NEBULA_LOG, env.XDG_RUNTIME_DIR = between:url(), "off", project
  end)
  teardown(function()
    for _, process in ipairs(started) do
      if not process:wait(0) then process:kill(9) end
      process:wait()
    end
    storage:close()
    store:close()
    between:close()
    server:close()
  end)

  local function worker()
    local process = program.spawn {
      args = { "worker", "--lease", "2s", "--poll", "100ms", "--concurrency", "16", "--policy",
        project .. "/policies/again.lua" }, cwd = project, env = env, stdout = "null",
    }
    started[#started + 1] = process
    return process
  end

  local function count(where) return storage.db:value("SELECT count(*) FROM workflow_jobs WHERE " .. where) end

  -- Pushes jobs through the bad network, and notes what it was told of each.
  local function produce(over)
    local pushing <close> = storages.with_pool_config(between:url(), { max_size = 4 })
    local names = { "effect", "effect", "object", "slow" }
    while not over() do
      local list = {}
      for i = 1, math.random(8) do
        local handler = names[math.random(#names)]
        list[i] = { id = nebula.crypto.uuid_v7(), max_retries = 1000, payload = { handler = handler } }
      end
      local _, err = nebula.try(task.deadline, 5, pushing.push_jobs, pushing, list)
      local how = "acked"
      if err then
        how = (err.kind == "unknown_outcome" or err.kind == "timeout") and "unknown" or "failed"
        assert.is_true(how == "unknown" or err.retryable, tostring(err))
      end
      for _, job in ipairs(list) do told[job.id] = how end
      if not err then acked = acked + #list end
      local behind = nebula.try(count, "status = 'pending'")
      task.sleep(behind and behind < AHEAD and 0.01 or 0.1)
    end
  end

  local victim

  local function end_a_backend()
    nebula.try(storage.db.exec, storage.db, [[SELECT pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE datname = 'nebula' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1]])
  end

  -- Each for a moment; then nothing is wrong any more.
  local FAULTS = {
    end_a_backend, end_a_backend,
    function()
      server:stop(math.random(2) == 1 and "immediate" or "fast")
      server:start()
    end,
    function() between:reset() end,
    function() between:finish "up" end,
    function() between:set("both", { latency = 0.02, jitter = 0.02 }) end,
    function() between:set("down", { slice = 7 }) end,
    function() between:set("down", { reset_after = math.random(400, 20000) }) end,
    function() between:set("both", { stall = true }) end,
    function() between:accept "refuse" end,
    function() store:rules { { ["do"] = "answer", status = 503, percent = 60 } } end,
    function() store:rules { { ["do"] = "reset", percent = 60 }, { cut = 100, method = "GET" } } end,
    function()
      victim:kill(9)
      victim:wait()
      victim = worker()
    end,
    function()
      victim:kill "STOP"
      task.sleep(2.5) -- past its lease
      victim:kill "CONT"
    end,
  }

  local function clear()
    between:clear()
    between:accept "open"
    store:rules {}
  end

  -- MiB and open files of a process.
  local function size_of(process)
    local status = child.read_file(("/proc/%d/status"):format(process.pid))
    local files = 0
    for _ in nebula.fs.list(("/proc/%d/fd"):format(process.pid)) do files = files + 1 end
    return tonumber(status:match "VmRSS:%s*(%d+)") / 1024, files
  end

  it("loses nothing, doubles nothing, and does not grow", function()
    local steady = worker()
    victim = worker()
    child.await("both workers", PATIENCE, function()
      return storage.db:value "SELECT count(*) FROM job_workers" == 2
    end)
    local began, over = nebula.time.monotonic(), false
    local warm, rounds = nil, 0
    task.scope(function(scope)
      for _ = 1, PRODUCERS do scope:spawn(produce, function() return over end) end
      while nebula.time.monotonic() - began < SECONDS or rounds < #FAULTS or acked < ACKED do
        rounds = rounds + 1
        FAULTS[rounds <= #FAULTS and rounds or math.random(#FAULTS)]()
        task.sleep(0.2 + math.random() * 0.6)
        clear()
        task.sleep(0.2)
        if not warm and nebula.time.monotonic() - began > SECONDS / 3 and rounds >= #FAULTS // 2 then
          warm = size_of(steady)
        end
      end
      over = true
    end)
    child.await("every job", PATIENCE, function()
      return nebula.try(count, "status <> 'completed'") == 0
    end, steady)
    local settled = size_of(steady)
    assert.is_true(settled <= warm + GROWTH_MIB, ("%.1f MiB after %.1f"):format(settled, warm))

    local counts, found = { acked = 0, unknown = 0, failed = 0 }, {}
    for row in storage.db:rows "SELECT id FROM workflow_jobs" do
      found[row.id] = true
      assert.is_true(told[row.id] == "acked" or told[row.id] == "unknown", tostring(told[row.id]))
    end
    for id, how in pairs(told) do
      counts[how] = counts[how] + 1
      if how == "acked" then assert.is_true(found[id], id .. " was acknowledged, and is gone") end
    end
    assert.is_true(counts.acked >= ACKED, tostring(counts.acked))
    local total = count "true"
    assert.same({ effects = total, jobs = total }, storage.db:one [[
      SELECT count(*) AS effects, count(DISTINCT job) AS jobs FROM effects
    ]])
    local bucket = nebula.s3.connect(s3.options(env.S3_BUCKET))
    for row in storage.db:rows "SELECT id FROM workflow_jobs WHERE payload ->> 'handler' = 'object' LIMIT 200" do
      assert.equal(row.id:rep(200), (bucket:get("soak/" .. row.id)))
    end

    -- Files: its connections, within its pool's bounds, and nothing that was left open.
    local backends = storage.db:value("SELECT count(*) FROM pg_stat_activity WHERE datname = 'nebula'")
    local _, files = size_of(steady)
    assert.is_true(files <= backends + 40, ("%d files, %d backends"):format(files, backends))
    for _, process in ipairs { steady, victim } do
      process:kill "TERM"
      assert.equal(0, process:wait().status)
    end
  end)
end)
