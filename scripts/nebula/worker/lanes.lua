-- worker/lanes.lua: what a worker does about lanes beside its claims: it writes down what its jobs used
-- of them, and helps to write the lanes of jobs that have none, or one by an older declaration.
local claim = require "nebula.worker.claim"
local lanes = require "nebula.jobs.lanes"
local nebula = require "nebula"
local Signal = require "nebula.worker.signal"

---@class nebula.WorkerLanes
---@field signal nebula.Signal a policy came into force, or jobs may wait for their lanes
local Lanes = {}
Lanes.__index = Lanes

local USE_SECONDS = 1 -- between two notes of what was used
local KEPT_MINUTES = 10

local ADD = [[
  INSERT INTO job_lane_usage AS u (lane, minute, seconds)
  SELECT d.lane, extract(epoch FROM clock_timestamp())::bigint / 60, d.seconds
  FROM unnest($1::text[], $2::float8[]) AS d (lane, seconds)
  ORDER BY d.lane
  ON CONFLICT (lane, minute) DO UPDATE SET seconds = u.seconds + excluded.seconds
]]

local FORGET = "DELETE FROM job_lane_usage WHERE minute < extract(epoch FROM clock_timestamp())::bigint / 60 - $1"

local WAITING = [[
  SELECT EXISTS (
    SELECT FROM workflow_jobs WHERE status = 'pending' AND lane IS NULL AND scheduled_at <= now()
  ) AS waiting
]]

---@param worker nebula.Worker
---@return nebula.WorkerLanes
function Lanes.new(worker)
  return setmetatable({ worker = worker, used = {}, forget_at = 0, step_at = 0, signal = Signal.new() }, Lanes)
end

-- What a run used since it was last asked.
local function charge(self, run, now)
  local lane, since = run.job.lane, run.charged or run.started
  if not lane or not since then return end
  self.used[lane] = (self.used[lane] or 0) + now - since
  run.charged = now
end

--- A run has ended.
---@param run nebula.Run
function Lanes:ended(run) charge(self, run, nebula.time.monotonic()) end

--- What a lane's jobs used here since the last time it was written.
---@param lane string
---@return number seconds
function Lanes:unnoted(lane) return self.used[lane] or 0 end

--- Writes what was used since the last time, also by those that still run.
function Lanes:flush()
  local now = nebula.time.monotonic()
  for _, run in pairs(self.worker.leased) do
    if not run.ended then charge(self, run, now) end
  end
  local names, seconds = {}, {}
  for lane, used in pairs(self.used) do
    names[#names + 1] = lane
    seconds[#seconds + 1] = used
  end
  if #names == 0 then return end
  self.used = {}
  local _, err = nebula.try(function()
    self.worker.db:exec(ADD, names, seconds)
    self.worker.kept_lanes.lanes = nil -- what they used was read before this
    if now >= self.forget_at then
      self.worker.db:exec(FORGET, KEPT_MINUTES)
      self.forget_at = now + 60
    end
  end)
  if err then self.worker.log.warn("what lanes used could not be written", { error = err.message }) end
end

-- The steps that are due now of writing lanes.
local function write_lanes(self)
  local worker, db = self.worker, self.worker.db
  local declaration = worker.policy:declaration()
  if declaration ~= self.declared then
    lanes.begin(db, declaration)
    self.declared, self.step_at = declaration, 0
  end
  while nebula.time.monotonic() >= self.step_at and not worker.stopping do
    self.writing = true
    local count, again, took = lanes.step(db, declaration, self.took)
    if count > 0 then worker:heard() end
    self.writing = false
    local more = again <= took
    self.took, self.step_at = took, nebula.time.monotonic() + again
    if not more then break end
    nebula.task.sleep(again) -- half of the time is others'
  end
end

--- Whether no due job waits for its lane to be written.
---@return boolean
function Lanes:settled()
  if not self.worker.policy:by_lanes() then return true end
  local waiting = self.worker.db:batch({ { claim.PLANNER_LOCAL }, { WAITING } })[2][1].waiting
  if not waiting then return not self.writing end -- those it writes, no claim has seen
  self.step_at = 0
  self.signal:notify()
  return false
end

--- Body of a task.
function Lanes:keeping()
  while true do
    if self.worker.policy:by_lanes() then
      local _, err = nebula.try(write_lanes, self)
      self.writing = false
      if err then self.worker.log.warn("the lanes of jobs could not be written", { error = err.message }) end
    end
    self.signal:wait(USE_SECONDS * (0.75 + math.random() / 2))
    self:flush()
  end
end

return Lanes
