-- worker/session.lua: one claim connection of a worker.
--
-- A claim begins as a row lock: a transaction selects due jobs FOR UPDATE SKIP LOCKED, the handlers
-- run, one UPDATE finishes the batch, and its COMMIT AND CHAIN begins the next claim. What is not
-- done after LEASE_AFTER, or takes more than three times as long as half of its batch, becomes a lease, in the
-- same statement run. So a short job costs one row version, no slot waits for the longest job of a
-- batch, a dead worker's short jobs are free at once, and a stopped process loses its locks by
-- idle_in_transaction_session_timeout.
local nebula = require "nebula"
local news = require "nebula.jobs.news"
local claim = require "nebula.worker.claim"
local laned = require "nebula.jobs.laned"
local leased_batch = require "nebula.worker.leased"
local outcome = require "nebula.jobs.outcome"
local pause = require "nebula.jobs.pause"
local Run = require "nebula.worker.runner"
local settle = require "nebula.jobs.settle"
local Signal = require "nebula.worker.signal"

local try, monotonic = nebula.try, nebula.time.monotonic

---@class nebula.Session
---@field batch? table {runs, next, left, half, half_at, since, signal, wants_lease}
local Session = {}
Session.__index = Session

local LEASE_AFTER = 0.2 -- seconds
local MIXED = 0.01 -- the least that a batch waits for jobs that take longer than half of it
local SHORT, LONG = 0.025, 0.1 -- a batch within SHORT grows, beyond LONG shrinks
local FIRST_BATCH = 32
local FIRST_WAIT = 0.01 -- of an empty queue, doubled up to `poll`
local RETRY_SECONDS, LONGEST_RETRY = 0.2, 5 -- of a connection that was lost, or whose claims fail
local SUSPECT_SECONDS = 1 -- between two looks for suspects
local HELD_BACK_SECONDS = 5 -- where those that there are may not run now
local LOST_LATE = 2 * LEASE_AFTER -- a batch lost after this computed while it should have become leases

local ANY_SUSPECT = ([[
  SELECT EXISTS (SELECT FROM workflow_jobs WHERE status = 'pending' AND suspect AND scheduled_at <= now() AND %s)
]]):format(pause.RUNS)

-- A job of a batch whose transaction was rolled back, if nobody has it now.
local STILL_PENDING = [[
  SELECT ctid::text AS at
  FROM workflow_jobs
  WHERE id = $1
  AND status = 'pending'
  AND token = $2
  FOR UPDATE SKIP LOCKED
]]

local CLAIM_SUSPECT = claim.sql("scheduled_at", "suspect AND " .. pause.RUNS)

local function lanes_of(worker, suspects)
  return laned.new {
    worker = worker.id, lease = worker.settings.lease, policy = function() return worker.policy end,
    where = claim.mine(worker), suspects = suspects, turn = worker.turn, kept = worker.kept_lanes,
    unnoted = function(lane) return worker.lanes:unnoted(lane) end,
  }
end

---@param worker nebula.Worker
---@param index integer
---@return nebula.Session
function Session.new(worker, index)
  return setmetatable({
    worker = worker, index = index, size = FIRST_BATCH, signal = Signal.new(), idle_wait = FIRST_WAIT,
    suspects_at = 0, singles = 0, looked = 0, row_locks = claim.row_locks(worker),
    by_lanes = lanes_of(worker), suspects = lanes_of(worker, true),
  }, Session)
end

-- ---- claiming ----

-- How the plan's jobs are taken.
local function strategy(self, plan)
  return self.worker.policy:by_lanes(plan) and self.by_lanes or self.row_locks
end

-- How many jobs the next claim takes: what is free, and where batches are over in no time, more.
function Session:wanted()
  local worker = self.worker
  if worker.stopping or worker.paused or worker.halted then return 0 end
  local free = worker:free()
  if free <= 0 then return 0 end
  if self.singles > 0 then
    self.singles = self.singles - 1
    return 1
  end
  local most = worker.settings.batch
  if worker.slow > 0.5 or self.leases then return math.min(free, most) end
  return math.min(math.max(self.size, free), most)
end

local function new_batch(self, rows, leased)
  local worker = self.worker
  local runs, ids = {}, {}
  local now = monotonic()
  local batch = { runs = runs, next = 1, left = #rows, half = #rows // 2, half_at = nil, since = now, turned = now,
    signal = self.signal, leased = leased }
  for i, job in ipairs(rows) do
    runs[i], ids[i] = Run.new(worker, batch, job), job.id
    if job.unique_while or worker.wants_lease[runs[i].name or ""] then batch.wants_lease = true end
  end
  worker.counts.claimed = worker.counts.claimed + #rows
  worker.flight:write(self.index, leased and {} or ids) -- leases are trace enough
  return batch
end

-- ---- finishing ----

local function tids(list) return '{"' .. table.concat(list, '","') .. '"}' end

-- Sorts a batch's runs by what is to be written. What has not started by now never will, unless all
-- are leased: its lock ends with the transaction.
local function sort_out(batch, all)
  local done, results, others, running, plain = {}, {}, {}, {}, true
  batch.started = all and #batch.runs or batch.next - 1
  if not all then batch.next = #batch.runs + 1 end
  for i = 1, batch.started do
    local run = batch.runs[i]
    local made = run.outcome
    if not run.ended then
      running[#running + 1] = run
    elseif made and made.status == "completed" then
      done[#done + 1] = run.job.at
      results[#done] = made.result or nebula.null
      plain = plain and not made.result
    elseif made then
      others[#others + 1] = run
    end
  end
  return done, results, others, running, plain
end

-- The statements that write what has ended and lease what runs, inside the open transaction.
local function settlement(worker, batch, all)
  local done, results, others, running, plain = sort_out(batch, all)
  local list = {}
  if #done > 0 and plain then
    list[1] = { settle.COMPLETE_LOCKED_PLAIN, worker.id, tids(done) }
  elseif #done > 0 then
    list[1] = { settle.COMPLETE_LOCKED, worker.id, tids(done), results }
  end
  if #others > 0 then
    local at, outcomes = {}, {}
    for i, run in ipairs(others) do at[i], outcomes[i] = run.job.at, run.outcome end
    batch.others = true
    list[#list + 1] = { settle.OTHER_LOCKED, tids(at), settle.columns(outcomes) }
  end
  if #running > 0 then
    local at = {}
    for i, run in ipairs(running) do at[i] = run.job.at end
    list[#list + 1] = { settle.LEASE_LOCKED, worker.id, worker.settings.lease, tids(at) }
  end
  return list, running
end

-- The batch's transaction is gone, and its locks with it. Where handlers computed until the server ended
-- it, they begin under a lease from now on: nothing else would let them ever complete.
local function lose(self, batch)
  if batch.leased then return leased_batch.hand_over(batch) end
  batch.next = #batch.runs + 1
  self.by_lanes:forget()
  local late = monotonic() - batch.since > LOST_LATE
  for _, run in ipairs(batch.runs) do
    if late and run.started then self.worker.wants_lease[run.name or ""] = true end
    if not run.ended and run.batch then
      run:promoted(false)
      run:abort "fenced"
    end
  end
end

-- What one of the batch made the server refuse the whole of it: each is written alone, and the one
-- that cannot be is failed with what the server said.
local function salvage(self, batch, why)
  local conn, worker = self.conn, self.worker
  local _ <close> = setmetatable({}, { __close = function() lose(self, batch) end })
  conn:exec "ROLLBACK"
  for i = 1, batch.started do
    local run = batch.runs[i]
    if run.ended and run.outcome then
      conn:exec "BEGIN"
      local row = conn:one(STILL_PENDING, run.job.id, run.job.token)
      if row then
        run.job.at = row.at
        local one = { runs = { run }, next = 2 }
        local _, err = try(claim.send, conn, settlement(worker, one))
        if err then
          conn:exec "ROLLBACK; BEGIN"
          run.outcome = outcome.failed(worker.policy, run.job, err, worker.id)
          conn:one("SELECT FROM workflow_jobs WHERE id = $1 FOR UPDATE", run.job.id)
          claim.send(conn, settlement(worker, one))
        end
      end
      conn:exec "COMMIT"
    end
  end
  worker.log.warn("a batch was written job by job", { error = why.message })
end

-- One of the claimed rows is beyond what can be read (a payload nested too deep, too large). Jobs are
-- claimed one by one for a while, until it stands alone: then it is failed.
local function unreadable(self, plan, err)
  local conn, worker = self.conn, self.worker
  if plan.limit > 1 then
    self.singles = plan.limit
  else
    local job = conn:one(self.row_locks:sql(plan, true), 1)
    if job and try(conn.query, conn, "SELECT payload FROM workflow_jobs WHERE ctid = $1::tid", job.at) == nil then
      local made = outcome.failed(worker.policy, job, err, worker.id)
      worker.log.warn("job cannot be read", { job = job.id, error = err.message, retry_in = made.delay })
      conn:exec(settle.OTHER_LOCKED, tids { job.at }, settle.columns { made })
    end
  end
  conn:exec "COMMIT"
end

-- Sends what settles a batch, and what claims the next one, in one round trip. Returns the rows and
-- whether they are leases; where the plan's claim or the settlement failed, nil, nil and its error.
local function send(self, statements, plan)
  local taken, err = try(function()
    if not plan then return { claim.send(self.conn, statements) } end
    return { strategy(self, plan):take(self.conn, statements, plan) }
  end)
  if err then return nil, nil, err end
  return taken[1], taken[2]
end

-- Writes what has ended of a batch under leases. What the server refuses is the keeper's.
local function write_leased(self, batch)
  local rest, err = try(leased_batch.write, self.worker, self.conn, batch)
  if not err then return rest end
  if not settle.is_refusal(err) then error(err, 0) end
  leased_batch.hand_over(batch)
  return {}
end

-- Ends the batch's transaction, and claims the next batch in the one that follows it. Returns the rows,
-- none where nothing is to be taken now, or nil: look again. Then whether the rows are leases.
local function exchange(self, n)
  local batch, worker = self.batch, self.worker
  if n > 0 then worker:look_at_policy() end
  local plan = n > 0 and worker.policy:plan_or_default(n) or nil
  if not plan and not batch then return {} end
  local statements, running = {}, {}
  local locked, leases = batch and not batch.leased, batch and batch.leased
  if leases then
    running = write_leased(self, batch)
  elseif locked then
    statements, running = settlement(worker, batch, batch.lease_all)
    if batch.started < #batch.runs then self.by_lanes:forget() end
  end
  statements[#statements + 1] = { not locked and "BEGIN" or plan and "COMMIT AND CHAIN" or "COMMIT" }
  local settled = #statements
  if plan and worker.pooled then
    for _, setting in ipairs(claim.session(worker.settings.lease, true)) do statements[#statements + 1] = setting end
  end
  self.claiming = plan ~= nil
  if plan then self.looked = worker.pushes end
  local began, rows, leased, err = monotonic(), nil, nil, nil
  if plan or locked then rows, leased, err = send(self, statements, plan) end
  if err and (not plan or (err.index or 0) <= settled) then
    if not locked or not settle.is_refusal(err) then error(err, 0) end
    self.batch, self.claiming = nil, false
    salvage(self, batch, err)
    return nil
  end
  self.batch = nil
  if batch and batch.others and monotonic() - began > news.SLOW then worker.storage:wake(news.ALL) end
  for _, run in ipairs(running) do run:promoted(true, leases) end
  if not plan then return n > 0 and {} or nil end
  if err then
    if err.kind ~= "limit" then error(err, 0) end
    unreadable(self, plan, err)
  end
  self.claiming = false
  return rows, leased
end

-- ---- the loop ----

-- Until all of it has ended, or what runs is to become leases.
local function wait_for_batch(batch)
  local until_time = batch.since + LEASE_AFTER
  while batch.left > 0 and not batch.wants_lease do
    local half_at = batch.half_at
    if half_at then until_time = math.min(until_time, math.max(batch.since + MIXED, 3 * half_at - 2 * batch.since)) end
    local rest = until_time - monotonic()
    if rest <= 0 then return end
    batch.signal:wait(rest)
  end
end

-- Grows and shrinks the batch by how long this one took.
local function adapt(self, batch, asked)
  local elapsed = monotonic() - batch.since
  local worker = self.worker
  if batch.left > 0 then
    worker.slow = worker.slow * 0.8 + 0.2 * batch.left / #batch.runs
  else
    worker.slow = worker.slow * 0.8
  end
  if elapsed < SHORT and #batch.runs >= asked then
    self.size = math.min(self.size * 2, worker.settings.batch)
  elseif elapsed > LONG then
    self.size = math.max(self.size // 2, 1)
  end
end

-- Leases all of the batch before anything of it runs, where the claim has not.
local function lease_first(self, batch)
  if batch.leased then
    self.batch = nil
    return leased_batch.hand_over(batch)
  end
  batch.lease_all = true
  exchange(self, 0)
end

local function run_batch(self, rows, asked, leased)
  local worker = self.worker
  local batch = new_batch(self, rows, leased)
  self.batch = batch
  if #rows == asked and #worker.sessions > 1 then worker.more:notify() end
  self.leases = batch.wants_lease -- then no more are taken than can run: what waits would be lost with the process
  if batch.wants_lease or worker.slow > 0.5 then
    lease_first(self, batch)
    worker:start_runner(batch)
    return
  end
  worker:start_runner(batch)
  wait_for_batch(batch)
  adapt(self, batch, asked)
end

-- Nothing is due: waits for a push, or until it is time to look again.
local function idle(self)
  local worker = self.worker
  worker.flight:write(self.index, {})
  self.resting = true
  if worker:ended(self.looked) then return end
  if self.index > 1 then
    worker.more:wait(worker.settings.poll)
  elseif worker.pushed:wait(self.idle_wait) then
    self.idle_wait = FIRST_WAIT
  else
    self.idle_wait = math.min(self.idle_wait * 2, worker.settings.poll)
  end
  self.resting = false
end

-- One suspect, if there is one to take; under the limits of its lane. Then whether it is leased.
local function claim_suspect(self)
  local conn, policy = self.conn, self.worker.policy
  if not policy:by_lanes() then
    conn:exec "BEGIN"
    local rows = conn:query(CLAIM_SUSPECT, 1)
    if #rows == 0 then conn:exec "COMMIT" end
    return rows
  end
  local plan = policy:plan_or_default(1)
  local rows = plan and self.suspects:take(conn, { { "BEGIN" } }, plan) or {}
  if #rows == 0 then self.suspects_at = monotonic() + HELD_BACK_SECONDS end
  return rows, true
end

-- Jobs that ran when their process died: one at a time, under a lease, with nothing else at risk.
local function work_suspects(self)
  local worker = self.worker
  worker.paused = true
  local _ <close> = setmetatable({}, { __close = function()
    worker.paused = false
    worker.more:notify()
    worker.freed:notify()
  end })
  while worker:has_batch() do worker.freed:wait(LEASE_AFTER) end
  while not worker.stopping do
    local rows, leased = claim_suspect(self)
    if #rows == 0 then return end
    rows[1].suspect = true
    local batch = new_batch(self, rows, leased)
    self.batch = batch
    batch.runs[1].ended_signal = self.signal
    lease_first(self, batch)
    worker:start_runner(batch)
    while worker.leased[rows[1].id] and not worker.stopping do self.signal:wait(LEASE_AFTER) end
    worker.flight:write(self.index, {})
  end
end

local function look_for_suspects(self)
  local now = monotonic()
  if self.index > 1 or now < self.suspects_at then return end
  self.suspects_at = now + SUSPECT_SECONDS
  if self.conn:value(ANY_SUSPECT) then work_suspects(self) end
end

-- Claims and works on one connection, until the worker stops or the connection is lost.
local function serve(self)
  local worker = self.worker
  local conn <close> = worker.db:acquire()
  self.conn = conn
  if not worker.pooled then conn:batch(claim.session(worker.settings.lease, false), { transaction = false }) end
  self.begun = true
  while true do
    if not self.batch then look_for_suspects(self) end
    local n = self:wanted()
    local held = self.batch ~= nil
    if n == 0 and not held then
      if worker.stopping then return worker:wake() end
      if worker.halted then
        idle(self)
      else
        worker.freed:wait(worker.settings.poll)
      end
    else
      local rows, leased = exchange(self, n)
      self.answered = true
      if rows and #rows > 0 then
        self.idle_wait = FIRST_WAIT
        run_batch(self, rows, n, leased)
      elseif rows then
        idle(self)
      end
    end
  end
end

--- Works until the worker stops; a lost connection is opened again.
function Session:run()
  local wait = RETRY_SECONDS
  while true do
    self.answered, self.resting = false, false
    local _, err = try(serve, self)
    if self.batch then
      lose(self, self.batch)
      self.batch = nil
    end
    self.claiming = false
    if not err then return end
    self.worker.log.warn("a claim connection failed", { error = err.message or tostring(err), retry_in = wait })
    if self.worker.stopping then return end
    wait = self.answered and RETRY_SECONDS or math.min(wait * 2, LONGEST_RETRY)
    nebula.task.sleep(wait)
  end
end

return Session
