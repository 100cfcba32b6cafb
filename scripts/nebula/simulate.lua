-- simulate.lua: a policy in virtual time: the policy's own code decides over a synthetic load, in a
-- fraction of the time that the load would take, and the same seed gives the same run.
--
-- Each worker slot runs one job at a time. Nothing fails and nothing is lost: what is looked at is who
-- waits how long.
local Heap = require "nebula.simulate.heap"
local options = require "nebula.options"
local Queue = require "nebula.simulate.queue"
local raise = require "nebula.raise"

local simulate = {}

local MONDAY = 1767571200 -- where a run begins: 2026-01-05T00:00:00Z
local ADHOC = "nebula.adhoc"
local POLL, LONGEST_POLL = 1, 60 -- seconds between two looks at a queue of which nothing was taken
local GIVE_UP = 8 * 86400 -- seconds in which nothing happens but looks

local FIELDS = { policy = true, workers = true, seed = true, load = true, start = true }
local LOAD_FIELDS = {
  jobs = true, at = true, every = true, takes = true, payload = true, priority = true, workflow_id = true,
  lane = true,
}

---@class nebula.SimulatedLoad
---@field jobs integer
---@field at? number|string seconds after the start that the first comes (0)
---@field every? number|string seconds between two; without it all come at once
---@field takes number|string|fun(n: integer): number seconds that a job runs
---@field payload? table
---@field priority? integer
---@field workflow_id? string
---@field lane? string default: as the policy declares

---@class nebula.Simulation
---@field lanes table<string, nebula.SimulationLane>
---@field completed integer
---@field waiting integer jobs that were never taken
---@field refused integer by admit
---@field seconds number from the start to the last job's end
---@field utilisation number part of the workers' time in which they worked
---@field starved number of the lane that starved longest
---@field fairness number Jain's index of the lanes' worker-seconds: 1 where all had the same

---@class nebula.SimulationLane
---@field jobs integer
---@field running {max: integer}
---@field wait {mean: number, p50: number, p95: number, p99: number, max: number} seconds from due to begun
---@field used number worker-seconds
---@field starved number seconds: the longest time in which its jobs waited and none of them began

local function seconds_of(what, value, default)
  if value == nil then return default end
  return options.duration(value) or raise("validation", "simulate.run: %s is a duration, not %s", what, tostring(value))
end

local function check_fields(what, given, known)
  for name in pairs(given) do
    if not known[name] then
      local names = {}
      for field in pairs(known) do names[#names + 1] = field end
      raise("validation", "%s: unknown field %s%s", what, tostring(name), options.did_you_mean(tostring(name), names))
    end
  end
end

-- The load's parts, each with when its next job comes.
local function sources(load, start)
  local heap = Heap.new(function(a, b)
    if a.next_at ~= b.next_at then return a.next_at < b.next_at end
    return a.index < b.index
  end)
  for i, part in ipairs(load) do
    local what = ("load[%d]"):format(i)
    check_fields("simulate.run: " .. what, part, LOAD_FIELDS)
    local jobs = math.tointeger(part.jobs)
    if not jobs or jobs < 0 then raise("validation", "simulate.run: %s.jobs is a whole number", what) end
    local takes = part.takes
    if type(takes) ~= "function" then
      takes = seconds_of(what .. ".takes", takes) or raise("validation", "simulate.run: %s.takes is missing", what)
    end
    if jobs > 0 then
      heap:push { index = i, part = part, jobs = jobs, made = 0, takes = takes,
        every = seconds_of(what .. ".every", part.every, 0), next_at = start + seconds_of(what .. ".at", part.at, 0) }
    end
  end
  return heap
end

local function next_job(source)
  local n = source.made + 1
  local part = source.part
  source.made = n
  local takes = source.takes
  if type(takes) == "function" then takes = takes(n) end
  return {
    id = ("%d-%d"):format(source.index, n), workflow_id = part.workflow_id or ADHOC, priority = part.priority or 0,
    payload = part.payload or {}, lane = part.lane, scheduled_at = source.next_at, takes = takes,
  }
end

-- The job as the policy admits it, or nil.
local function admitted(policy, job)
  if policy:has "admit" then
    local answer = policy:admit { workflow_id = job.workflow_id, payload = job.payload, priority = job.priority,
      max_retries = 3 }
    if answer == false then return nil end
    for name, value in pairs(answer or {}) do job[name] = value end
    job.scheduled_at = job.scheduled_at + (seconds_of("admit's delay", job.delay, 0))
  end
  job.lane = policy:lane_of(job) or job.workflow_id
  return job
end

local function percentile(sorted, part)
  return sorted[math.max(1, math.ceil(part * #sorted))] or 0
end

local function report(queue, run, seconds)
  local lanes, sum, squares, count, starved = {}, 0, 0, 0, 0
  for key, lane in pairs(queue.lanes) do
    local waits, total = lane.waits, 0
    table.sort(waits)
    for _, wait in ipairs(waits) do total = total + wait end
    if lane.waits_now > 0 then lane:count_starving(run.last) end
    starved = math.max(starved, lane.starved)
    lanes[key] = {
      jobs = lane.jobs, running = { max = lane.running_max }, used = lane.worked, starved = lane.starved,
      wait = { mean = #waits > 0 and total / #waits or 0, p50 = percentile(waits, 0.5), p95 = percentile(waits, 0.95),
        p99 = percentile(waits, 0.99), max = waits[#waits] or 0 },
    }
    sum, squares, count = sum + lane.worked, squares + lane.worked ^ 2, count + 1
  end
  return {
    lanes = lanes, completed = run.completed, waiting = queue.waiting + run.future.n, refused = run.refused,
    seconds = seconds, utilisation = seconds > 0 and sum / (seconds * run.workers) or 0,
    starved = starved, fairness = squares > 0 and sum ^ 2 / (count * squares) or 1,
  }
end

-- Everything that has happened by now: jobs that end, that come, that are due.
local function happen(run, queue, now)
  while run.ends.n > 0 and run.ends:peek().ends_at <= now do
    queue:finish(run.ends:pop(), now)
    run.completed, run.free, run.last = run.completed + 1, run.free + 1, now
  end
  while run.sources.n > 0 and run.sources:peek().next_at <= now do
    local source = run.sources:pop()
    local job = admitted(run.policy, next_job(source))
    if job and job.scheduled_at <= now then
      queue:push(job, now)
    elseif job then
      run.number = run.number + 1
      job.number = run.number
      run.future:push(job)
    else
      run.refused = run.refused + 1
    end
    if source.made < source.jobs then
      source.next_at = source.next_at + source.every
      run.sources:push(source)
    end
  end
  while run.future.n > 0 and run.future:peek().scheduled_at <= now do queue:push(run.future:pop(), now) end
end

-- Fills the free slots; returns when a rate allows more.
local function fill(run, queue, now)
  local again_at
  while run.free > 0 and queue.waiting > 0 do
    local taken
    taken, again_at = queue:claim(run.free, now)
    if #taken == 0 then break end
    for _, job in ipairs(taken) do
      job.ends_at = now + job.takes
      run.ends:push(job)
    end
    run.free, run.idle, run.poll = run.free - #taken, nil, POLL
  end
  return again_at
end

-- When something happens next; nil: never, or nothing but looks for too long.
local function next_time(run, queue, now, again_at)
  local at
  local function consider(time)
    if time and (not at or time < at) then at = time end
  end
  consider(run.ends.n > 0 and run.ends:peek().ends_at or nil)
  consider(run.sources.n > 0 and run.sources:peek().next_at or nil)
  consider(run.future.n > 0 and run.future:peek().scheduled_at or nil)
  if queue.waiting > 0 and run.free > 0 then
    if not at then
      run.idle = run.idle or now
      if now - run.idle > GIVE_UP then return nil end
    end
    consider(again_at and again_at > now and again_at or nil)
    consider(now + run.poll)
    run.poll = math.min(run.poll * 2, LONGEST_POLL)
  end
  return at
end

local function ends_before(a, b)
  if a.ends_at ~= b.ends_at then return a.ends_at < b.ends_at end
  return a.id < b.id
end

local function due_before(a, b)
  if a.scheduled_at ~= b.scheduled_at then return a.scheduled_at < b.scheduled_at end
  return a.number < b.number
end

--- Runs a load through a policy in virtual time.
--- Raises `validation`, and what the policy raises (`policy`, `limit`).
---@param given {policy: nebula.Policy|string, workers: integer, seed?: integer, load: nebula.SimulatedLoad[],
---  start?: number} workers: slots; start: epoch seconds at which it begins
---@return nebula.Simulation
function simulate.run(given)
  check_fields("simulate.run", given, FIELDS)
  local policy = given.policy
  if type(policy) == "string" then policy = require("nebula.policy").load(policy) end
  if type(policy) ~= "table" then raise("validation", "simulate.run: policy is one, as policy.load gives it") end
  local workers = math.tointeger(given.workers)
  if not workers or workers < 1 then raise("validation", "simulate.run: workers is a whole number of at least 1") end
  if type(given.load) ~= "table" then raise("validation", "simulate.run: load is a list of {jobs=, takes=, ...}") end
  local start = given.start or given.load.start or MONDAY
  local now = start
  local run = {
    policy = policy, workers = workers, free = workers, completed = 0, refused = 0, last = start, poll = POLL,
    sources = sources(given.load, start), ends = Heap.new(ends_before), future = Heap.new(due_before), number = 0,
  }
  local queue = Queue.new(policy)
  local before = policy.clock
  local _ <close> = setmetatable({}, { __close = function() policy.clock = before end })
  policy.clock = function() return now end
  policy.sandbox:seed(given.seed or 0)
  while true do
    happen(run, queue, now)
    local again_at = fill(run, queue, now)
    local at = next_time(run, queue, now, again_at)
    if not at then break end
    now = at
  end
  return report(queue, run, run.last - start)
end

return simulate
