-- migrate/create.lua: a new migration's file, with the next free number.
local files = require "nebula.migrate.files"
local nebula = require "nebula"
local system = require "nebula.system"

local create = {}

local LUA = [[
return {
  summary = "",

  up = %s
  %s,

  down = %s
  %s,
}
]]

local OPEN, CLOSE = "[[", "]]"

local function fail(kind, message, ...)
  error(nebula.error { kind = kind, message = message:format(...) }, 0)
end

--- Makes `V<next>__<name>.lua` (or .sql) in the project's directory, which is made where it is not
--- there. Raises `validation` for a name that is none, `io`.
---@param name string words of letters, digits and _; spaces and - become _
---@param opts? {path?: string, sql?: boolean}
---@return string path
function create.file(name, opts)
  opts = opts or {}
  local clean = name:gsub("[%s%-]+", "_")
  if not clean:find "^[%w_\128-\255]+$" then
    fail("validation", "%q names no migration: letters, digits and _ do", name)
  end
  local directory = opts.path or os.getenv "MIGRATION_PATH" or "migrations"
  local newest = 0
  if system.stat(directory) then
    for _, migration in ipairs(files.list("project", directory)) do newest = migration.version end
  else
    nebula.fs.mkdir(directory, { parents = true })
  end
  local path = ("%s/V%d__%s.%s"):format(directory, newest + 1, clean, opts.sql and "sql" or "lua")
  local file <close> = nebula.fs.open(path, "wx")
  if not opts.sql then file:write(LUA:format(OPEN, CLOSE, OPEN, CLOSE)) end
  return path
end

return create
