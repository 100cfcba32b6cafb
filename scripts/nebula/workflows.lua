-- workflows.lua: workflow definitions and their versions. The functions are methods of a Storage.
local check = require "nebula.check"
local filter = require "nebula.filter"
local nebula = require "nebula"
local raise = require "nebula.raise"

local workflows = {}

for name, method in pairs(require "nebula.workflows.transfer") do workflows[name] = method end

local STATUSES = { "draft", "active", "archived" }
local MOST_VERSION = 2147483647
local RACE_TRIES = 20

local SAVE_FIELDS = {
  id = true, name = true, version = true, definition = true, status = true, updated_at = true,
  created_at = true, deployed_at = true, deployed = true,
}
local FILTERS = {
  name = { column = "name" },
  version = { column = "version", type = "integer" },
  status = { column = "status", choices = STATUSES },
  deployed = { column = "deployed", type = "boolean" },
}

---@class nebula.Workflow
---@field id string
---@field name string
---@field version integer
---@field definition table
---@field status "draft"|"active"|"archived"
---@field created_at string
---@field updated_at string
---@field deployed_at? string
---@field deployed boolean the one version of its name that runs

local INSERT_NEXT = [[
  INSERT INTO workflows (id, name, version, definition, status)
  SELECT $1, $2::text, coalesce(max(version), 0) + 1, $3, $4::text
  FROM workflows
  WHERE name = $2::text
  RETURNING *
]]

local INSERT = [[
  INSERT INTO workflows (id, name, version, definition, status)
  VALUES ($1, $2, $3, $4, $5)
  ON CONFLICT DO NOTHING
  RETURNING *
]]

local UPDATE = [[
  UPDATE workflows
  SET name = $2, version = coalesce($3, version), definition = $4, status = coalesce($5, status),
    updated_at = clock_timestamp()
  WHERE id = $1
  AND ($6::timestamptz IS NULL OR updated_at = $6)
  RETURNING *
]]

local BY_ID = "SELECT * FROM workflows WHERE id = $1"
local BY_VERSION = "SELECT * FROM workflows WHERE name = $1 AND version = $2"
local NEWEST = "SELECT * FROM workflows WHERE name = $1 ORDER BY version DESC LIMIT 1"

-- A version that nobody has: two savers at once get two numbers.
local function insert_next(db, name, definition, status)
  for try = 1, RACE_TRIES do
    local row, err = nebula.try(db.one, db, INSERT_NEXT, nebula.crypto.uuid_v7(), name, definition, status)
    if not err then return row end
    if err.code ~= "23505" or try == RACE_TRIES then error(err, 0) end
  end
end

local function insert(db, id, name, version, definition, status)
  local row = db:one(INSERT, id, name, version, definition, status)
  if row then return row end
  row = db:one(BY_VERSION .. " AND definition = $3::jsonb", name, version, definition)
  if row then return row end
  raise("conflict",
    "save_workflow: %s version %d exists with another definition; leave the version out to get the next one",
    name, version)
end

--- Saves a definition. Without an id: a new version, the next one of its name where none is given
--- (saving the same definition under the same version again returns it). With an id: changes that
--- row; where `updated_at` is given, only if nobody has changed it since.
--- Raises `validation` and `conflict`.
---@param workflow {id?: string, name: string, version?: integer, definition: table, status?: string,
---  updated_at?: string}
---@return nebula.Workflow
function workflows.save_workflow(self, workflow)
  local what = "save_workflow"
  check.fields(what, workflow, SAVE_FIELDS)
  local name = check.text(what .. ": name", workflow.name, 255)
  local definition = check.object(what .. ": definition", workflow.definition)
  local status = workflow.status and check.choice(what .. ": status", workflow.status, STATUSES)
  local version = workflow.version and check.integer(what .. ": version", workflow.version, 1, MOST_VERSION)
  if not workflow.id then
    if not version then return insert_next(self.db, name, definition, status or "draft") end
    return insert(self.db, nebula.crypto.uuid_v7(), name, version, definition, status or "draft")
  end
  local id = check.uuid(what .. ": id", workflow.id)
  local seen = workflow.updated_at and check.time(what .. ": updated_at", workflow.updated_at)
  local row = self.db:one(UPDATE, id, name, version, definition, status, seen)
  if row then return row end
  if workflow.updated_at then
    raise("conflict", "save_workflow: %s was changed by another since %s; read it again and repeat", id,
      workflow.updated_at)
  end
  return insert(self.db, id, name, version or 1, definition, status or "draft")
end

--- By id, or by name: that version, or the newest.
---@param which string|{name: string, version?: integer}
---@return nebula.Workflow?
function workflows.get_workflow(self, which)
  if type(which) ~= "table" or which.id then return self.reads:one(BY_ID, check.id("get_workflow", which)) end
  check.fields("get_workflow", which, { name = true, version = true })
  local name = check.text("get_workflow: name", which.name)
  if not which.version then return self.reads:one(NEWEST, name) end
  return self.reads:one(BY_VERSION, name, check.integer("get_workflow: version", which.version, 1, MOST_VERSION))
end

local function page(self, what, given, conditions, args)
  if given.after then
    args.n = args.n + 1
    args[args.n] = check.id(what .. ": after", given.after)
    conditions[#conditions + 1] = ("(name, version) > (SELECT name, version FROM workflows WHERE id = $%d)")
      :format(args.n)
  end
  local sql = ("SELECT * FROM workflows %s ORDER BY name, version LIMIT %d"):format(filter.where(conditions),
    filter.limit(what, given))
  return self.reads:query(sql, table.unpack(args, 1, args.n))
end

--- A page of workflows by name and version; `after` is the last row of the page before, or its id.
---@param given? {name?: string, version?: integer, status?: string|string[], deployed?: boolean, limit?: integer,
---  after?: any}
---@return nebula.Workflow[]
function workflows.list_workflows(self, given)
  given = filter.check("list_workflows", given, FILTERS)
  local args = { n = 0 }
  return page(self, "list_workflows", given, filter.conditions("list_workflows", given, FILTERS, args), args)
end

--- Workflows whose definition contains a value (`contains`), or matches a JSON path (`path`, such as
--- '$.steps[*] ? (@.type == "http")'); both use the GIN index. Pages as list_workflows.
---@param given {contains?: table, path?: string, name?: string, status?: string|string[], limit?: integer, after?: any}
---@return nebula.Workflow[]
function workflows.search_workflows(self, given)
  local what = "search_workflows"
  filter.check(what, given, FILTERS, { "contains", "path", "limit", "after" })
  if given.contains == nil and given.path == nil then raise("validation", "%s wants `contains` or `path`", what) end
  local args = { n = 0 }
  local conditions = filter.conditions(what, given, FILTERS, args)
  if given.contains ~= nil then
    args.n = args.n + 1
    args[args.n] = check.json(what .. ": contains", given.contains)
    conditions[#conditions + 1] = ("definition @> $%d::jsonb"):format(args.n)
  end
  if given.path ~= nil then
    args.n = args.n + 1
    args[args.n] = check.text(what .. ": path", given.path)
    conditions[#conditions + 1] = ("definition @? $%d::jsonpath"):format(args.n)
  end
  local rows, err = nebula.try(page, self, what, given, conditions, args)
  if not err then return rows end
  if given.path and err.code == "42601" then raise("validation", "%s: path: %s", what, err.message) end
  error(err, 0)
end

-- The row that a command names, locked together with the other versions of its name.
local function lock_versions(tx, what, which)
  local by_name = type(which) == "table" and not which.id
  local rows
  if by_name then
    rows = tx:query("SELECT * FROM workflows WHERE name = $1 ORDER BY version FOR UPDATE", check.text(what
      .. ": name", which.name))
  else
    rows = tx:query([[
      SELECT * FROM workflows
      WHERE name = (SELECT name FROM workflows WHERE id = $1)
      ORDER BY version
      FOR UPDATE
    ]], check.id(what, which))
  end
  local wanted
  for _, row in ipairs(rows) do
    local hit = by_name and (which.version == nil or row.version == which.version)
      or not by_name and row.id == (type(which) == "table" and which.id or which)
    if hit then wanted = row end
  end
  if not wanted then raise("not_found", "%s: there is no such workflow", what) end
  return wanted
end

--- Makes a version the deployed one of its name: it becomes `active`, the one before `archived`.
---@param which string|{name: string, version?: integer}
---@return nebula.Workflow
function workflows.deploy_workflow(self, which)
  return self.db:transaction(function(tx)
    local wanted = lock_versions(tx, "deploy_workflow", which)
    tx:exec([[
      UPDATE workflows
      SET deployed = false, status = 'archived', updated_at = clock_timestamp()
      WHERE name = $1 AND deployed AND id <> $2
    ]], wanted.name, wanted.id)
    return tx:one([[
      UPDATE workflows
      SET deployed = true, status = 'active', deployed_at = clock_timestamp(), updated_at = clock_timestamp()
      WHERE id = $1
      RETURNING *
    ]], wanted.id)
  end)
end

--- Archives a version; it is no longer the deployed one.
---@param which string|{name: string, version?: integer}
---@return nebula.Workflow
function workflows.archive_workflow(self, which)
  return self.db:transaction(function(tx)
    local wanted = lock_versions(tx, "archive_workflow", which)
    return tx:one([[
      UPDATE workflows
      SET deployed = false, status = 'archived', updated_at = clock_timestamp()
      WHERE id = $1
      RETURNING *
    ]], wanted.id)
  end)
end

return workflows
