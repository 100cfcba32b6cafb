-- jobs/rescue.lua: jobs whose worker has vanished, given back to the queue or ended as the policy's
-- rescue says. Workers do it as they go; the task rescue-stuck, where none runs.
--
-- Which ones, is `{where=, why=, alone=}`: SQL with its parameters, what is noted as their failure,
-- and whether what comes back runs alone from now on.
local news = require "nebula.jobs.news"
local outcome = require "nebula.jobs.outcome"
local settle = require "nebula.jobs.settle"

local rescue = {}

local BATCH = 100

--- Those whose lease has run out.
rescue.EXPIRED = {
  where = "status = 'running' AND lease_until < now()", why = "its worker vanished: the lease ran out",
}

--- Those that another engine runs, which knows no lease, taken more than $1 seconds ago.
rescue.UNLEASED = {
  where = [[status = 'running' AND lease_until IS NULL
    AND coalesce(locked_at, scheduled_at) < now() - make_interval(secs => $1)]],
  why = "it ran for too long without a lease",
}

-- `beside`: its process ran a suspect when it vanished, which is to blame alone.
local ROWS = [[
  SELECT ctid::text AS at, id, workflow_id, execution_id, priority, retry_count, max_retries, lane, payload, failures,
    locked_by, suspect, status = 'running' AND NOT suspect AND EXISTS (
      SELECT FROM workflow_jobs s
      WHERE s.status = 'running' AND s.lease_until IS NOT NULL AND s.suspect AND s.locked_by = workflow_jobs.locked_by
    ) AS beside
  FROM workflow_jobs
  WHERE %s
  LIMIT %d
  FOR UPDATE SKIP LOCKED
]]

--- How many there are.
---@param db nebula.pg.queries
---@param which {where: string}
---@param ... any the parameters of `where`
---@return integer
function rescue.count(db, which, ...)
  return db:value("SELECT count(*) FROM workflow_jobs WHERE " .. which.where, ...)
end

--- Rescues a batch of them. Returns how many there were, and how many of them have ended for good.
---@param storage nebula.Storage
---@param policy nebula.Policy
---@param which {where: string, why: string, alone?: boolean}
---@param ... any the parameters of `where`
---@return integer rescued, integer dead
function rescue.batch(storage, policy, which, ...)
  local args = table.pack(...)
  return storage.db:transaction(function(tx)
    local rows = tx:query(ROWS:format(which.where, BATCH), table.unpack(args, 1, args.n))
    if #rows == 0 then return 0, 0 end
    local at, outcomes, dead = {}, {}, 0
    for i, job in ipairs(rows) do
      at[i] = job.at
      local made = job.beside and outcome.released(job) or outcome.lost(policy, job, which.why, job.locked_by)
      if which.alone then made.suspect = made.status == "pending" end
      if made.status == "dead" then dead = dead + 1 end
      outcomes[i] = made
    end
    tx:exec(settle.OTHER_LOCKED, '{"' .. table.concat(at, '","') .. '"}', settle.columns(outcomes))
    return #rows, dead
  end)
end

--- Rescues all of them, and tells the workers.
---@param storage nebula.Storage
---@param policy nebula.Policy
---@param which {where: string, why: string, alone?: boolean}
---@param ... any
---@return integer rescued
function rescue.all(storage, policy, which, ...)
  local total = 0
  repeat
    local count = rescue.batch(storage, policy, which, ...)
    total = total + count
  until count < BATCH
  if total > 0 then storage:wake(news.ALL) end
  return total
end

return rescue
