-- worker/keeper.lua: what a worker does about leases: renews its own, writes the end of leased jobs
-- in batches, and rescues the jobs whose worker has vanished.
local nebula = require "nebula"
local news = require "nebula.jobs.news"
local outcome = require "nebula.jobs.outcome"
local renew = require "nebula.jobs.renew"
local rescue = require "nebula.jobs.rescue"
local settle = require "nebula.jobs.settle"
local Signal = require "nebula.worker.signal"

local try = nebula.try

---@class nebula.Keeper
local Keeper = {}
Keeper.__index = Keeper

local SWEEP_SECONDS = 5 -- between two looks for ended leases, with jitter
local RETRY_SECONDS = 0.5
local LEASE_AFTER = 0.2

local LEASED_BY = {
  where = "status = 'running' AND lease_until IS NOT NULL AND locked_by = $1", why = "its worker died",
}
local IN_FLIGHT = {
  where = "status = 'pending' AND id = ANY ($1::uuid[]) AND NOT suspect", why = "its worker died while it ran",
  alone = true,
}

---@param worker nebula.Worker
---@return nebula.Keeper
function Keeper.new(worker)
  local lease = worker.settings.lease
  local beat = nebula.pg.heartbeat {
    url = worker.storage.pool_options.url, columns = 4, interval = lease / 3,
    sql = renew.sql(("%.3f"):format(lease)),
  }
  return setmetatable({ worker = worker, queue = {}, signal = Signal.new(), beat = beat }, Keeper)
end

function Keeper:__close() self.beat:close() end

-- ---- the end of leased jobs ----

--- A leased run has ended: its outcome is written with the next batch.
---@param run nebula.Run
function Keeper:ended(run)
  local worker = self.worker
  local elapsed = run.started and nebula.time.monotonic() - run.started or 0
  worker.slow = worker.slow * 0.95 + (elapsed > LEASE_AFTER and 0.05 or 0)
  if run.outcome then
    self.queue[#self.queue + 1] = run
    self.signal:notify()
  else
    self:drop(run)
    worker.freed:notify()
  end
end

-- Writes the outcomes of some runs. Where the server refuses one of them, each is written alone, and the
-- one that cannot be is failed with what the server said.
local function settle_runs(worker, runs)
  local entries = {}
  for i, run in ipairs(runs) do entries[i] = { job = run.job, outcome = run.outcome } end
  local stood, err = try(settle.leased, worker.db, entries, false)
  if not err then return stood end
  if not settle.is_refusal(err) then error(err, 0) end
  if #runs == 1 then
    runs[1].outcome = outcome.failed(worker.policy, runs[1].job, err, worker.id)
    worker.log.warn("the end of a job was refused", { job = runs[1].job.id, error = err.message })
    return settle.leased(worker.db, { { job = runs[1].job, outcome = runs[1].outcome } }, false)
  end
  stood = {}
  for _, run in ipairs(runs) do
    stood[run.job.id] = settle_runs(worker, { run })[run.job.id]
  end
  return stood
end

-- Writes what has ended so far. Raises where the database cannot be reached; then nothing is lost.
local function write(self)
  local worker, runs = self.worker, self.queue
  if #runs == 0 then return end
  self.queue = {}
  local stood, err = try(settle_runs, worker, runs)
  if err then
    for _, run in ipairs(runs) do table.insert(self.queue, run) end
    error(err, 0)
  end
  local back = {}
  for _, run in ipairs(runs) do
    local row = stood[run.job.id]
    self:drop(run)
    if not row then
      worker.counts.lost = worker.counts.lost + 1
      worker.log.warn("the claim had ended before the job did; its outcome was dropped", { job = run.job.id })
    elseif run.outcome.status == "pending" and not run.outcome.delay then
      news.add(back, row.priority, row.scheduled_at)
    end
  end
  if next(back) then worker.storage:wake(back) end
  worker.freed:notify()
  if worker.policy:by_lanes() then worker.pushed:notify() end -- what a cap held back may be taken now
end

--- Writes what is left, at the end of the worker. What cannot be written is rescued by others.
function Keeper:flush()
  local _, err = try(write, self)
  if err then
    self.worker.log.error("the last jobs could not be written", { error = err.message, jobs = #self.queue })
  end
end

--- Body of a task: writes the ends as they come.
function Keeper:settling()
  while true do
    self.signal:wait()
    local _, err = try(write, self)
    if err then
      self.worker.log.warn("the end of jobs could not be written", { error = err.message, jobs = #self.queue })
      nebula.task.sleep(RETRY_SECONDS)
      self.signal:notify()
    end
  end
end

-- ---- heartbeats ----

--- The run is held by a lease from now on; or its progress, or the time it may take, has changed.
---@param run nebula.Run
function Keeper:hold(run)
  local job = run.job
  self.worker.leased[job.id] = run
  local progress = job.progress and nebula.json.encode(job.progress)
  local left = run.until_time and math.max(run.until_time - nebula.time.monotonic(), 0)
  self.beat:set({ job.id, job.token, job.worker, progress }, left)
end

---@param run nebula.Run
function Keeper:drop(run)
  self.worker.leased[run.job.id] = nil
  self.beat:remove(run.job.id)
  if run.ended_signal then run.ended_signal:notify() end
end

--- Body of a task: ends the runs whose claim has ended, as the heartbeat's thread finds them. The
--- leases themselves are renewed by that thread, also while a handler computes.
function Keeper:heartbeats()
  local worker, told = self.worker, nil
  while true do
    nebula.task.sleep(worker.settings.lease / 10)
    for _, id in ipairs(self.beat:lost()) do
      local run = worker.leased[id]
      if run and not run.finished and not run.ended then run:abort "fenced" end
    end
    local stats = self.beat:stats()
    if stats.error and stats.error ~= told then
      worker.log.warn("leases could not be renewed; it is tried again", { error = stats.error, jobs = stats.entries })
    end
    told = stats.error
  end
end

-- ---- rescue ----

--- Rescues what a dead process of this machine left behind: the jobs it ran under row locks run
--- alone from now on; its leases end at once.
---@param ids string[]
---@param dead string the dead worker's UUID
---@return integer
function Keeper:rescue_dead(ids, dead)
  local worker = self.worker
  local total = rescue.all(worker.storage, worker.policy, LEASED_BY, dead)
  if #ids > 0 then total = total + rescue.all(worker.storage, worker.policy, IN_FLIGHT, ids) end
  worker.db:exec("DELETE FROM job_workers WHERE id = $1", dead)
  return total
end

--- Gives the jobs whose leases have ended back to the queue, or ends them, as the policy says.
function Keeper:sweep()
  local worker = self.worker
  local count, err = try(rescue.all, worker.storage, worker.policy, rescue.EXPIRED)
  if err then
    worker.log.warn("looking for vanished workers failed", { error = err.message })
  elseif count > 0 then
    worker.log.warn("jobs of vanished workers were rescued", { jobs = count })
  end
end

--- Body of a task: sweeps now and then.
function Keeper:rescues()
  while true do
    nebula.task.sleep(SWEEP_SECONDS * (0.75 + math.random() / 2))
    self:sweep()
    local _, err = try(self.worker.flight.recover, self.worker.flight, self.worker)
    if err then self.worker.log.warn("looking for dead workers of this machine failed", { error = err.message }) end
  end
end

return Keeper
