-- workflows/transfer.lua: workflow definitions out of a database and into one, as JSON lines. Methods
-- of a Storage.
--
-- A line is a version: {"name":, "version":, "status":, "deployed":, "definition":}. Ids and times stay
-- behind: they are the database's.
local check = require "nebula.check"
local nebula = require "nebula"
local raise = require "nebula.raise"

local transfer = {}

local STATUSES = { "draft", "active", "archived" }
local FIELDS = { name = true, version = true, status = true, deployed = true, definition = true }
local MOST_VERSION = 2147483647
local PAGE = 500

local EXPORT = [[
  SELECT name, version, status, deployed, definition
  FROM workflows
  WHERE $1::text[] IS NULL OR name = ANY ($1)
  ORDER BY name, version
]]

local IMPORT = [[
  INSERT INTO workflows (id, name, version, definition, status, deployed, deployed_at)
  SELECT d.*, CASE WHEN d.deployed THEN clock_timestamp() END
  FROM unnest($1::uuid[], $2::text[], $3::int[], $4::jsonb[], $5::text[], $6::boolean[])
    AS d (id, name, version, definition, status, deployed)
  ON CONFLICT (name, version) DO NOTHING
  RETURNING id
]]

local DIFFERENT = [[
  SELECT d.name, d.version
  FROM unnest($1::text[], $2::int[], $3::jsonb[]) AS d (name, version, definition)
  JOIN workflows w USING (name, version)
  WHERE w.definition <> d.definition
  LIMIT 1
]]

local function writer_of(sink)
  if type(sink) == "function" then return sink end
  return function(text) sink:write(text) end
end

--- Writes workflows as JSON lines, in bounded memory, to a path, a function that is called with each
--- line, or an object with a `write` method (which is not finished).
---@param sink string|fun(line: string)|{write: function}
---@param given? {name: string|string[]} which; default all
---@return integer count
function transfer.export_workflows(self, sink, given)
  given = check.fields("export_workflows", given or {}, { name = true })
  local names = type(given.name) == "string" and { given.name } or given.name
  if type(sink) == "string" then
    local file <close> = nebula.fs.open(sink, "wx")
    return transfer.export_workflows(self, file, given)
  end
  local count, write = 0, writer_of(sink)
  for row in self.db:rows(EXPORT, names and nebula.pg.array(names)) do
    count = count + 1
    write(nebula.json.encode(row, { sort_keys = true }) .. "\n")
  end
  return count
end

-- The lines of a path, or of what gives pieces of text.
local function lines_of(source)
  if type(source) == "table" or type(source) == "userdata" then
    local object = source
    source = function() return object:read() end
  end
  local rest, ended = "", false
  return function()
    while true do
      local line, after = rest:match "^([^\n]*)\n(.*)$"
      if line then
        rest = after
        return line
      end
      if ended then
        line, rest = rest, ""
        return line ~= "" and line or nil
      end
      local piece = source()
      if piece then rest = rest .. piece else ended = true end
    end
  end
end

-- A line of the file, checked.
local function workflow_of(line, number)
  local what = ("import_workflows: line %d"):format(number)
  local given, err = nebula.try(nebula.json.decode, line)
  if err then raise("validation", "%s: %s", what, err.message) end
  check.fields(what, given, FIELDS)
  check.text(what .. ": name", given.name, 255)
  check.integer(what .. ": version", given.version, 1, MOST_VERSION)
  check.choice(what .. ": status", given.status or "draft", STATUSES)
  return given, check.object(what .. ": definition", given.definition)
end

local function import_page(tx, page)
  local n = #page.names
  if n == 0 then return 0 end
  for i = 1, n do
    if page.deployed[i] then
      tx:exec("UPDATE workflows SET deployed = false, status = 'archived', updated_at = clock_timestamp() "
        .. "WHERE name = $1 AND deployed AND version <> $2", page.names[i], page.versions[i])
    end
  end
  local made = tx:query(IMPORT, page.ids, page.names, page.versions, page.definitions, page.statuses, page.deployed)
  if #made < n then
    local row = tx:one(DIFFERENT, page.names, page.versions, page.definitions)
    if row then
      raise("conflict", "import_workflows: %s version %d exists with another definition; nothing was imported",
        row.name, row.version)
    end
  end
  return #made
end

local function new_page()
  return { ids = {}, names = {}, versions = {}, definitions = {}, statuses = {}, deployed = {} }
end

--- Reads what export_workflows wrote: from a path, a function that gives pieces of text and then nil, or
--- an object with a `read` method. All or nothing; a version that is there with the same definition
--- stays as it is. The deployed version of a name becomes the deployed one here.
--- Raises `validation` with the line's number, `conflict` for a version with another definition.
---@param source string|fun(): string?|{read: function}
---@return {created: integer, unchanged: integer}
function transfer.import_workflows(self, source)
  if type(source) == "string" then
    local file <close> = nebula.fs.open(source, "r")
    return transfer.import_workflows(self, file)
  end
  return self.db:transaction(function(tx)
    local page, created, number, total = new_page(), 0, 0, 0
    for line in lines_of(source) do
      number = number + 1
      if line:find "%S" then
        local given, definition = workflow_of(line, number)
        local i = #page.names + 1
        page.ids[i], page.names[i], page.versions[i] = nebula.crypto.uuid_v7(), given.name, given.version
        page.definitions[i], page.statuses[i] = definition, given.status or "draft"
        page.deployed[i] = given.deployed == true
        total = total + 1
        if i == PAGE then
          created, page = created + import_page(tx, page), new_page()
        end
      end
    end
    created = created + import_page(tx, page)
    return { created = created, unchanged = total - created }
  end)
end

return transfer
