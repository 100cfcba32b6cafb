-- jobs/renew.lua: the statement that renews leases, for heartbeat_jobs and for the worker's thread.
local renew = {}

local RENEW = [[
  WITH d AS (
    SELECT j.id, g.progress
    FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::jsonb[]) AS g (job, token, worker, progress)
    JOIN workflow_jobs j ON j.id = g.job AND j.status = 'running' AND j.token = g.token AND j.locked_by = g.worker
    ORDER BY j.id
    FOR UPDATE OF j
  )
  UPDATE workflow_jobs j
  SET locked_at = clock_timestamp(), lease_until = clock_timestamp() + make_interval(secs => %s),
    progress = coalesce(d.progress, j.progress)
  FROM d
  WHERE j.id = d.id
  RETURNING j.id
]]

--- Takes arrays of ids, tokens, workers and progress (JSON or NULL) as $1 to $4; returns the ids whose
--- claim still stands.
---@param seconds string how long the lease lasts from now: a number, or the parameter that holds it
---@return string
function renew.sql(seconds) return RENEW:format(seconds) end

return renew
