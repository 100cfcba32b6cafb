-- tasks/workflow_names.lua: a task's filter by workflow: a name that nobody has is a mistake, not an empty
-- match.
local options = require "nebula.options"
local raise = require "nebula.raise"

local MOST_NAMES = 1000

--- The names, where workflows have them; nil where none is given. Raises `config`.
---@param task string
---@param db nebula.pg.queries
---@param names string[]|string|nil
---@return string[]?
return function(task, db, names)
  if type(names) == "string" then names = { names } end
  if not names or #names == 0 then return nil end
  local unknown = db:value([[
    SELECT n FROM unnest($1::text[]) AS n WHERE NOT EXISTS (SELECT FROM workflows w WHERE w.name = n) LIMIT 1
  ]], names)
  if not unknown then return names end
  local known = db:value([[
    SELECT array_agg(name) FROM (SELECT DISTINCT name::text FROM workflows ORDER BY 1 LIMIT $1) known
  ]], MOST_NAMES)
  raise("config", "%s: there is no workflow %q%s", task, unknown, options.did_you_mean(unknown, known or {}))
end
