-- simulate/queue.lua: a simulated queue: jobs that wait in lanes, and claims that a policy decides.
local Lane = require "nebula.simulate.lane"
local plans = require "nebula.policy.plan"
local raise = require "nebula.raise"
local share = require "nebula.policy.share"

---@class nebula.SimulatedQueue
local Queue = {}
Queue.__index = Queue

local LANES_DRAWN = 64 -- of a claim, rotating
local DEFAULT_WINDOW = 20 -- of select
local GOLDEN = (math.sqrt(5) - 1) / 2

---@param policy nebula.Policy
---@return nebula.SimulatedQueue
function Queue.new(policy)
  return setmetatable({ policy = policy, lanes = {}, keys = {}, waiting = 0, turn = 0, sequence = 0,
    before = nil, order = nil, phase = 0 }, Queue)
end

-- The same numbers in every run, spread evenly over [0, 1).
local function divide(self, n, drawn)
  return share.divide(n, drawn, function()
    self.phase = (self.phase + GOLDEN) % 1
    return self.phase
  end)
end

-- What comparing two jobs by a plan's columns is, compiled: it is most of what a simulation does.
-- Equal jobs wait in the order they came.
local function comparison(columns)
  local lines = { "local a, b = ...", "local x, y" }
  for _, column in ipairs(columns) do
    lines[#lines + 1] = ("x, y = a.%s, b.%s"):format(column.name, column.name)
    lines[#lines + 1] = ("if x ~= y then return x %s y end"):format(column.descending and ">" or "<")
  end
  lines[#lines + 1] = "return a.sequence < b.sequence"
  return assert(load(table.concat(lines, "\n"), "=order", "t", {}))
end

---@param job table
---@param now number
function Queue:push(job, now)
  self.sequence = self.sequence + 1
  job.sequence = self.sequence
  local lane = self.lanes[job.lane]
  if not lane then
    self.before = self.before or function(a, b) return a.sequence < b.sequence end
    lane = Lane.new(job.lane, self.before)
    self.lanes[job.lane] = lane
    self.keys[#self.keys + 1] = job.lane
  end
  lane:add(job, now)
  self.waiting = self.waiting + 1
end

local function use_order(self, plan)
  if plan.order == self.order then return end
  self.order, self.before = plan.order, comparison(plan.columns)
  for _, lane in pairs(self.lanes) do lane:sort(self.before) end
end

local function take(self, lane, job, now)
  lane:start(job, now)
  self.waiting = self.waiting - 1
end

-- Without a word of lanes: the first by the order, from whichever lane.
local function claim_by_order(self, plan, now)
  local taken = {}
  for _ = 1, math.min(plan.limit, self.waiting) do
    local best, best_lane
    for _, key in ipairs(self.keys) do
      local lane = self.lanes[key]
      local head = lane:first()
      if head and (not best or self.before(head, best)) then best, best_lane = head, lane end
    end
    taken[#taken + 1] = best
    best_lane:remove(best)
    take(self, best_lane, best, now)
  end
  return taken
end

-- The lanes that a claim looks at: those where something waits, a bounded number, rotating. And what the policy's
-- functions see of them.
local function draw_lanes(self, now)
  local drawn, views = {}, {}
  local count = #self.keys
  for i = 1, count do
    local lane = self.lanes[self.keys[(self.turn + i - 1) % count + 1]]
    if lane.waits_now > 0 then
      drawn[#drawn + 1] = { lane = lane, running = lane.running }
      views[#drawn] = lane:view(now)
      if #drawn == LANES_DRAWN then break end
    end
  end
  self.turn = count > 0 and (self.turn + 1) % count or 0
  return drawn, views
end

-- What each may take and weighs; and when a rate lets the next one begin.
local function limit_lanes(self, plan, drawn, views, now)
  local function values_of(field) return plans.values(self.policy, plan, field, views) end
  local caps, rates, bursts, weights = values_of "cap", values_of "rate", values_of "burst", values_of "weight"
  local again_at
  for i, entry in ipairs(drawn) do
    local lane = entry.lane
    local allowed = math.min(plan.limit, lane.waits_now, math.max(0, (caps[i] or math.huge) - lane.running))
    if rates[i] then
      local tokens, at = lane:tokens_at(rates[i], bursts[i] or rates[i], now)
      allowed = math.min(allowed, tokens)
      if at and (not again_at or at < again_at) then again_at = at end
    end
    entry.allowed, entry.weight = math.floor(allowed), weights[i] or 1
  end
  return again_at
end

-- The first of each lane, as many as the window shows.
local function draw_candidates(self, drawn, window)
  local candidates = {}
  for i, entry in ipairs(drawn) do
    if entry.allowed > 0 then
      local front = entry.lane:front_of(window)
      for j = 1, math.min(window, #front) do candidates[#candidates + 1] = { lane = i, job = front[j] } end
    end
  end
  if #drawn > 1 then
    local before = self.before
    table.sort(candidates, function(a, b) return before(a.job, b.job) end)
  end
  return candidates
end

-- The candidates as select ranks them.
local function ranked(self, candidates)
  local views, by_id = {}, {}
  for i, candidate in ipairs(candidates) do
    local job = candidate.job
    views[i] = { id = job.id, lane = job.lane, priority = job.priority, scheduled_at = job.scheduled_at,
      workflow_id = job.workflow_id, retry_count = 0, max_retries = 3, payload = job.payload }
    by_id[job.id] = candidate
  end
  local list = {}
  for _, picked in ipairs(self.policy:select(views)) do
    local candidate = type(picked) == "table" and by_id[picked.id]
    if not candidate then
      raise("policy", "policy %s: select returns what it was not given, or the same job twice", self.policy.name)
    end
    by_id[picked.id] = nil
    list[#list + 1] = candidate
  end
  return list
end

local function remove_and_take(self, lane, job, now, taken)
  taken[#taken + 1] = job
  lane:remove(job)
  take(self, lane, job, now)
end

-- Without a select: of each lane its first ones, up to its share; then what is left, by lanes without weight.
local function take_first(self, plan, drawn, now)
  local taken, parts = {}, divide(self, plan.limit, drawn)
  for round = 1, 2 do
    for i, entry in ipairs(drawn) do
      local n = round == 1 and parts[i] or math.min(entry.allowed - parts[i], plan.limit - #taken)
      for _ = 1, n do remove_and_take(self, entry.lane, entry.lane:first(), now, taken) end
    end
  end
  return taken
end

local function claim_by_lanes(self, plan, now)
  local drawn, views = draw_lanes(self, now)
  local again_at = limit_lanes(self, plan, drawn, views, now)
  if not self.policy:has "select" then return take_first(self, plan, drawn, now), again_at end
  local list = ranked(self, draw_candidates(self, drawn, plan.lanes and plan.lanes.window or DEFAULT_WINDOW))
  local taken = {}
  for _, i in ipairs(share.choose(plan.limit, list, drawn, divide(self, plan.limit, drawn))) do
    remove_and_take(self, drawn[list[i].lane].lane, list[i].job, now, taken)
  end
  return taken, again_at
end

--- What the policy takes next.
---@param free integer the free slots
---@param now number
---@return table[] jobs they run from now on
---@return number? again_at when a rate lets the next one begin
function Queue:claim(free, now)
  if self.waiting == 0 then return {} end
  local plan = self.policy:plan(free)
  if not plan then return {} end
  use_order(self, plan)
  if plan.lanes or self.policy:has "select" then return claim_by_lanes(self, plan, now) end
  return claim_by_order(self, plan, now)
end

---@param job table
---@param now number
function Queue:finish(job, now) self.lanes[job.lane]:finish(job, now) end

return Queue
