-- Limits and shares over many processes, as their handlers see them: each logs when it begins and ends.
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local program = require "spec.support.nebula"
local published = require "nebula.policy.published"
local storages = require "nebula.storage"

local LONG = 120 -- seconds that nothing here should take
local FULL = os.getenv "NEBULA_SPEC_LONG" == "1"
local JOBS = FULL and 100000 or 4000
local KILLS = FULL and 20 or 3
local PROCESSES, LANES, LIMIT = 8, 20, 3

local HANDLER = [[
  local nebula = require "nebula"
  local file = io.open(("%s/%%d.log"):format(math.tointeger(io.open("/proc/self/stat"):read "n")), "a")
  file:setvbuf "line"
  return function(ctx, job)
    file:write(("begin %%s %%s %%.6f\n"):format(job.id, job.lane, nebula.time.monotonic()))
    nebula.task.sleep(job.payload.takes)
    file:write(("end %%s %%s %%.6f\n"):format(job.id, job.lane, nebula.time.monotonic()))
  end
]]

-- Worker-seconds of that one of $1 lanes which used the least.
local LEAST_USED = [[
  SELECT min(seconds)
  FROM (SELECT sum(seconds) AS seconds FROM job_lane_usage GROUP BY lane) used
  HAVING count(*) = $1
]]

describe("limits over many processes", function()
  local storage, url, logs, handlers, runtime, project
  local started = {}

  setup(function()
    url = postgres.database()
    storage = storages.with_pool_config(url, { max_size = 8 })
    storage:run_migrations { log = function() end }
    handlers, runtime = directory.make "limit-handlers", directory.make_outside "limits"
    project = program.scratch()
  end)
  teardown(function() storage:close() end)
  before_each(function()
    storage.db:exec "TRUNCATE workflow_jobs, job_lanes, job_lane_usage, job_lane_keys, job_policies"
    logs = directory.make("limit-logs-" .. child.next_number "limits")
    nebula.fs.write(handlers .. "/log.lua", HANDLER:format(nebula.fs.realpath(logs)))
  end)
  after_each(function()
    for _, process in ipairs(started) do
      if not process:wait(0) then process:kill(9) end
      process:wait()
    end
    started = {}
  end)

  local function spawn(...)
    local process = child.spawn {
      file = program.program, args = { "worker", "--handlers", handlers, "--poll", "0.1", "--lease", "5s", ... },
      env = { DATABASE_URL = url, XDG_RUNTIME_DIR = runtime, NEBULA_LOG = "error" }, cwd = project, stdout = "null",
      stderr = "inherit", stdin = "",
    }
    started[#started + 1] = process
    return process
  end

  -- The spans in which handlers ran; where they say no end, until the process was about to be killed: `deaths`.
  local function spans(deaths)
    local list = {}
    for _, name in ipairs(require("nebula.system").list(logs)) do
      local open = {}
      local died = deaths[tonumber(name:match "%d+")]
      for line in nebula.fs.read(logs .. "/" .. name):gmatch "[^\n]+" do
        local what, id, lane, at = line:match "^(%a+) (%S+) (%S+) ([%d.]+)$"
        if what == "begin" then
          local from = tonumber(at)
          open[id] = { id = id, lane = lane, from = from, to = died and math.max(from, died) }
          list[#list + 1] = open[id]
        elseif what == "end" then
          open[id].to = tonumber(at)
        end
      end
    end
    return list
  end

  -- The most that ran at once of each lane.
  local function most_at_once(list)
    local events, now, most = {}, {}, {}
    for _, span in ipairs(list) do
      assert.is_number(span.to, "a handler that never ended, in a process that was not killed")
      events[#events + 1] = { at = span.from, lane = span.lane, step = 1 }
      events[#events + 1] = { at = span.to, lane = span.lane, step = -1 }
    end
    table.sort(events, function(a, b)
      if a.at ~= b.at then return a.at < b.at end
      return a.step < b.step
    end)
    for _, event in ipairs(events) do
      now[event.lane] = (now[event.lane] or 0) + event.step
      most[event.lane] = math.max(most[event.lane] or 0, now[event.lane])
    end
    return most
  end

  local function count(where) return storage.db:value("SELECT count(*) FROM workflow_jobs WHERE " .. where) end

  it("are never passed, also while workers are killed; and nothing is lost", function()
    nebula.fs.write(handlers .. "/limit.lua",
      ("return { lane = 'payload.tenant', claim = function() return { cap = %d } end }"):format(LIMIT))
    published.use(storage.db, handlers .. "/limit.lua")
    storage:policy()
    for at = 1, JOBS, 10000 do
      local list = {}
      for i = at, math.min(at + 9999, JOBS) do
        list[#list + 1] = { payload = { handler = "log", tenant = "t" .. i % LANES, takes = 0.005 }, max_retries = 100 }
      end
      storage:push_jobs(list)
    end
    local deaths, running = {}, {}
    for i = 1, PROCESSES do running[i] = spawn("--concurrency", "16") end
    for kill = 1, KILLS do
      child.await("some jobs", LONG, function() return count "status = 'completed'" > JOBS * kill / (KILLS + 2) end)
      local victim = table.remove(running, 1)
      deaths[victim.pid] = nebula.time.monotonic() -- what it runs is free to others as soon as it is dead
      victim:kill(9)
      victim:wait()
      running[PROCESSES] = spawn("--concurrency", "16")
    end
    child.await("every job", LONG * (FULL and 10 or 1), function() return count "status <> 'completed'" == 0 end)
    for _, process in ipairs(running) do process:kill(15) end
    for _, process in ipairs(running) do assert.equal(0, process:wait().status) end
    local list = spans(deaths)
    local ids, distinct = {}, 0
    for _, span in ipairs(list) do
      if not ids[span.id] then distinct = distinct + 1 end
      ids[span.id] = true
    end
    assert.equal(JOBS, distinct)
    local reached = 0
    for lane, most in pairs(most_at_once(list)) do
      assert.is_true(most <= LIMIT, ("%d of lane %s at once"):format(most, lane))
      if most == LIMIT then reached = reached + 1 end
    end
    assert.is_true(reached > 0)
  end)

  local function work(source, jobs)
    nebula.fs.write(handlers .. "/mine.lua", source)
    published.use(storage.db, handlers .. "/mine.lua")
    local pusher <close> = storages.with_pool_config(url, { max_size = 2 })
    pusher:push_jobs(jobs)
  end

  local function jobs_of(tenant, n, takes)
    local list = {}
    for i = 1, n do list[i] = { payload = { handler = "log", tenant = tenant, takes = takes } } end
    return list
  end

  it("share by worker-seconds, whatever the jobs of a lane take", function()
    local jobs = jobs_of("long", 1000, 0.1)
    table.move(jobs_of("short", 6000, 0.01), 1, 6000, #jobs + 1, jobs)
    work("local p = policy 'fair_share'\nreturn { lane = 'payload.tenant', options = p.options, claim = p.claim }",
      jobs)
    local running = { spawn("--concurrency", "8"), spawn("--concurrency", "8") }
    child.await("a use of both", LONG, function() -- by numbers, it would be 100 seconds of the long by then
      return (storage.db:value(LEAST_USED, 2) or 0) > 10
    end)
    for _, process in ipairs(running) do process:kill(15) end
    for _, process in ipairs(running) do process:wait() end
    assert.is_true(count "status = 'pending' AND lane = 'long'" > 0)
    assert.is_true(count "status = 'pending' AND lane = 'short'" > 0)
    local used = {}
    for _, span in ipairs(spans {}) do used[span.lane] = (used[span.lane] or 0) + span.to - span.from end
    local ratio = used.long / used.short
    assert.is_true(ratio > 0.4 and ratio < 2.5, "worker-seconds of the long to those of the short: " .. ratio)
    local noted = storage.db:query "SELECT lane, sum(seconds) AS seconds FROM job_lane_usage GROUP BY lane"
    assert.equal(2, #noted)
    for _, row in ipairs(noted) do assert.is_true(math.abs(row.seconds / used[row.lane] - 1) < 0.5) end
  end)

  it("let no more begin in any span of time than burst and rate allow, by the database's clock", function()
    local rate, burst = 50, 5
    local jobs = jobs_of("a", 1000, 0)
    table.move(jobs_of("b", 1000, 0), 1, 1000, #jobs + 1, jobs)
    work(("return { lane = 'payload.tenant', claim = function() return { rate = %d, burst = %d } end }")
      :format(rate, burst), jobs)
    for _ = 1, 3 do spawn() end
    child.await("jobs of several processes", LONG, function()
      return count "status = 'completed'" >= 200
        and storage.db:value "SELECT count(DISTINCT locked_by) FROM workflow_jobs WHERE status = 'completed'" >= 2
    end)
    for _, lane in ipairs { "a", "b" } do
      local starts = storage.db:query([[
        SELECT extract(epoch FROM started_at)::float8 AS at
        FROM workflow_jobs
        WHERE lane = $1 AND started_at IS NOT NULL
        ORDER BY started_at
      ]], lane)
      assert.is_true(#starts > burst)
      for first = 1, #starts do
        for last = first, #starts do
          local span = starts[last].at - starts[first].at
          assert.is_true(last - first + 1 <= burst + rate * span + 0.01,
            ("%d began in %.3f s"):format(last - first + 1, span))
        end
      end
    end
  end)

  it("let no lane's backlog hide another's", function()
    work("return { lane = 'payload.tenant', claim = function() return { weight = 1 } end }", jobs_of("big", 3000, 0.05))
    spawn("--concurrency", "4")
    child.await("the backlog", LONG, function() return count "status = 'completed'" > 20 end)
    local small = storage:push_jobs(jobs_of("small", 3, 0))
    child.await("the small one's", LONG, function()
      local done = "SELECT count(*) FROM workflow_jobs WHERE id = ANY ($1) AND status = 'completed'"
      return storage.db:value(done, small) == 3
    end)
    assert.is_true(count "status = 'pending' AND lane = 'big'" > 1000)
  end)

  it("are followed when they are lifted", function()
    work("return { lane = 'payload.tenant', claim = function() return { cap = 0 } end }", jobs_of("a", 20, 0))
    spawn()
    work("return { lane = 'payload.tenant', claim = function() return { cap = 1 } end }", {})
    child.await("the held back", LONG, function() return count "status = 'completed'" == 20 end)
  end)

  it("hold for jobs that other programs inserted, and for lanes by an older declaration", function()
    storage.db:exec [[
      INSERT INTO workflow_jobs (payload)
      SELECT jsonb_build_object('handler', 'log', 'tenant', 'f' || i % 3, 'takes', 0.01) FROM generate_series(1, 300) i
    ]]
    storage.db:exec "UPDATE workflow_jobs SET lane = 'x', lane_by = 'payload.other' WHERE payload ->> 'tenant' = 'f0'"
    work("return { lane = 'payload.tenant', claim = function() return { cap = 2 } end }", jobs_of("f1", 50, 0.01))
    local running = { spawn("--drain"), spawn("--drain") }
    for _, process in ipairs(running) do assert.equal(0, process:wait().status) end
    assert.equal(350, count "status = 'completed'")
    for lane, most in pairs(most_at_once(spans {})) do
      assert.matches("^f%d$", lane)
      assert.is_true(most <= 2)
    end
  end)

  it("run a suspect job within them, alone", function()
    work("return { lane = 'payload.tenant', claim = function() return { cap = 1 } end }", jobs_of("a", 3, 0.01))
    storage.db:exec "UPDATE workflow_jobs SET suspect = true WHERE id IN (SELECT id FROM workflow_jobs LIMIT 2)"
    local holder = storages.with_pool_config(url, { max_size = 2 })
    local _ <close> = holder
    local held = holder:claim_jobs("holder", 1, { lease = 3600 })
    assert.equal(1, #held)
    local process = spawn "--drain"
    process:wait()
    assert.equal(2, count "status = 'pending' AND suspect")
    holder:complete_jobs(held)
    assert.equal(0, spawn("--drain"):wait().status)
    assert.equal(3, count "status = 'completed'")
    assert.equal(1, most_at_once(spans {}).a)
  end)
end)
