-- migrate/files.lua: the migrations of a directory: found by name, read, checked, put in order.
--
-- A file is `V<version>__<name>.lua` or `.sql`; or refinery's `U<version>__<name>.sql`, which may come
-- after higher versions were applied. Its checksum is the SHA-256 of its text with every
-- line ending made LF, so that a checkout on another system is the same migration.
local nebula = require "nebula"
local options = require "nebula.options"
local system = require "nebula.system"

local files = {}

local MOST_VERSION = 2147483647
local FIELDS = { summary = "string", up = "step", down = "step", transaction = "boolean", allow = "table" }

local function fail(message, ...)
  error(nebula.error { kind = "migration", message = message:format(...) }, 0)
end

---@class nebula.Migration
---@field series "nebula"|"project"
---@field version integer
---@field name string
---@field path string
---@field checksum string SHA-256, hexadecimal
---@field summary? string
---@field up (string|function)[] its steps
---@field down? (string|function)[]
---@field transaction boolean all in one transaction, with its row of the history
---@field allow table<string, string> what `lint` shall let pass, and why
---@field kind "sql"|"lua"
---@field unordered? boolean it may come after higher versions were applied
---@field text string the file's, with LF at its lines' ends
---@field raw string the same, byte for byte

local function check_step(path, field, value)
  local kind = type(value)
  if kind == "string" or kind == "function" then return { value } end
  if kind ~= "table" or #value == 0 then
    fail("%s: %s is SQL, a function or a list of both, not %s", path, field, kind == "table" and "an empty table"
      or kind)
  end
  for i, step in ipairs(value) do
    if type(step) ~= "string" and type(step) ~= "function" then
      fail("%s: %s[%d] is SQL or a function, not %s", path, field, i, type(step))
    end
  end
  return value
end

local function read(path)
  local file, message = io.open(path, "rb")
  if not file then fail("%s: cannot be read: %s", path, message) end
  local text = file:read "a"
  file:close()
  return (text:gsub("\r\n?", "\n")), text
end

local function run_chunk(path, text)
  local chunk, message = load(text, "@" .. path, "t")
  if not chunk then fail("syntax error: %s", message) end
  local result, err = nebula.try(chunk)
  if err then fail("%s: it failed while it was loaded: %s", path, tostring(err.message or err)) end
  if type(result) == "string" then return { up = result } end
  if type(result) ~= "table" then
    fail("%s: a migration returns SQL or a table with `up`, not %s", path, type(result))
  end
  for field, value in pairs(result) do
    local wanted = FIELDS[field]
    if not wanted then
      local names = {}
      for name in pairs(FIELDS) do names[#names + 1] = name end
      fail("%s: unknown field %s%s", path, tostring(field), options.did_you_mean(tostring(field), names))
    elseif wanted ~= "step" and type(value) ~= wanted then
      fail("%s: %s is a %s, not %s", path, field, wanted, type(value))
    end
  end
  return result
end

local function load_migration(series, path, version, name, kind)
  local text, raw = read(path)
  local found = kind == "sql" and { up = text } or run_chunk(path, text)
  if found.up == nil then fail("%s: it has no `up`", path) end
  return {
    series = series, version = version, name = name, path = path,
    checksum = nebula.crypto.sha256(text),
    summary = found.summary,
    up = check_step(path, "up", found.up),
    down = found.down ~= nil and check_step(path, "down", found.down) or nil,
    transaction = found.transaction ~= false,
    allow = found.allow or {},
    text = text,
    raw = raw,
    kind = kind,
  }
end

--- Reads the migrations of a directory, in the order of their versions. Raises `migration` errors
--- that name the file: a syntax error, a version twice, a name that is none.
---@param series "nebula"|"project"
---@param directory string
---@return nebula.Migration[]
function files.list(series, directory)
  local names = system.list(directory)
  if not names then
    fail("%s: no such directory; --path or MIGRATION_PATH says where the migrations are", directory)
  end
  local found, by_version = {}, {}
  for _, file in ipairs(names) do
    local prefix, digits, name, kind = file:match "^([VU])(%d+)__([%w_\128-\255]+)%.(%a+)$"
    if prefix == "V" and kind == "lua" or kind == "sql" then
      local version = math.tointeger(tonumber(digits))
      local path = directory .. "/" .. file
      if not version or version > MOST_VERSION then fail("%s: the version is at most %d", path, MOST_VERSION) end
      if by_version[version] then
        fail("version %d is there twice: %s and %s; give one of them the next free number", version,
          by_version[version], path)
      end
      by_version[version] = path
      local migration = load_migration(series, path, version, name, kind)
      migration.unordered = prefix == "U" or nil
      found[#found + 1] = migration
    elseif (file:find "^V" or file:find "^v%d") and (file:find "%.lua$" or file:find "%.sql$") then
      fail("%s/%s: a migration is named V<version>__<name>.lua or .sql", directory, file)
    end
  end
  table.sort(found, function(a, b) return a.version < b.version end)
  return found
end

return files
