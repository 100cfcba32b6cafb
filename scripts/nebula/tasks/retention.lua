-- tasks/retention.lua: how long ended rows are kept, by status: `--keep completed=14d --keep dead=90d`.
local nebula = require "nebula"
local options = require "nebula.options"
local raise = require "nebula.raise"

local retention = {}

--- A rule as SQL: true for rows that are past their time. `$1` is retention.parameter's, `ended` says
--- when a row ended. A status that is not named is kept.
---@param ended string SQL
---@return string
function retention.past(ended)
  return ended .. " < now() - make_interval(secs => ($1::jsonb ->> status)::float8)"
end

--- Seconds by status, and the shortest of them. Raises `config`.
---@param task string
---@param keep table<string, string|number>
---@param statuses string[] those that end
---@return nebula.pg.Json by_status, number shortest
function retention.parameter(task, keep, statuses)
  local by_status, shortest = {}, math.huge
  local known = {}
  for _, status in ipairs(statuses) do known[status] = true end
  for status, value in pairs(keep) do
    if not known[status] then
      raise("config", "%s: --keep %s=...: %q is none of %s%s", task, status, status, table.concat(statuses, ", "),
        options.did_you_mean(status, statuses))
    end
    local seconds = options.duration(value)
    if not seconds then
      raise("config", '%s: --keep %s=%s wants a duration such as "14d"', task, status, tostring(value))
    end
    by_status[status], shortest = seconds, math.min(shortest, seconds)
  end
  if shortest == math.huge then raise("config", "%s: --keep names no status, so nothing is past its time", task) end
  return nebula.pg.json(by_status), shortest
end

--- Rows by status as `{status = count}`.
---@param rows {status: string, count: integer}[]
---@return table<string, integer>
function retention.counts(rows)
  local counts = {}
  for _, row in ipairs(rows) do counts[row.status] = row.count end
  return counts
end

return retention
