-- worker/leased.lua: a session's batch that its claim has leased already. While it is short it needs no
-- heartbeat: its end is written by the session before its next claim. What takes longer, or what cannot
-- be written, goes to the keeper.
local nebula = require "nebula"
local settle = require "nebula.jobs.settle"

local leased = {}

local LATE = 0.4 -- seconds after which a batch comes back that should have been given up at half of it

-- The rows are where the claim left them, unless somebody cancelled or rescued them.
local COMPLETE = [[
  UPDATE workflow_jobs j
  SET status = 'completed', error = NULL, lease_until = NULL, suspect = false, finished_at = clock_timestamp() %s
  FROM unnest($2::tid[], $3::uuid[] %s) AS d (at, id %s)
  WHERE j.ctid = d.at
  AND j.id = d.id
  AND j.locked_by = $1
  AND j.status = 'running'
]]

local PLAIN = COMPLETE:format("", "", "")
local WITH_RESULTS = COMPLETE:format(", result = d.result", ", $4::jsonb[]", ", result")

local function complete(worker, conn, runs)
  local at, ids, results, plain = {}, {}, {}, true
  for i, run in ipairs(runs) do
    at[i], ids[i], results[i] = run.job.at, run.job.id, run.outcome.result or nebula.null
    plain = plain and not run.outcome.result
  end
  local tids = '{"' .. table.concat(at, '","') .. '"}'
  if plain then return conn:exec(PLAIN, worker.id, tids, ids) end
  return conn:exec(WITH_RESULTS, worker.id, tids, ids, results)
end

local function drop(worker, run)
  worker.counts.lost = worker.counts.lost + 1
  worker.log.warn("the claim had ended before the job did; its outcome was dropped", { job = run.job.id })
end

--- Writes what has ended. Returns what runs, or has not begun. Raises what the server says; what was not
--- written then is still the batch's.
---@param worker nebula.Worker
---@param conn nebula.pg.Connection
---@param batch table
---@return nebula.Run[] rest
function leased.write(worker, conn, batch)
  local done, entries, rest, of_id = {}, {}, {}, {}
  if nebula.time.monotonic() - batch.since > LATE then -- its handlers compute: from now on with heartbeats
    for _, run in ipairs(batch.runs) do
      if run.started then worker.wants_lease[run.name or ""] = true end
    end
  end
  for _, run in ipairs(batch.runs) do
    if not run.ended then
      rest[#rest + 1] = run
    elseif run.outcome then
      local entry = { job = run.job, outcome = run.outcome }
      of_id[run.job.id] = run
      if run.outcome.status == "completed" then
        done[#done + 1] = run
      else
        entries[#entries + 1] = entry
      end
    end
  end
  if #done > 0 and complete(worker, conn, done) < #done then
    local missing = {} -- those that stand now are found as completed by us
    for i, run in ipairs(done) do missing[i] = run.job.id end
    local stood = {}
    for _, row in ipairs(conn:query([[
      SELECT id FROM workflow_jobs WHERE id = ANY ($1::uuid[]) AND status = 'completed' AND locked_by = $2
    ]], missing, worker.id)) do stood[row.id] = true end
    for _, run in ipairs(done) do
      if stood[run.job.id] then
        run.batch = nil
      else
        entries[#entries + 1] = { job = run.job, outcome = run.outcome }
      end
    end
  else
    for _, run in ipairs(done) do run.batch = nil end
  end
  if #entries > 0 then
    local stood = settle.leased(conn, entries, false)
    for _, entry in ipairs(entries) do
      local id = entry.job.id
      of_id[id].batch = nil
      if not stood[id] then drop(worker, of_id[id]) end
    end
  end
  return rest
end

--- Gives all of a batch that has no other keeper to the worker's: what runs, and what has ended and is not
--- written.
---@param batch table
function leased.hand_over(batch)
  for _, run in ipairs(batch.runs) do
    if run.batch then run:promoted(true, true) end
  end
end

return leased
