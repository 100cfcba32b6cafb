-- worker/presence.lua: what a worker and the rest of the system tell each other once a second, in one
-- statement: its row in job_workers (who runs where, and how much), what is paused, which of its jobs were
-- cancelled, and what time it is.
local nebula = require "nebula"
local system = require "nebula.system"

---@class nebula.Presence
local Presence = {}
Presence.__index = Presence

local LOOK_SECONDS = 1
local RATE_SECONDS = 10
local TIDY_SECONDS, TIDY_BATCH = 60, 1000
local GONE_AFTER = "1 day" -- rows of workers that did not end in order are kept for so long

-- $1: the worker, $2: host, $3: pid, $4: its state, $5: the jobs that it runs under a lease.
local LOOK = [[
  WITH seen AS (
    INSERT INTO job_workers AS w (id, host, pid, state)
    VALUES ($1, $2, $3, $4)
    ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp(), state = excluded.state
  )
  SELECT
    extract(epoch FROM clock_timestamp())::float8 AS now,
    EXISTS (SELECT FROM job_pauses WHERE lane = '') AS halted,
    EXISTS (SELECT FROM job_pauses WHERE lane <> '') AS lanes_paused,
    ARRAY(SELECT id FROM workflow_jobs WHERE id = ANY ($5::uuid[]) AND status = 'cancelled') AS cancelled
]]

---@param worker nebula.Worker
---@return nebula.Presence
function Presence.new(worker)
  return setmetatable({ worker = worker, host = system.hostname(), pid = system.ids().pid, samples = {} },
    Presence)
end

-- Jobs a second that ended in the last RATE_SECONDS.
local function rate(self)
  local counts = self.worker.counts
  local now, ended = nebula.time.monotonic(), counts.completed + counts.failed + counts.dead
  local samples = self.samples
  samples[#samples + 1] = { at = now, ended = ended }
  while #samples > 2 and now - samples[2].at >= RATE_SECONDS do table.remove(samples, 1) end
  local first = samples[1]
  return now > first.at and (ended - first.ended) / (now - first.at) or 0
end

-- What others see of the worker.
local function state_of(self)
  local worker, leased = self.worker, 0
  for _ in pairs(worker.leased) do leased = leased + 1 end
  local state = {
    rate = rate(self), concurrency = worker.concurrency, running = worker.running, leased = leased,
    stopping = worker.stopping or false, policy = worker.policy.name, policy_version = worker.policy.version,
    memory = collectgarbage "count" * 1024 // 1, lag = worker.marks.lag,
  }
  for name, count in pairs(worker.counts) do state[name] = count end
  return state
end

--- Tells and looks once.
function Presence:look()
  local worker = self.worker
  local ids = {}
  for id in pairs(worker.leased) do ids[#ids + 1] = id end
  -- In a task of its own: one that is cancelled leaves its statement to the server, which may tell of
  -- the worker once more when it is gone.
  self.telling = nebula.task.spawn(worker.db.one, worker.db, LOOK, worker.id, self.host, self.pid, state_of(self), ids)
  local found = self.telling:join()
  worker.epoch = found.now - nebula.time.monotonic()
  if found.halted ~= worker.halted then
    worker.log.info(found.halted and "the queue is paused" or "the queue goes on")
  end
  local resumed = worker.halted and not found.halted or worker.lanes_paused and not found.lanes_paused
  worker.halted, worker.lanes_paused = found.halted, found.lanes_paused
  if resumed then worker:wake() end
  for _, id in ipairs(found.cancelled) do
    local run = worker.leased[id]
    if run and not run.finished and not run.ended then
      worker.log.info("job was cancelled", { job = id, handler = run.name })
      run:abort "cancelled"
    end
  end
end

-- Removes what nobody asks for any more: rows of workers that did not end in order, keys held no longer.
local function tidy(db)
  db:exec("DELETE FROM job_workers WHERE seen_at < now() - interval '" .. GONE_AFTER .. "'")
  repeat
    local count = db:exec([[
      DELETE FROM job_keys
      WHERE key IN (SELECT key FROM job_keys WHERE held_until <= now() LIMIT $1 FOR UPDATE SKIP LOCKED)
    ]], TIDY_BATCH)
  until count < TIDY_BATCH
end

--- Body of a task: looks each second, and tidies up now and then. While the database is away, what was
--- known holds.
function Presence:follow()
  local worker, tidy_at = self.worker, 0
  while true do
    local now = nebula.time.monotonic()
    local err
    if now >= tidy_at then
      tidy_at = now + TIDY_SECONDS
      err = select(2, nebula.try(tidy, worker.db))
    end
    nebula.task.sleep(LOOK_SECONDS)
    err = select(2, nebula.try(self.look, self)) or err
    if err then worker.log.debug("the worker could not be announced", { error = err.message or tostring(err) }) end
  end
end

function Presence:close()
  if self.telling then nebula.try(self.telling.join, self.telling) end
  nebula.try(self.worker.db.exec, self.worker.db, "DELETE FROM job_workers WHERE id = $1", self.worker.id)
end

Presence.__close = Presence.close

return Presence
