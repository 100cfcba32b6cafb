-- simulate/history.lua: what this database's queue did, as a load for simulate: "what would this policy
-- have done last week".
--
-- Each job that ended in the window comes when it was due then, and takes what it took. A job under a
-- lease took the time since its claim; short jobs end in batches of one transaction, whose time is shared
-- out among them. Of a job that was tried several times the last try is taken. What the queue's history no
-- longer holds is not there: replay looks as far back as finished jobs are kept.
local raise = require "nebula.raise"

local history = {}

-- $1: seconds back from now, $2: how many jobs, the newest.
local ENDED = [[
  SELECT workflow_id, coalesce(priority, 0) AS priority, CASE WHEN lane_by IS NULL THEN lane END AS lane, payload,
    extract(epoch FROM due)::float8 AS due,
    extract(epoch FROM began)::float8 AS began,
    extract(epoch FROM finished_at - began)::float8
      / CASE WHEN started_at IS NULL THEN count(*) OVER (PARTITION BY started_at, locked_by, locked_at) ELSE 1 END
      AS takes
  FROM (
    SELECT *, greatest(scheduled_at, created_at) AS due, coalesce(started_at, locked_at) AS began
    FROM workflow_jobs
    WHERE status IN ('completed', 'dead', 'failed')
    AND finished_at > clock_timestamp() - make_interval(secs => $1)
    AND coalesce(started_at, locked_at) <= finished_at
    ORDER BY finished_at DESC
    LIMIT $2
  ) j
  ORDER BY due, id
]]

local function percentile(sorted, part) return sorted[math.max(1, math.ceil(part * #sorted))] or 0 end

---@class nebula.History
---@field load nebula.SimulatedLoad[] for simulate.run, with its `start`: when the first job was due
---@field jobs integer
---@field wait {p50: number, p95: number, p99: number} seconds that they really waited

--- Reads the jobs that ended in the last seconds, at most so many, the newest.
--- Raises `not_found` where there is none.
---@param db nebula.pg.Pool
---@param seconds number
---@param most integer
---@return nebula.History
function history.read(db, seconds, most)
  local load, waits, start = {}, {}, nil
  for row in db:rows(ENDED, seconds, most) do
    start = start or row.due
    waits[#waits + 1] = math.max(row.began - row.due, 0)
    load[#load + 1] = {
      jobs = 1, at = row.due - start, takes = row.takes, priority = row.priority, workflow_id = row.workflow_id,
      payload = row.payload, lane = row.lane,
    }
  end
  if not start then
    raise("not_found", "no job has ended in the last %s: there is nothing to replay",
      require("nebula.ui").duration(seconds))
  end
  load.start = start
  table.sort(waits)
  return {
    load = load, jobs = #load,
    wait = { p50 = percentile(waits, 0.5), p95 = percentile(waits, 0.95), p99 = percentile(waits, 0.99) },
  }
end

return history
