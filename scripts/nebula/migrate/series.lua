-- migrate/series.lua: where migrations are, and how they stand in a database.
--
-- There are two series, each with its own numbers and history: `nebula`, installed with the host,
-- goes first; `project` is the user's (MIGRATION_PATH, default ./migrations). Where both are the
-- same directory, as in this source tree, they are one.
local files = require "nebula.migrate.files"
local history = require "nebula.migrate.history"
local nebula = require "nebula"
local system = require "nebula.system"

local series = {}

local function fail(message, ...)
  error(nebula.error { kind = "migration", message = message:format(...) }, 0)
end

-- The directory of the host's own migrations: beside the scripts this file belongs to.
local function own_directory()
  local here = package.searchpath("nebula.migrate", package.path)
  local root = here and system.realpath(here):match "^(.*)/scripts/nebula/migrate%.lua$"
  return root and system.realpath(root .. "/migrations")
end

--- The series and their directories, in the order they are applied.
---@param path? string the project's; default MIGRATION_PATH, else ./migrations where it exists
---@return {name: "nebula"|"project", directory: string}[]
function series.list(path)
  local own = own_directory()
  local asked = path or os.getenv "MIGRATION_PATH"
  local project = system.realpath(asked or "migrations")
  if asked and not project then
    fail("%s: no such directory; --path or MIGRATION_PATH says where the project's migrations are", asked)
  end
  local list = {}
  if own then list[1] = { name = "nebula", directory = own } end
  if project and project ~= own then list[#list + 1] = { name = "project", directory = project } end
  if #list == 0 then
    fail "no migrations: the host's own are not beside its scripts, and ./migrations does not exist"
  end
  return list
end

---@class nebula.MigrationEntry
---@field migration nebula.Migration
---@field row? nebula.MigrationRow

--- Every migration with its row, in the order they are applied, and what is wrong with them.
---@param db nebula.pg.queries
---@param path? string
---@return nebula.MigrationEntry[] entries, nebula.MigrationProblem[] problems
function series.collect(db, path)
  local applied, all, problems = history.read(db), {}, {}
  for _, one in ipairs(series.list(path)) do
    local list = files.list(one.name, one.directory)
    local done = applied[one.name] or {}
    for _, problem in ipairs(history.problems(one, list, done)) do problems[#problems + 1] = problem end
    for _, migration in ipairs(list) do all[#all + 1] = { migration = migration, row = done[migration.version] } end
  end
  return all, problems
end

--- The same, refused where something is wrong.
---@return nebula.MigrationEntry[]
function series.checked(db, path)
  local entries, problems = series.collect(db, path)
  history.refuse(problems)
  return entries
end

--- The series that `to` and `down` speak of: the one named, else the project's, where there is one.
---@param path? string
---@param name? string
---@return string
function series.target(path, name)
  local list = series.list(path)
  if not name then return list[#list].name end
  for _, one in ipairs(list) do
    if one.name == name then return name end
  end
  fail("there is no series %s here, only %s", name, list[1].name .. (list[2] and " and " .. list[2].name or ""))
end

--- The entries up to a version. Raises `migration` where the series has no such version.
---@param entries nebula.MigrationEntry[]
---@param target string the series that `to` is of; what comes after that series is left out
---@param to? integer
---@return nebula.MigrationEntry[]
function series.up_to(entries, target, to)
  if not to then return entries end
  local kept, found, reached = {}, to == 0, false
  for _, entry in ipairs(entries) do
    local migration = entry.migration
    if migration.series == target then
      reached = true
      found = found or migration.version == to
      if migration.version <= to then kept[#kept + 1] = entry end
    elseif not reached then
      kept[#kept + 1] = entry
    end
  end
  if not found then fail("the series %s has no V%d", target, to) end
  return kept
end

return series
