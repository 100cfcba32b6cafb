-- jobs/manage.lua: looking after the queue: list, cancel, requeue, counts. Methods of a Storage.
local check = require "nebula.check"
local filter = require "nebula.filter"
local nebula = require "nebula"
local news = require "nebula.jobs.news"
local raise = require "nebula.raise"

local manage = {}

local STATUSES = { "pending", "running", "completed", "failed", "cancelled", "dead" }
local UNIQUE_VIOLATION = "23505"
local ATTEMPTS = 10 -- of a requeue: as many pushes may take a key while it looks
local REQUEUED = { "failed", "cancelled", "dead" }

local FILTERS = {
  id = { column = "id", type = "uuid" },
  status = { column = "status", choices = STATUSES },
  workflow_id = { column = "workflow_id", type = "uuid" },
  execution_id = { column = "execution_id", type = "uuid" },
  lane = { column = "lane" },
  priority = { column = "priority", type = "integer" },
  unique_key = { column = "unique_key" },
  handler = { column = "payload ->> 'handler'" },
  error = { column = "error", kind = "like" },
  ended_before = { column = "coalesce(finished_at, created_at)", kind = "before" },
}

--- A job with all its columns, or nil.
---@param id string
---@return table?
function manage.get_job(self, id)
  return self.reads:one("SELECT * FROM workflow_jobs WHERE id = $1", check.id("get_job", id))
end

--- A page of jobs, the newest ids first; `after` is the last row of the page before, or its id.
--- `error` is a LIKE pattern, `ended_before` a time.
---@param given? table filters: id, status, workflow_id, execution_id, lane, priority, unique_key, handler, error,
---  ended_before; limit, after
---@return table[]
function manage.list_jobs(self, given)
  return filter.page(self.reads, "list_jobs", "workflow_jobs", given, FILTERS)
end

--- Cancels a pending or running job. A worker that runs it ends its handler within about a second, wherever
--- it is: `cancelled` is raised where the handler waits. Whatever it still writes as the job's end is fenced.
---@param id string
---@return boolean cancelled false where it had ended before
function manage.cancel_job(self, id)
  id = check.id("cancel_job", id)
  local changed = self.db:exec([[
    UPDATE workflow_jobs
    SET status = 'cancelled', lease_until = NULL, finished_at = clock_timestamp()
    WHERE id = $1
    AND status IN ('pending', 'running')
  ]], id)
  if changed == 0 and not self.db:value("SELECT true FROM workflow_jobs WHERE id = $1", id) then
    raise("not_found", "cancel_job: there is no job %s", id)
  end
  return changed > 0
end

-- A push of the same unique_key that is committed meanwhile is seen by the next attempt, whose job then stays.
local function requeue(db, sql, args)
  for attempt = 1, ATTEMPTS do
    local rows, err = nebula.try(db.transaction, db, function(tx)
      return tx:query(sql, table.unpack(args, 1, args.n))
    end)
    if rows then return rows end
    if err.code ~= UNIQUE_VIOLATION or attempt == ATTEMPTS then error(err, 0) end
  end
end

--- Puts ended jobs (dead, failed, cancelled) back into the queue, due now, with all their retries.
--- A job whose unique_key is taken by another stays.
---@param given table filters as list_jobs; `status` narrows it, default all three; `limit`
---@param db? nebula.pg.Transaction the caller's transaction
---@return integer count
function manage.requeue_jobs(self, given, db)
  local what = "requeue_jobs"
  given = filter.check(what, given, FILTERS, { "limit" })
  local copy = {}
  for name, value in pairs(given) do copy[name] = value end
  copy.status = copy.status or REQUEUED
  for _, status in ipairs(type(copy.status) == "table" and copy.status or { copy.status }) do
    check.choice(what .. ": status", status, REQUEUED)
  end
  local args = { n = 0 }
  local conditions = filter.conditions(what, copy, FILTERS, args)
  conditions[#conditions + 1] = [[
    (unique_key IS NULL OR NOT EXISTS (
      SELECT FROM workflow_jobs o
      WHERE o.unique_key = workflow_jobs.unique_key AND o.status IN ('pending', 'running')
    ))
  ]]
  local sql = ([[
    WITH changed AS (
      UPDATE workflow_jobs
      SET status = 'pending', retry_count = 0, scheduled_at = clock_timestamp(), suspect = false, locked_by = NULL,
        locked_at = NULL, lease_until = NULL, finished_at = NULL, progress = NULL
      WHERE id IN (
        SELECT DISTINCT ON (coalesce(unique_key, id::text)) id FROM workflow_jobs %s %s
      )
      AND status = ANY ('{failed,cancelled,dead}')
      RETURNING priority, scheduled_at
    )
    SELECT priority, count(*) AS jobs, min(scheduled_at) AS at FROM changed GROUP BY priority
  ]]):format(filter.where(conditions), given.limit and ("LIMIT %d"):format(filter.limit(what, given)) or "")
  local count, since = 0, {}
  for _, row in ipairs(requeue(db or self.db, sql, args)) do
    count = count + row.jobs
    news.add(since, row.priority, row.at)
  end
  if count > 0 and not db then
    self:wake(since)
  elseif count > 0 then
    db:on_commit(function() self:wake(since) end)
  end
  return count
end

-- Every count reads a partial index of the rows it counts, never the finished ones, and stops at $1.
local STATS = [[
  SELECT
    (SELECT count(*) FROM (SELECT FROM workflow_jobs WHERE status = 'pending'
      AND scheduled_at <= now() LIMIT $1) s) AS due,
    (SELECT count(*) FROM (SELECT FROM workflow_jobs WHERE status = 'pending'
      AND scheduled_at > now() LIMIT $1) s) AS scheduled,
    (SELECT count(*) FROM (SELECT FROM workflow_jobs WHERE status = 'running'
      AND lease_until IS NOT NULL LIMIT $1) s) AS running,
    (SELECT count(*) FROM (SELECT FROM workflow_jobs WHERE status = 'dead' LIMIT $1) s) AS dead,
    (SELECT count(*) FROM (SELECT FROM workflow_jobs WHERE status = 'failed' LIMIT $1) s) AS failed,
    (SELECT count(*) FROM (SELECT FROM workflow_jobs WHERE status = 'cancelled' LIMIT $1) s) AS cancelled,
    (SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'workflow_jobs'::regclass) AS rows_estimated,
    (SELECT extract(epoch FROM now() - scheduled_at)::float8 FROM workflow_jobs
      WHERE status = 'pending' AND scheduled_at <= now() ORDER BY scheduled_at LIMIT 1) AS oldest_wait,
    EXISTS (SELECT FROM job_pauses WHERE lane = '') AS paused,
    ARRAY(SELECT lane FROM job_pauses WHERE lane <> '' ORDER BY lane) AS paused_lanes
]]
local MOST_COUNTED = 100000

---@class nebula.QueueStats
---@field due integer pending jobs whose time has come (counts stop at 100,000)
---@field scheduled integer pending jobs for later
---@field running integer jobs under a lease of this host's workers; what runs in its first 200 ms is among `due`
---@field dead integer
---@field failed integer
---@field cancelled integer
---@field rows_estimated integer all rows, as the server's statistics have it
---@field oldest_wait? number seconds the longest waiting of them is due
---@field paused boolean the whole queue is
---@field paused_lanes string[]
---@field policy string the policy in force
---@field policy_version? integer where it was published

--- What is in the queue. Its cost does not depend on the finished jobs.
---@return nebula.QueueStats
function manage.queue_stats(self)
  local stats = self.reads:one(STATS, MOST_COUNTED)
  local policy = self:policy()
  stats.policy, stats.policy_version = policy.name, policy.version
  return stats
end

--- The worker processes of all hosts that were seen in the last minute.
---@return {id: string, host: string, pid: integer, started_at: string, silent: number, state: table}[] silent:
---  seconds since it was last seen
function manage.list_workers(self)
  return self.db:query [[
    SELECT id, host, pid, started_at, extract(epoch FROM clock_timestamp() - seen_at)::float8 AS silent, state
    FROM job_workers
    WHERE seen_at > now() - interval '1 minute'
    ORDER BY host, pid
  ]]
end

return manage
