-- jobs/settle.lua: the statements that end a claim. Two kinds of claim, one set of columns:
--
--   locked   the rows are locked by this transaction, found by ctid, which cannot change meanwhile
--   leased   the rows are ours while status, token and worker say so; what does not match is fenced
--
-- A batch goes in one statement: the arrays are unnested, joined, and written all at once.
local nebula = require "nebula"

local settle = {}

local KEPT_FAILURES = 20 -- entries of a job's history

local COMPLETED_SET = [[
  SET status = 'completed', result = d.result, error = NULL, locked_by = $1::uuid,
    locked_at = coalesce(j.locked_at, now()), lease_until = NULL, suspect = false, finished_at = clock_timestamp()
]]

local OTHER_SET = ([[
  SET status = d.status,
    retry_count = coalesce(j.retry_count, 0) + d.counted,
    scheduled_at = CASE WHEN d.delay IS NULL THEN j.scheduled_at
      ELSE clock_timestamp() + make_interval(secs => d.delay) END,
    error = coalesce(d.message, j.error),
    failures = CASE WHEN d.failure IS NULL THEN j.failures ELSE
      CASE WHEN jsonb_array_length(coalesce(j.failures, '[]')) >= KEPT
        THEN j.failures - 0 ELSE coalesce(j.failures, '[]') END || d.failure END,
    suspect = d.suspect,
    locked_by = NULL, locked_at = NULL, lease_until = NULL, progress = NULL,
    finished_at = CASE WHEN d.status = 'pending' THEN NULL ELSE clock_timestamp() END
]]):gsub("KEPT", tostring(KEPT_FAILURES))

-- Where no job has a result, nothing need be joined.
settle.COMPLETE_LOCKED_PLAIN = [[
  UPDATE workflow_jobs
  SET status = 'completed', error = NULL, locked_by = $1::uuid, locked_at = now(), suspect = false,
    finished_at = clock_timestamp()
  WHERE ctid = ANY ($2::tid[])
]]

settle.COMPLETE_LOCKED = "UPDATE workflow_jobs j" .. COMPLETED_SET .. [[
  FROM unnest($2::tid[], $3::jsonb[]) AS d (at, result)
  WHERE j.ctid = d.at
]]

settle.OTHER_LOCKED = "UPDATE workflow_jobs j" .. OTHER_SET .. [[
  FROM unnest($1::tid[], $2::text[], $3::int[], $4::float8[], $5::text[], $6::jsonb[], $7::boolean[])
    AS d (at, status, counted, delay, message, failure, suspect)
  WHERE j.ctid = d.at
]]

-- The rows of these claims that still stand, locked in the order of their ids. Where the whole batch
-- must stand ($WHOLE), one that does not leaves all of them alone.
local HELD = [[
  WITH d AS (
    SELECT j.id, g.*
    FROM unnest(%s) AS g (%s)
    JOIN workflow_jobs j ON j.id = g.job AND j.status = 'running' AND j.token = g.token AND j.locked_by = g.worker
    ORDER BY j.id
    FOR UPDATE OF j
  ), changed AS (
    UPDATE workflow_jobs j
    %s
    FROM d
    WHERE j.id = d.id
    AND (NOT %s OR (SELECT count(*) FROM d) = cardinality(%s))
    RETURNING %s
  )
  SELECT * FROM changed
]]

settle.COMPLETE_LEASED = HELD:format(
  "$2::uuid[], $3::bigint[], $4::uuid[], $5::jsonb[]", "job, token, worker, result",
  COMPLETED_SET:gsub("%$1::uuid", "d.worker"), "$1::boolean", "$2::uuid[]", "j.id")

settle.OTHER_LEASED = HELD:format(
  "$2::uuid[], $3::bigint[], $4::uuid[], $5::text[], $6::int[], $7::float8[], $8::text[], $9::jsonb[], $10::boolean[]",
  "job, token, worker, status, counted, delay, message, failure, suspect",
  OTHER_SET, "$1::boolean", "$2::uuid[]", "j.id, j.priority, j.scheduled_at")

-- Locked rows become leases.
settle.LEASE_LOCKED = [[
  UPDATE workflow_jobs
  SET status = 'running', locked_by = $1, locked_at = clock_timestamp(),
    lease_until = clock_timestamp() + make_interval(secs => $2), started_at = now(), token = token + 1,
    unique_key = CASE WHEN unique_while = 'pending' THEN NULL ELSE unique_key END
  WHERE ctid = ANY ($3::tid[])
]]

--- The arrays of outcomes other than completed: status, counted, delay, message, failure, suspect.
---@param outcomes table[]
---@return table, table, table, table, table, table
function settle.columns(outcomes)
  local null = nebula.null
  local statuses, counted, delays, messages, failures, suspects = {}, {}, {}, {}, {}, {}
  for i, outcome in ipairs(outcomes) do
    statuses[i], counted[i] = outcome.status, outcome.counted or 0
    delays[i], messages[i] = outcome.delay or null, outcome.message or null
    failures[i], suspects[i] = outcome.failure or null, outcome.suspect or false
  end
  return statuses, counted, delays, messages, failures, suspects
end

--- Whether the server refused what was to be written (data, a constraint, a limit, a trigger), so that
--- it would refuse it again.
---@param err nebula.Error
---@return boolean
function settle.is_refusal(err)
  local class = err.code and err.code:sub(1, 2)
  return class == "22" or class == "23" or class == "54" or class == "P0"
end

--- Writes the outcomes of leased jobs. entries: `{job=, outcome=}`, the jobs with token and worker.
--- Where `whole`, either all of a statement's rows stand or none is changed.
---@param db nebula.pg.Pool|nebula.pg.Transaction
---@param entries {job: table, outcome: table}[]
---@param whole boolean
---@return table<string, {priority?: integer, scheduled_at?: string}> stood by the ids that were changed; with the two
---  where the job is not completed
function settle.leased(db, entries, whole)
  local stood = {}
  local done, other = {}, {}
  for _, entry in ipairs(entries) do
    local list = entry.outcome.status == "completed" and done or other
    list[#list + 1] = entry
  end
  for _, list in ipairs { done, other } do
    if #list > 0 then
      local ids, tokens, workers, results, outcomes = {}, {}, {}, {}, {}
      for i, entry in ipairs(list) do
        ids[i], tokens[i], workers[i] = entry.job.id, entry.job.token, entry.job.worker
        results[i], outcomes[i] = entry.outcome.result or nebula.null, entry.outcome
      end
      local rows
      if list == done then
        rows = db:query(settle.COMPLETE_LEASED, whole, ids, tokens, workers, results)
      else
        rows = db:query(settle.OTHER_LEASED, whole, ids, tokens, workers, settle.columns(outcomes))
      end
      for _, row in ipairs(rows) do stood[row.id] = row end
    end
  end
  return stood
end

return settle
