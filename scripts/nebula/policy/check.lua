-- policy/check.lua: a policy tried out before it is trusted: every function it has is called with
-- sample input, as the queue would call it. Compiling and the contract were checked by loading it.
local nebula = require "nebula"
local raise = require "nebula.raise"

local trial = {}

local SLOTS = 10
local ID, WORKFLOW = "0192f0c1-2d3e-7000-8000-000000000001", "0192f0c1-2d3e-7000-8000-00000000000a"

local FAILURES = {
  { kind = "script", message = "a sample failure", attempt = 1, elapsed = 0.5 },
  { kind = "validation", message = "a sample failure", retryable = false, attempt = 2, elapsed = 0.5 },
  { kind = "database", message = "a sample failure", code = "40001", retryable = true, retry_after = 7, attempt = 3,
    elapsed = 0.5 },
}

local function sample_job(payload, retry_count)
  return {
    id = ID, workflow_id = WORKFLOW, execution_id = ID, priority = 0, scheduled_at = 0,
    retry_count = retry_count, max_retries = 3, lane = WORKFLOW, payload = payload,
  }
end

local TRIALS = {
  claim = function(policy) policy:plan(SLOTS) end,

  admit = function(policy, payload)
    policy:admit { workflow_id = WORKFLOW, payload = payload, priority = 0, max_retries = 3 }
  end,

  retry = function(policy, payload)
    for _, failure in ipairs(FAILURES) do
      local copy = {}
      for name, value in pairs(failure) do copy[name] = value end
      policy:ask("retry", sample_job(payload, failure.attempt - 1), copy, {})
    end
  end,

  rescue = function(policy, payload) policy:ask("rescue", sample_job(payload, 0), {}) end,

  select = function(policy, payload)
    local candidates = { sample_job(payload, 0), sample_job(payload, 0) }
    candidates[2].id = WORKFLOW
    for _, picked in ipairs(policy:select(candidates)) do
      if type(picked) ~= "table" or picked.id ~= ID and picked.id ~= WORKFLOW then
        raise("policy", "select returns what it was not given: %s", tostring(picked))
      end
    end
  end,
}

local ORDER = { "claim", "select", "admit", "retry", "rescue" }

--- Calls each of the policy's functions with sample input.
---@param policy nebula.Policy
---@param payload? table of the sample job
---@return {name: string, problem?: string}[] results one for each function it has
---@return boolean passed
function trial.run(policy, payload)
  payload = payload or { handler = "sample" }
  local results, passed = {}, true
  for _, name in ipairs(ORDER) do
    if policy:has(name) or name == "claim" and policy:has "select" then
      local _, err = nebula.try(TRIALS[name], policy, payload)
      results[#results + 1] = { name = name, problem = err and (err.message or tostring(err)) }
      passed = passed and not err
    end
  end
  return results, passed
end

--- The same, raising `policy` with the first problem.
---@param policy nebula.Policy
---@param payload? table
function trial.must(policy, payload)
  for _, result in ipairs((trial.run(policy, payload))) do
    if result.problem then
      raise("policy", "policy %s: %s fails with a sample job: %s", policy.name, result.name, result.problem)
    end
  end
end

return trial
