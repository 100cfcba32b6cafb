-- worker.lua: works the queue: claims jobs, runs their Lua handlers as tasks, and finishes them.
--
-- The parts, each with what it shares through the Worker:
--
--   session    a claim connection: row locks first, leases for what takes longer
--   claim      how a session takes jobs
--   watermark  where in the queue it begins to look
--   runner     runs one job: handler, context, deadline, outcome
--   lanes      what jobs used of their lanes; lanes of jobs that have none
--   keeper     leases: heartbeats, the end of leased jobs, rescue of vanished workers' jobs
--   flight     the file that tells the next start what ran when this process died
--   handlers   handler files by name
--   exposed    metrics and health over HTTP
--   presence   this worker's row for others to see; what is paused and cancelled
--
-- Slots bound how many handlers run at once; sessions and runners wait for one another through
-- signals, so that nothing polls but the idle claim itself.
local check = require "nebula.check"
local claim = require "nebula.worker.claim"
local config = require "nebula.config"
local nebula = require "nebula"
local news = require "nebula.jobs.news"
local options = require "nebula.options"
local periodic = require "nebula.periodic"
local published = require "nebula.policy.published"
local exposed = require "nebula.worker.exposed"
local Flight = require "nebula.worker.flight"
local Handlers = require "nebula.worker.handlers"
local Keeper = require "nebula.worker.keeper"
local Lanes = require "nebula.worker.lanes"
local Presence = require "nebula.worker.presence"
local Run = require "nebula.worker.runner"
local Session = require "nebula.worker.session"
local Signal = require "nebula.worker.signal"
local Watermarks = require "nebula.worker.watermark"
local Watched = require "nebula.policy.watched"

local worker = {}

worker.OPTIONS = {
  concurrency = { default = 32, min = 1, max = 100000, help = "handlers that run at once" },
  connections = { default = 2, min = 1, max = 16, help = "connections that claim" },
  lease = { type = "duration", default = "30s", min = 1, help = "how long a claim lasts without a heartbeat" },
  shutdown_timeout = { type = "duration", default = "30s", help = "how long a stop waits for running jobs" },
  poll = { type = "duration", default = "1s", min = 0.001,
    help = "longest wait between two looks into an empty queue" },
  batch = { default = 500, min = 1, max = 10000, help = "most jobs of one claim" },
  handlers = { type = "file", help = "directory of handlers, before the project's and the built-in ones" },
  policy = { help = "a policy's name or file, for this process alone; edits are picked up" },
  metrics = { type = "string", help = "serve /metrics, /healthz and /readyz on [HOST:]PORT (this machine alone)" },
  drain = { default = false, help = "end when no job is due" },
}

local UNWIND_SECONDS = 5 -- for handlers that are ended to give back what they hold

---@class nebula.Worker
---@field id string UUID
---@field policy nebula.Policy in force, once it runs
---@field running integer handlers that run now
---@field leased table<string, table> runs under a lease, by job id
---@field counts table<string, integer> completed, failed, dead, cancelled, lost, claimed
---@field halted boolean the whole queue is paused
---@field lanes_paused boolean some lane is
---@field epoch number the database's clock less this process's monotonic one, as last seen
local Worker = {}
Worker.__index = Worker

--- A worker over a storage. Options as `nebula worker`; `workflow_id` limits it to the jobs of one
--- workflow, `periodic` lists entries as nebula.conf.lua's, `handler` is a function for every job instead
--- of handler files, `finished` says whether an empty queue is the end (with `drain` it always is).
---@param storage nebula.Storage
---@param opts? table
---@return nebula.Worker
function worker.new(storage, opts)
  local given = {}
  for name, value in pairs(opts or {}) do given[name] = value end
  local workflow_id, handler, finished = given.workflow_id, given.handler, given.finished
  local entries = periodic.entries(given.periodic)
  given.workflow_id, given.handler, given.finished, given.periodic = nil, nil, nil, nil
  given = options.coerce(worker.OPTIONS, given, "worker")
  if given.metrics then exposed.address(given.metrics) end
  if workflow_id then check.uuid("worker: workflow_id", workflow_id) end
  local self = setmetatable({
    storage = storage, db = storage.db, id = nebula.crypto.uuid_v7(), settings = given, workflow_id = workflow_id,
    finished = finished or given.drain and function() return true end,
    concurrency = given.concurrency, running = 0, slow = 0, hungry = {}, leased = {}, sessions = {}, wants_lease = {},
    counts = { claimed = 0, completed = 0, failed = 0, dead = 0, cancelled = 0, lost = 0 },
    pooled = storage.pool_options.statement_cache == false, -- behind a pooler in transaction mode
    epoch = nebula.time.now() - nebula.time.monotonic(),
    periodic = entries, halted = false, lanes_paused = false, pushes = 0,
    turn = nebula.task.semaphore(1), kept_lanes = {},
    freed = Signal.new(), pushed = Signal.new(), more = Signal.new(), log = nebula.log,
  }, Worker)
  if given.policy then
    self.watched = Watched.new(given.policy)
    storage:use_policy(self.watched.policy)
  end
  self.handlers = Handlers.new(given.handlers, handler)
  self.marks = Watermarks.new(claim.mine(self), not self.handlers.only)
  return self
end

-- ---- slots ----

--- Handlers that may start now.
---@return integer
function Worker:free() return self.concurrency - self.running end

--- Starts a runner for the batch, or as soon as a slot is free.
---@param batch table
function Worker:start_runner(batch)
  if self:free() > 0 then
    self.running = self.running + 1
    nebula.task.spawn(Run.runner, self, batch)
  elseif not batch.hungry then
    batch.hungry = true
    table.insert(self.hungry, batch)
  end
end

--- A runner has ended: its slot goes to a batch that waits for one, or is free.
function Worker:slot_freed()
  self.running = self.running - 1
  while #self.hungry > 0 do
    local batch = table.remove(self.hungry, 1)
    batch.hungry = false
    if batch.next <= #batch.runs then return self:start_runner(batch) end
  end
  self.freed:notify()
end

--- Whether some session holds a batch under row locks, or may in a moment.
---@return boolean
function Worker:has_batch()
  for _, session in ipairs(self.sessions) do
    if session.batch or session.claiming then return true end
  end
  return false
end

--- Reads what a session needs to know of the database, and raises where it is not ready for us.
local function look(self)
  local ready = self.db:value [[
    SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('idx_jobs_due') AND indisvalid)
  ]]
  if not ready then
    error(nebula.error { kind = "config",
      message = "the database has no job queue of this version: run `nebula migrate up`" }, 0)
  end
end

-- ---- the policy ----

-- Uses a policy from now on: the next claim is its own.
local function adopt(self, policy)
  if policy == self.policy then return end
  self.policy = policy
  policy.clock = function() return self.epoch + nebula.time.monotonic() end -- this machine's may be wrong
  if self.lanes then self.lanes.signal:notify() end
  self.log.info("policy in force",
    { policy = policy.name, version = policy.version, file = self.watched and policy.path })
end

--- Before each claim: an edited file is read again.
function Worker:look_at_policy()
  local fresh = self.watched and self.watched:look()
  if not fresh then return end
  self.storage:use_policy(fresh)
  adopt(self, fresh)
end

-- Body of a task: follows what is published. While the database is away, what was in force is.
local function follow(self)
  while true do
    nebula.task.sleep(published.LOOK_SECONDS)
    local policy = nebula.try(self.storage.policy, self.storage)
    if policy then adopt(self, policy) end
  end
end

--- Ends the wait of one who waits for anything. At the end each who woke wakes the next.
function Worker:wake()
  self.freed:notify()
  self.pushed:notify()
  self.more:notify()
end

--- The queue is empty and nothing runs: is that the end?
---@param looked integer how many pushes of this process there were when it was found empty
---@return boolean
function Worker:ended(looked)
  if not self.finished or looked < self.pushes or self.running > 0 or next(self.leased) then return false end
  for i, session in ipairs(self.sessions) do -- one at work may give jobs back that the others did not see
    if (session.begun or i == 1) and not session.resting then return false end -- the first looks for suspects
  end
  if not self.lanes:settled() or looked < self.pushes or not self.finished() then return false end
  self.stopping = true
  self:wake()
  return true
end

--- Reads handlers and the policy's file again, and takes these periodic entries from now on.
--- Raises `config` where an entry is wrong; then the ones before stay.
---@param entries? table[] as nebula.conf.lua's
function Worker:reload(entries)
  self.periodic = periodic.entries(entries)
  self.handlers:reload()
  self:look_at_policy()
end

--- Jobs are due, as jobs/news.lua says.
---@param what table|string|nil
function Worker:heard(what)
  if what then self.kept_lanes.lanes = nil end -- where they go on, they would pass over what came back
  if what == news.ALL then
    self.marks:hurry()
  else
    for priority, at in pairs(what or {}) do self.marks:lower(priority, at) end
  end
  self.pushes = self.pushes + 1
  self.pushed:notify()
  local first = self.sessions[1] -- it alone waits for pushes
  if first and not first.resting then self.more:notify() end
end

-- Listens for pushes of other processes. Where that is impossible, the polls find them.
local function listen(self)
  if self.pooled then return nil end
  local teller = self.storage.teller
  local listener, err = nebula.try(self.db.listen, self.db, news.CHANNEL, function(payload)
    local what = teller:read(payload)
    if what ~= false then self:heard(what) end
  end, { on_reconnect = function() self:heard(news.ALL) end })
  if err then self.log.warn("pushes of other processes are found by polling alone", { error = err.message }) end
  return listener
end

--- Takes no more jobs, waits for those that run, then gives the rest back: run() returns. At once
--- where called again.
function Worker:stop()
  if self.stopping then
    self.stop_at = 0
  else
    self.stopping = true
    self.stop_at = nebula.time.monotonic() + self.settings.shutdown_timeout
  end
  self:wake()
end

local function in_background(tasks, fn, ...)
  tasks[#tasks + 1] = nebula.task.spawn(fn, ...)
end

-- Waits until leased jobs have ended, or the time to stop has come; then gives back what still runs.
local function finish_leased(self)
  while next(self.leased) do
    if self.stop_at and nebula.time.monotonic() >= self.stop_at then break end
    self.freed:wait(0.1)
  end
  local rest = {}
  for _, run in pairs(self.leased) do rest[#rest + 1] = run end
  for _, run in ipairs(rest) do run:abort "released" end
  local last = nebula.time.monotonic() + UNWIND_SECONDS
  while next(self.leased) and nebula.time.monotonic() < last do
    self.keeper:flush()
    if next(self.leased) then self.freed:wait(0.05) end
  end
end

--- Works until it is stopped (or, with `drain`, until no job is due). Raises where the database
--- cannot be reached at the start; later it waits for it to come back.
---@return {claimed: integer, completed: integer, failed: integer, dead: integer, cancelled: integer, lost: integer}
function Worker:run()
  look(self)
  adopt(self, self.storage:policy())
  local state = config.settings().state
  local flight <close> = Flight.open(self.db, self.id, state and state .. "/run")
  local keeper <close> = Keeper.new(self)
  local presence <close> = Presence.new(self)
  self.flight, self.keeper, self.lanes = flight, keeper, Lanes.new(self)
  presence:look()
  local _ <close> = self.settings.metrics and exposed.serve(self, self.settings.metrics) or nil
  flight:recover(self)
  keeper:sweep() -- also a worker that soon ends has looked once

  local _ <close> = setmetatable({}, { __close = self.storage:on_push(function(what) self:heard(what) end) })
  local _ <close> = listen(self)
  local background = {}
  local _ <close> = setmetatable({}, { __close = function()
    for _, task in ipairs(background) do task:cancel() end
    for _, task in ipairs(background) do nebula.try(task.join, task) end -- they use what closes next
  end })
  in_background(background, follow, self)
  in_background(background, presence.follow, presence)
  in_background(background, periodic.follow, self.storage, function() return self.periodic end, self.log)
  in_background(background, self.keeper.heartbeats, self.keeper)
  in_background(background, self.keeper.settling, self.keeper)
  in_background(background, self.keeper.rescues, self.keeper)
  in_background(background, self.lanes.keeping, self.lanes)
  in_background(background, self.marks.rescans, self.marks, self.db, claim.PLANNER_LOCAL, self.log, function()
    self:heard()
  end)

  nebula.task.scope(function(scope)
    for i = 1, self.settings.connections do
      local session = Session.new(self, i)
      self.sessions[i] = session
      scope:spawn(session.run, session)
    end
  end)
  finish_leased(self)
  self.lanes:flush()
  return self.counts
end

return worker
