-- worker/runner.lua: one job on its way through its handler: a Run, and the context it is given.
--
-- A Run begins in a session's batch, under a row lock; it may become leased (the batch took longer,
-- or the handler wants a transaction of its own), and ends with an outcome, or lost: then somebody
-- else has the job, and nothing of this run is written.
local nebula = require "nebula"
local outcome = require "nebula.jobs.outcome"
local raise = require "nebula.raise"
local settle = require "nebula.jobs.settle"
local Signal = require "nebula.worker.signal"

local COMPLETED = outcome.completed() -- without a result: the same for every job

local try, monotonic = nebula.try, nebula.time.monotonic

local TURN_AFTER = 0.05 -- seconds of handlers that do not wait: then others have their turn

---@class nebula.Run
---@field worker nebula.Worker
---@field job nebula.Job
---@field name any the handler that the payload names, whoever wrote it
---@field batch? table the session's, until it is leased
---@field outcome? table how it ended
---@field leased? boolean
---@field lost? boolean its claim has ended: nothing is to be written
---@field finished? boolean its end stands in the database already
local Run = {}
Run.__index = Run

---@param worker nebula.Worker
---@param batch table
---@param job nebula.Job
---@return nebula.Run
function Run.new(worker, batch, job)
  local payload = job.payload
  return setmetatable({
    worker = worker, batch = batch, job = job, name = type(payload) == "table" and payload.handler or nil,
    task = nil, started = nil, ended = nil, outcome = nil, -- room for them: the table does not grow
  }, Run)
end

-- ---- the context ----

---@class nebula.HandlerContext
---@field db nebula.pg.Pool
---@field storage nebula.Storage
---@field blobs nebula.Blobs
---@field log nebula.log.logger with the job's id
---@field progress fun(done: number, total?: number, unit?: string) stored with the next heartbeat
---@field tx fun(fn: fun(tx: nebula.pg.Connection): any): any fn's writes and the job's completion commit together
---@field snooze fun(seconds: number) the job comes again, later; not a failure: `return ctx.snooze(30)`

-- The job is completed in the caller's transaction: what fn returns is its result.
local function complete_within(run, fn)
  run:become_leased()
  local values
  run.worker.db:transaction(function(tx)
    values = table.pack(fn(tx))
    local entry = { job = run.job, outcome = outcome.completed(values[1]) }
    -- A process stopped between the next two statements must not keep the job's row from its rescue.
    tx:exec(("SET LOCAL idle_in_transaction_session_timeout = %d"):format(run.worker.settings.lease * 1000 // 1))
    if not settle.leased(tx, { entry }, true)[run.job.id] then
      run.lost = true
      raise("fenced", "ctx.tx: the claim of job %s has ended; nothing was written", run.job.id)
    end
  end)
  run.finished = true
  return table.unpack(values, 1, values.n)
end

local MEMBERS = {
  db = function(run) return run.worker.db end,
  storage = function(run) return run.worker.storage end,
  blobs = function(run) return run.worker.storage.blobs end,
  log = function(run) return nebula.log.with { job = run.job.id } end,
  progress = function(run)
    return function(done, total, unit)
      run.job.progress = { done = done, total = total, unit = unit }
      local over = run.ended -- told by a task that the handler left behind
      if run.leased and not over then run.worker.keeper:hold(run) end
    end
  end,
  tx = function(run)
    return function(fn) return complete_within(run, fn) end
  end,
  snooze = function(run)
    return function(seconds) run.snoozed = run.worker.storage.duration("ctx.snooze", seconds, 0) end
  end,
}

local CONTEXT = {
  __index = function(ctx, name)
    local make = MEMBERS[name]
    if not make then return nil end
    local value = make(rawget(ctx, 1))
    rawset(ctx, name, value)
    return value
  end,
}

-- ---- running ----

--- Gives the run an outcome, once, and tells whoever keeps it.
---@param made table|nil nil: nothing is to be written
function Run:finish(made)
  if self.ended then return end
  self.ended = true
  self.outcome = made
  local worker, batch = self.worker, self.batch
  if self.job.lane then worker.lanes:ended(self) end
  if worker.durations and self.started then
    worker.durations:observe(monotonic() - self.started, { handler = self.name or "" })
  end
  if made then
    local counts = worker.counts
    if made.status == "completed" then
      counts.completed = counts.completed + 1
    elseif made.status == "dead" then
      counts.dead = counts.dead + 1
    elseif made.counted then
      counts.failed = counts.failed + 1
    end
  end
  if self.leased then
    worker.keeper:ended(self)
  elseif batch then
    local left = batch.left - 1
    batch.left = left
    if left == batch.half then batch.half_at = monotonic() end
    if left == 0 or left == batch.half then batch.signal:notify() end
  end
end

-- What a raised error means for the job.
local function failed(self, raised)
  local worker = self.worker
  if self.finished then
    worker.log.warn("handler failed after its transaction had completed the job", { job = self.job.id,
      error = tostring(raised) })
    return nil
  end
  if self.lost and raised.kind == "fenced" then
    worker.counts.lost = worker.counts.lost + 1
    return nil
  end
  local made = outcome.failed(worker.policy, self.job, raised, worker.id, monotonic() - self.started)
  worker.log.warn(made.status == "dead" and "job is dead" or "job failed", {
    job = self.job.id, handler = self.name, error = raised.message or tostring(raised), retry_in = made.delay,
  })
  return made
end

local function after(self, result)
  if self.finished then
    local counts = self.worker.counts
    counts.completed = counts.completed + 1
    return nil
  end
  if self.snoozed then return outcome.snoozed(self.snoozed) end
  if result == nil then return COMPLETED end
  local made, err = try(outcome.completed, result)
  return made or failed(self, err)
end

local function call(self)
  local job = self.job
  local handler = self.worker.handlers:get(self.name)
  local ctx = setmetatable({ self }, CONTEXT)
  if handler.deadline then
    self.until_time = self.started + handler.deadline -- no lease outlives it
    if self.leased then self.worker.keeper:hold(self) end
    return nebula.task.deadline(handler.deadline, handler.run, ctx, job)
  end
  return handler.run(ctx, job)
end

-- Runs the job's handler in the current task. Never raises but for a cancel of the task.
function Run:execute(task, now)
  self.task, self.started = task, now
  local result, err = try(call, self)
  self.task = nil
  if err then
    self:finish(failed(self, err))
  else
    self:finish(after(self, result))
  end
end

-- The end of a runner: of the run that its task was cancelled in (by us, or by the handler itself, which
-- is a failure like another), and of its slot.
local GUARD = {
  __close = function(guard)
    local run, worker = guard.run, guard.worker
    if run and not run.ended then
      run.task = nil
      if run.aborted == "released" and not run.finished then
        run:finish(outcome.released(run.job))
      elseif run.aborted or run.finished then
        run:finish(nil)
      else
        run:finish(failed(run, nebula.error { kind = "cancelled", message = "the handler cancelled its own task" }))
      end
    end
    worker:slot_freed()
  end,
}

--- The body of a runner's task: takes one run of the batch after the other, and first starts helpers
--- (two, which start two each), which find something to do only where handlers wait.
---@param worker nebula.Worker
---@param batch table
function Run.runner(worker, batch)
  local task = nebula.task.current()
  local guard <close> = setmetatable({ worker = worker }, GUARD)
  local runs = batch.runs
  for _ = 1, 2 do
    if batch.next < #runs then worker:start_runner(batch) end
  end
  while true do
    local now = monotonic()
    if now - batch.turned > TURN_AFTER then -- it may be due to become leases, or to be given up
      nebula.task.sleep(0)
      now = monotonic()
      batch.turned = now
    end
    local i = batch.next
    local run = runs[i]
    if not run or worker.stop_at and now >= worker.stop_at then break end -- what has not begun goes back
    batch.next = i + 1
    if not run.ended then -- else it was given back before it began
      guard.run = run
      run:execute(task, now)
    end
  end
end

--- Ends the run from outside: "fenced" (somebody else has the job), "cancelled" (somebody cancelled it: that
--- stands in its row) or "released" (it goes back).
---@param why "fenced"|"cancelled"|"released"
function Run:abort(why)
  if self.ended then return end
  self.aborted = why
  local count = why == "fenced" and "lost" or why
  local counts = self.worker.counts
  if counts[count] then counts[count] = counts[count] + 1 end
  if self.task then
    self.task:cancel()
  else
    self:finish(why == "released" and outcome.released(self.job) or nil)
  end
end

--- Waits until the job is held by a lease instead of the session's row lock.
function Run:become_leased()
  if self.leased then return end
  local batch = self.batch
  if batch then
    batch.wants_lease = true
    self.worker.wants_lease[self.name or ""] = true
    batch.signal:notify()
    self.lease_signal = self.lease_signal or Signal.new()
    self.lease_signal:wait()
    self.lease_signal:notify() -- another task of this handler may wait as well
  end
  if not self.leased then
    self.lost = true
    raise("fenced", "the claim of job %s has ended", self.job.id)
  end
end

--- The session made it a lease; or lost it, where `leased` is false.
---@param leased boolean
---@param claimed? boolean by the claim itself: the job's token is the lease's
function Run:promoted(leased, claimed)
  self.leased, self.batch = leased, nil
  if leased then
    self.job.token, self.job.worker = self.job.token + (claimed and 0 or 1), self.worker.id
    self.worker.keeper:hold(self)
    if self.ended then self.worker.keeper:ended(self) end -- while the lease was being written
  end
  if self.lease_signal then self.lease_signal:notify() end
end

return Run
