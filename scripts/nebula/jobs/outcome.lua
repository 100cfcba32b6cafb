-- jobs/outcome.lua: what becomes of a job that ran: a plain table that the statements of
-- jobs/settle.lua write.
--
--   status    completed, pending (again), dead, cancelled
--   result    JSON text (completed)
--   delay     seconds until it is due again (pending); nil keeps its time
--   counted   1 where it counts as an attempt
--   message   why it failed, and `failure`, the JSON text of its entry in the history of failures
--   suspect   true where it must run alone next time
local check = require "nebula.check"
local nebula = require "nebula"

local outcome = {}

local MOST_MESSAGE = 2000
local LONGEST_DELAY = 366 * 86400

--- Any raised value as a failure: `{kind=, message=, code=, retryable=, retry_after=}`.
---@param raised any
---@return table failure
function outcome.failure(raised)
  if type(raised) ~= "table" then return { kind = "script", message = tostring(raised) } end
  return {
    kind = raised.kind or "script",
    message = raised.message and tostring(raised.message) or tostring(raised),
    code = raised.code, retryable = raised.retryable, retry_after = raised.retry_after, traceback = raised.traceback,
  }
end

-- Text that PostgreSQL takes: valid UTF-8, no NUL, of a bounded length; and that everybody may read who
-- may look at jobs.
local function storable(text)
  text = nebula.log.redact(tostring(text)):gsub("%z", "\\0")
  if #text > MOST_MESSAGE then text = text:sub(1, MOST_MESSAGE) .. "..." end
  if not utf8.len(text) then text = text:gsub("[\x80-\xff]", "?") end
  return text
end

local function entry(job, failure, worker, reason)
  return nebula.json.encode {
    at = nebula.time.format(failure.at),
    attempt = (job.retry_count or 0) + 1,
    kind = failure.kind, code = failure.code and storable(failure.code),
    message = storable(failure.message), traceback = failure.traceback and storable(failure.traceback),
    worker = worker, reason = reason and storable(reason),
  }
end

--- Completed, with a result that jsonb can hold. Raises `validation` where it cannot.
---@param result any
---@return table
function outcome.completed(result)
  return { status = "completed", result = result ~= nil and check.json("the result", result) or nil }
end

local function dead(job, failure, worker, reason)
  return {
    status = "dead", counted = 1, message = storable(reason),
    failure = entry(job, failure, worker, reason),
  }
end

-- What the policy's retry or rescue said, made an outcome.
local function decided(job, failure, worker, answer, reason)
  if answer == "dead" then
    return dead(job, failure, worker, reason or failure.message)
  end
  return {
    status = "pending", counted = 1, delay = math.max(0, math.min(tonumber(answer) or 0, LONGEST_DELAY)),
    message = storable(failure.message), failure = entry(job, failure, worker),
  }
end

local function spent(job) return (job.retry_count or 0) >= (job.max_retries or 0) end

--- Failed: tried again as the policy says, or dead.
---@param policy nebula.Policy
---@param job table
---@param raised any what the handler raised
---@param worker? string
---@param elapsed? number seconds it ran
---@return table
function outcome.failed(policy, job, raised, worker, elapsed)
  local failure = outcome.failure(raised)
  failure.at = policy:time()
  if spent(job) then
    return dead(job, failure, worker, ("%s (after %d attempts)"):format(failure.message, (job.retry_count or 0) + 1))
  end
  failure.attempt, failure.elapsed = (job.retry_count or 0) + 1, elapsed
  return decided(job, failure, worker, policy:retry(job, failure))
end

--- Its worker vanished: as the policy's rescue says. One that was lost before runs alone from now on.
---@param policy nebula.Policy
---@param job table with `failures` where it failed before
---@param why string
---@param worker? string the one that vanished
---@return table
function outcome.lost(policy, job, why, worker)
  local failure = { kind = "lost", message = why, at = policy:time() }
  if spent(job) then
    return dead(job, failure, worker, ("%s (after %d attempts)"):format(why, (job.retry_count or 0) + 1))
  end
  local made = decided(job, failure, worker, policy:rescue(job))
  local last = type(job.failures) == "table" and job.failures[#job.failures]
  made.suspect = made.status == "pending" and type(last) == "table" and last.kind == "lost" or nil
  return made
end

--- Given back untouched: no attempt is counted, and a suspect stays one.
---@param job? table
---@return table
function outcome.released(job) return { status = "pending", suspect = job and job.suspect } end

--- Given back by the handler, to come again after so many seconds. Not a failure.
---@param seconds number
---@return table
function outcome.snoozed(seconds) return { status = "pending", delay = math.min(seconds, LONGEST_DELAY) } end

return outcome
