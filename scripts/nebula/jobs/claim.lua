-- jobs/claim.lua: claiming by lease, and what a holder may do with its claims. Methods of a Storage.
--
-- A claim is `running` with the worker, a token that grows with each claim, and the end of its lease
-- by the server's clock. Whatever ends it names the token: under an older one nothing is changed and
-- `fenced` is raised.
local check = require "nebula.check"
local laned = require "nebula.jobs.laned"
local nebula = require "nebula"
local news = require "nebula.jobs.news"
local outcome = require "nebula.jobs.outcome"
local pause = require "nebula.jobs.pause"
local raise = require "nebula.raise"
local renew = require "nebula.jobs.renew"
local settle = require "nebula.jobs.settle"

local claim = {}

local WORKERS = "6ecd2b0f-6009-5a60-a575-ee6236849e14" -- the namespace of worker names
local DEFAULT_LEASE = 30 -- seconds
local MOST = 10000

-- The picked rows are found again by ctid: they are locked, so it cannot change.
local CLAIM = [[
  WITH picked AS MATERIALIZED (
    SELECT ctid AS at
    FROM workflow_jobs
    WHERE status = 'pending'
    AND scheduled_at <= now()
    AND %s
    ORDER BY %s
    LIMIT $3
    FOR UPDATE SKIP LOCKED
  ), claimed AS (
    UPDATE workflow_jobs
    SET status = 'running', locked_by = $1, locked_at = clock_timestamp(),
      lease_until = clock_timestamp() + make_interval(secs => $2), started_at = now(), token = token + 1,
      unique_key = CASE WHEN unique_while = 'pending' THEN NULL ELSE unique_key END
    WHERE ctid = ANY (ARRAY (SELECT at FROM picked))
    RETURNING *
  )
  SELECT * FROM claimed ORDER BY %s
]]

---@class nebula.Job
---@field id string
---@field token integer fencing token of this claim
---@field worker string UUID of the claimant
---@field workflow_id string
---@field execution_id string
---@field priority integer
---@field scheduled_at string
---@field retry_count integer failures so far
---@field max_retries integer
---@field payload table with the name of its `handler`
---@field lane? string

--- A worker's UUID: the id itself, or a name hashed to one.
---@param worker string
---@return string uuid
function claim.worker_uuid(_, worker)
  if check.is_uuid(worker) then return worker:lower() end
  return nebula.crypto.uuid_v5(WORKERS, check.text("worker_id", worker))
end

-- One cursor over the lanes for each storage object, so that its claims come to all of them.
local function claim_by_lanes(self, worker, lease, plan)
  local cursor = rawget(self, "lanes_cursor")
  if not cursor then
    cursor = { after = "" }
    rawset(self, "lanes_cursor", cursor)
  end
  local taker = laned.new { worker = worker, lease = lease, policy = function() return self:policy() end, leases = true,
    cursor = cursor }
  local conn <close> = self.db:acquire()
  local rows
  repeat
    rows = taker:take(conn, { { "BEGIN" }, { laned.PLANNER } }, plan)
  until rows
  return rows
end

--- Claims up to n due jobs for a worker, in the policy's order. Another worker gets them when the
--- lease ends: renew it with heartbeat_jobs.
---@param worker_id string a UUID, or a name
---@param n integer
---@param opts? {lease: number} seconds
---@return nebula.Job[]
function claim.claim_jobs(self, worker_id, n, opts)
  local what = "claim_jobs"
  opts = check.fields(what, opts or {}, { lease = true })
  local worker = claim.worker_uuid(self, worker_id)
  n = check.integer(what .. ": n", n, 1, MOST)
  local lease = self.duration(what .. ": lease", opts.lease, DEFAULT_LEASE)
  local policy = self:policy()
  local plan = policy:plan_or_default(n)
  if not plan then return {} end
  local rows
  if policy:by_lanes(plan) then
    rows = claim_by_lanes(self, worker, lease, plan)
  else
    -- A fresh backlog has no statistics: the planner would sort all of it.
    rows = self.db:batch({ { laned.PLANNER },
      { CLAIM:format(pause.RUNS, plan.order, plan.order), worker, lease, math.min(n, plan.limit) } })[2]
  end
  for _, job in ipairs(rows) do
    job.worker = worker
    self.claims[job.id] = job
  end
  return rows
end

---@param worker_id string
---@param opts? {lease: number}
---@return nebula.Job? job nil where none is due
function claim.claim_job(self, worker_id, opts)
  return claim.claim_jobs(self, worker_id, 1, opts)[1]
end

-- The claim that a caller means: a job as claimed, or the id of this object's own.
local function held(self, what, given)
  if type(given) == "table" and given.token and given.id then
    local worker = given.worker or given.locked_by
    return { id = check.uuid(what, given.id), token = given.token, worker = worker,
      retry_count = given.retry_count, max_retries = given.max_retries, payload = given.payload }
  end
  local id = check.id(what, given)
  local job = self.claims[id]
  if not job then
    raise("fenced", "%s: job %s is not held here: it was claimed elsewhere, or finished; nothing was changed", what, id)
  end
  return job
end

-- Writes the ends of these claims, all or none. Returns the rows by their ids.
local function finish(self, what, entries, db)
  if #entries == 0 then return {} end
  local stood = settle.leased(db or self.db, entries, true)
  local missing = {}
  for _, entry in ipairs(entries) do
    if not stood[entry.job.id] then missing[#missing + 1] = entry.job.id end
  end
  if #missing > 0 then
    for _, id in ipairs(missing) do self.claims[id] = nil end
    error(nebula.error {
      kind = "fenced", source = "database",
      message = ("%s: the claim of job %s has ended (its lease ran out, or it was cancelled); nothing was changed%s")
        :format(what, missing[1], #missing > 1 and (" (%d of %d)"):format(#missing, #entries) or ""),
      detail = #missing > 1 and table.concat(missing, "\n") or nil,
    }, 0)
  end
  for _, entry in ipairs(entries) do self.claims[entry.job.id] = nil end
  return stood
end

--- Completes claimed jobs, all or none. Each is a job as claimed (its `result` field is kept as the
--- job's result), or the id of a claim of this storage object.
--- Raises `fenced` where a claim has ended, and then changes nothing.
---@param list (nebula.Job|string)[]
---@param db? nebula.pg.Transaction the caller's transaction
---@return integer count
function claim.complete_jobs(self, list, db)
  local entries = {}
  for i, given in ipairs(list) do
    entries[i] = {
      job = held(self, "complete_jobs", given),
      outcome = outcome.completed(type(given) == "table" and given.result or nil),
    }
  end
  finish(self, "complete_jobs", entries, db)
  return #entries
end

---@param job nebula.Job|string
---@param result? any what jsonb can hold
---@param db? nebula.pg.Transaction the caller's transaction
function claim.complete_job(self, job, result, db)
  finish(self, "complete_job", { { job = held(self, "complete_job", job), outcome = outcome.completed(result) } }, db)
end

--- Fails a claimed job: it comes again, or is dead, as the policy says.
--- Raises `fenced`.
---@param job nebula.Job|string
---@param failure string|table a message, or an error object
---@return {status: "pending"|"dead", delay?: number}
function claim.fail_job(self, job, failure)
  local claimed = held(self, "fail_job", job)
  if claimed.retry_count == nil then
    local row = self.db:one("SELECT retry_count, max_retries, payload FROM workflow_jobs WHERE id = $1", claimed.id)
      or {}
    for name, value in pairs(row) do claimed[name] = value end
  end
  local made = outcome.failed(self:policy(), claimed, failure == nil and "no reason given" or failure, claimed.worker)
  finish(self, "fail_job", { { job = claimed, outcome = made } })
  return { status = made.status, delay = made.delay }
end

--- Gives claimed jobs back, due as before; no attempt is counted.
--- Raises `fenced`.
---@param list (nebula.Job|string)[]
---@return integer count
function claim.release_jobs(self, list)
  local entries = {}
  for i, job in ipairs(list) do entries[i] = { job = held(self, "release_jobs", job), outcome = outcome.released() } end
  local since = {}
  for _, row in pairs(finish(self, "release_jobs", entries)) do news.add(since, row.priority, row.scheduled_at) end
  if #entries > 0 then self:wake(since) end
  return #entries
end

--- Gives a claimed job back, to come again later. Not a failure.
--- Raises `fenced`.
---@param job nebula.Job|string
---@param delay number|string
function claim.snooze_job(self, job, delay)
  local seconds = self.duration("snooze_job: delay", delay, 0)
  finish(self, "snooze_job", { { job = held(self, "snooze_job", job), outcome = outcome.snoozed(seconds) } })
end

--- Renews the leases of claimed jobs, and stores the `progress` field of those that have one.
---@param list (nebula.Job|string)[]
---@param opts? {lease: number} seconds
---@return string[] lost the ids whose claim has ended
function claim.heartbeat_jobs(self, list, opts)
  local what = "heartbeat_jobs"
  if #list == 0 then return {} end
  opts = check.fields(what, opts or {}, { lease = true })
  local ids, tokens, workers, progress = {}, {}, {}, {}
  for i, given in ipairs(list) do
    local job = held(self, what, given)
    ids[i], tokens[i], workers[i] = job.id, job.token, job.worker
    progress[i] = type(given) == "table" and given.progress or nebula.null
  end
  local kept = {}
  for _, row in ipairs(self.db:query(renew.sql "$5", ids, tokens, workers, progress,
    self.duration(what .. ": lease", opts.lease, DEFAULT_LEASE))) do
    kept[row.id] = true
  end
  local lost = {}
  for _, id in ipairs(ids) do
    if not kept[id] then
      lost[#lost + 1] = id
      self.claims[id] = nil
    end
  end
  return lost
end

return claim
