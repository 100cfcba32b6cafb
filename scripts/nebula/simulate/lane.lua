-- simulate/lane.lua: one lane of a simulated queue: what waits, what runs, what it has used, and the
-- tokens of its rate.
local Heap = require "nebula.simulate.heap"

---@class nebula.SimulatedLane
---@field front table[] the first that wait, in their order; the rest is in `waiting`
local Lane = {}
Lane.__index = Lane

local USED_SECONDS, SLICES = 600, 60 -- `used` is of the last 10 minutes, kept in slices
local SLICE = USED_SECONDS // SLICES

---@param key string
---@param before fun(a: table, b: table): boolean the order in which its jobs wait
---@return nebula.SimulatedLane
function Lane.new(key, before)
  return setmetatable({
    key = key, before = before, front = {}, waiting = Heap.new(before), waits_now = 0, jobs = 0,
    running = 0, running_max = 0, starved = 0, started_sum = 0, worked = 0, used = 0, slices = {},
    waits = {}, arrivals = {}, first_arrival = 1, last_arrival = 0,
  }, Lane)
end

---@param job table
---@param now number
function Lane:add(job, now)
  if self.waits_now == 0 then self.waiting_since = now end
  self.jobs, self.waits_now = self.jobs + 1, self.waits_now + 1
  self.last_arrival = self.last_arrival + 1
  self.arrivals[self.last_arrival] = job
  local front, before = self.front, self.before
  local at = #front
  if at == 0 or not before(job, front[at]) then return self.waiting:push(job) end
  while at > 1 and before(job, front[at - 1]) do at = at - 1 end
  table.insert(front, at, job)
end

--- The first jobs in their order, n where so many wait, or more.
---@param n integer
---@return table[]
function Lane:front_of(n)
  local front, waiting = self.front, self.waiting
  while #front < n and waiting.n > 0 do front[#front + 1] = waiting:pop() end
  return front
end

---@return table?
function Lane:first() return self.front[1] or self:front_of(1)[1] end

--- Takes one of the first jobs out.
---@param job table
function Lane:remove(job)
  for i, other in ipairs(self.front) do
    if other == job then
      table.remove(self.front, i)
      break
    end
  end
  self.waits_now = self.waits_now - 1
end

--- Sorts what waits anew.
---@param before fun(a: table, b: table): boolean
function Lane:sort(before)
  local waiting = Heap.new(before)
  for i = 1, self.waiting.n do waiting:push(self.waiting[i]) end
  for _, job in ipairs(self.front) do waiting:push(job) end
  self.waiting, self.front, self.before = waiting, {}, before
end

-- The longest that jobs waited while none of the lane began.
function Lane:count_starving(now)
  self.starved = math.max(self.starved, now - (self.waiting_since or now))
  self.waiting_since = now
end

---@param job table
---@param now number
function Lane:start(job, now)
  job.started = now
  self:count_starving(now)
  self.running = self.running + 1
  self.running_max = math.max(self.running_max, self.running)
  self.started_sum = self.started_sum + now
  self.waits[#self.waits + 1] = now - job.scheduled_at
  if self.tokens then self.tokens = self.tokens - 1 end
  local arrivals, at = self.arrivals, self.first_arrival
  while arrivals[at] and arrivals[at].started do
    arrivals[at] = nil
    at = at + 1
  end
  self.first_arrival = at
end

---@param job table
---@param now number
function Lane:finish(job, now)
  self.running = self.running - 1
  self.started_sum = self.started_sum - job.started
  self.worked = self.worked + now - job.started
  local slices = self.slices
  local slice, last = now // SLICE, slices[#slices]
  self.used = self.used + now - job.started
  if last and last.at == slice then
    last.seconds = last.seconds + now - job.started
  else
    slices[#slices + 1] = { at = slice, seconds = now - job.started }
  end
end

-- Worker-seconds of the last 10 minutes, to a slice.
local function used(self, now)
  local slices, oldest = self.slices, now // SLICE - SLICES
  while slices[1] and slices[1].at <= oldest do
    self.used = self.used - table.remove(slices, 1).seconds
  end
  return self.used + self.running * now - self.started_sum
end

local function oldest_wait(self, now)
  local oldest = self.arrivals[self.first_arrival]
  return oldest and now - oldest.scheduled_at or 0
end

--- The lane as a policy sees it.
---@param now number
---@return {key: string, running: integer, used: number, oldest_wait: number}
function Lane:view(now)
  return { key = self.key, running = self.running, used = used(self, now), oldest_wait = oldest_wait(self, now) }
end

--- How many jobs its rate lets begin now; and when there is one more.
---@param rate number a second
---@param burst number
---@param now number
---@return integer allowed
---@return number? at
function Lane:tokens_at(rate, burst, now)
  burst = math.max(burst, 1)
  local tokens = self.tokens and math.min(burst, self.tokens + (now - self.tokens_since) * rate) or burst
  self.tokens, self.tokens_since = tokens, now
  local whole = math.floor(tokens + 1e-9)
  return whole, rate > 0 and now + (whole + 1 - tokens) / rate or nil
end

return Lane
