-- place.lua: which database the prompt talks to, in a few characters: `orders@db1`. It is told from
-- the configuration, so that nothing is connected to for it.
local config = require "nebula.config"

local place = {}

local function decoded(text)
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

local function setting(name, fallback)
  local value = os.getenv(name)
  return value and value ~= "" and value or fallback
end

-- Database and host of a URL or of a list of key=value.
local function of_url(url)
  local rest = url:match "^postgres%w*://(.*)$"
  if not rest then
    return url:match "%f[%w]dbname%s*=%s*'?([^%s']+)", url:match "%f[%w]host%s*=%s*'?([^%s']+)"
  end
  local authority, path, query = rest:match "^([^/?]*)/?([^?]*)%??(.*)$"
  local host = authority:match "([^@]*)$"
  if host == "" then host = query:match "%f[%w]host=([^&]*)" or "" end
  return path ~= "" and decoded(path) or nil, host ~= "" and decoded(host) or nil
end

--- The database's name and, where it is not on a unix socket, its host; nil where none is configured.
---@return string?
function place.name()
  local current = config.settings()
  local url = current.database.url
  if not url and not config.names_database(current) then return current.state and "private" or nil end
  local database, host = of_url(url or "")
  database = database or setting("PGDATABASE", setting("PGUSER", "postgres"))
  host = host or setting "PGHOST"
  if not host or host:find "^/" then return database end
  return database .. "@" .. host:gsub(":5432%f[%D]", "")
end

--- The text before the cursor.
---@param pid? integer of the process that is attached to
---@return string
function place.prompt(pid)
  local ok, name = pcall(place.name)
  local read_only = ok and config.settings().read_only
  return "nebula" .. (pid and "[" .. pid .. "]" or "") .. (ok and name and " " .. name:gsub("[^%w@._,:-]", "?") or "")
    .. (read_only and " (read-only)" or "") .. "> "
end

return place
