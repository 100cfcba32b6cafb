-- config.lua: what this program is told: the environment, then nebula.conf.lua, then defaults.
--
-- Everything is read and checked at the first question; a bad value is refused by the variable's
-- name (kind `config`, exit status 2). Below our own variables apply libpq's PG* and the AWS_* chain,
-- which pg and s3 read by themselves. With no DATABASE_URL the private PostgreSQL of `.nebula/` is
-- used, where there is one; elsewhere that is an error: nobody who forgot a variable shall look at
-- an empty database.
local nebula = require "nebula"
local options = require "nebula.options"
local project = require "nebula.project"

local config = {}

local function fail(message) error(nebula.error { kind = "config", message = message }, 0) end

-- ---- checks of single values: each returns nothing, or what is wanted ----

local function database_url(text)
  if text:find "^postgres://" or text:find "^postgresql://" or text:find "^%s*%w+%s*=" then return end
  return "postgresql://USER@HOST/DATABASE or a list of key=value"
end

local function http_url(text)
  if not text:find "^https?://[^/%s]+" then return "a URL that begins with http:// or https://" end
end

local function bucket_name(text)
  if #text < 3 or #text > 255 or not text:find "^[%w][%w%._%-]+$" then
    return "a bucket's name, such as nebula-artifacts"
  end
end

local function no_space(text)
  if text == "" or text:find "%s" then return "a value without spaces" end
end

local function log_level(text)
  local level = text:match "^%a+:(%l+)$" or text
  local form = text:match "^(%a+):" or "text"
  if text == "json" then return end
  for _, name in ipairs { "debug", "info", "warn", "error", "off" } do
    if level == name and (form == "text" or form == "json") then return end
  end
  return "debug, info, warn, error or off, text:LEVEL or json:LEVEL"
end

local function one_or_zero(text)
  if text ~= "1" and text ~= "0" then return "1 or 0" end
end

-- variable -> where it goes, its type, bounds and check. `secret` values are never repeated.
local VARIABLES = {
  { "DATABASE_URL", "database", "url", check = database_url, secret = true },
  { "DATABASE_REPLICA_URL", "database", "replica_url", check = database_url, secret = true },
  { "DATABASE_MAX_CONNECTIONS", "database", "max_connections", type = "integer", min = 1, max = 10000 },
  { "DATABASE_MIN_CONNECTIONS", "database", "min_connections", type = "integer", min = 0, max = 10000 },
  { "DATABASE_CONNECT_TIMEOUT_SECONDS", "database", "connection_timeout", type = "duration", min = 0.001 },
  { "DATABASE_IDLE_TIMEOUT_SECONDS", "database", "idle_timeout", type = "duration", min = 0 },
  { "DATABASE_MAX_LIFETIME_SECONDS", "database", "max_lifetime", type = "duration", min = 0 },
  { "DATABASE_SLOW_QUERY_SECONDS", "database", "slow_query", type = "duration", min = 0 },
  { "DATABASE_STATEMENT_CACHE", "database", "statement_cache", type = "boolean" },
  { "ENABLE_STATEMENT_LOGGING", "database", "statement_logging", type = "boolean" },
  { "S3_ENDPOINT", "s3", "endpoint", check = http_url },
  { "S3_REGION", "s3", "region", check = no_space },
  { "S3_BUCKET", "s3", "bucket", check = bucket_name },
  { "S3_ACCESS_KEY_ID", "s3", "access_key_id", check = no_space, secret = true },
  { "S3_SECRET_ACCESS_KEY", "s3", "secret_access_key", check = no_space, secret = true },
  { "S3_SESSION_TOKEN", "s3", "session_token", check = no_space, secret = true },
  { "S3_USE_PATH_STYLE", "s3", "path_style", type = "boolean" },
  { "MIGRATION_PATH", nil, "migration_path" },
  { "NEBULA_LOG", nil, "log", check = log_level },
  { "NEBULA_TRACE", nil, "trace", check = one_or_zero },
}

-- What the section s3 of nebula.conf.lua may say beside: the other options of nebula.s3.connect.
local MORE_S3 = {
  profile = { type = "string" }, ca_file = { type = "string" }, proxy = { type = "string" },
  checksum = { choices = { "crc32c", "none" } }, unsigned_payload = { type = "boolean" },
  trust_etag = { type = "boolean" }, attempts = { type = "integer", min = 1, max = 100 },
  connect_timeout = { type = "duration" }, first_byte_timeout = { type = "duration" },
  stall_timeout = { type = "duration" }, low_speed = { type = "integer", min = 1 }, deadline = { type = "duration" },
}

local DEFAULTS = {
  database = { max_connections = 100, min_connections = 10, connection_timeout = 30, idle_timeout = 600,
    max_lifetime = 1800, statement_logging = false },
  s3 = { region = "us-east-1" },
}

-- What nebula.conf.lua may hold.
local SECTIONS = { "policy", "worker", "periodic", "s3", "database", "blobs", "migration_path" }
local SYNONYMS = { max_size = "max_connections", min_idle = "min_connections" }

-- ---- reading ----

local function copy(list)
  local out = {}
  for key, value in pairs(list) do out[key] = value end
  return out
end

local function checked(label, declared, value)
  local ok, result = pcall(options.coerce, { value = declared }, { value = value })
  if not ok then
    local wanted = result.message:gsub("^value:? ", "")
    if declared.secret then wanted = wanted:gsub(", not .*$", "") end
    fail(label .. " " .. wanted)
  end
  result = result.value
  local wanted = declared.check and declared.check(result)
  if wanted then
    fail(("%s wants %s%s"):format(label, wanted, declared.secret and "" or (", not %q"):format(tostring(result))))
  end
  return result
end

local function merge_environment(settings, env)
  for _, variable in ipairs(VARIABLES) do
    local name, section, key = variable[1], variable[2], variable[3]
    local text = env(name)
    if text and text ~= "" then
      local target = section and settings[section] or settings
      target[key] = checked(name, variable, text)
      settings.source[name] = true
    end
  end
end

local function declared_of(section)
  local declared = section == "s3" and copy(MORE_S3) or {}
  for _, variable in ipairs(VARIABLES) do
    if variable[2] == section then declared[variable[3]] = variable end
  end
  return declared
end

local function merge_section(settings, section, given, path)
  if type(given) ~= "table" then fail(("%s: %s is a table"):format(path, section)) end
  local declared = declared_of(section)
  local names = {}
  for name in pairs(declared) do names[#names + 1] = name end
  for key, value in pairs(given) do
    local name = SYNONYMS[key] or key
    if not declared[name] then
      local near = options.did_you_mean(tostring(key), names)
      fail(("%s: %s has no option %s%s"):format(path, section, tostring(key), near))
    end
    settings[section][name] = checked(("%s: %s.%s"):format(path, section, key), declared[name], value)
  end
end

local function read_file(directory)
  local path = directory .. "/nebula.conf.lua"
  local chunk, message = loadfile(path)
  if not chunk then fail(message) end
  local ok, result = pcall(chunk)
  if not ok then fail(("%s: %s"):format(path, type(result) == "table" and result.message or tostring(result))) end
  if type(result) ~= "table" then fail(path .. " returns no table") end
  for key in pairs(result) do
    local known = false
    for _, name in ipairs(SECTIONS) do known = known or name == key end
    if not known then
      fail(("%s: unknown section %s%s"):format(path, tostring(key), options.did_you_mean(tostring(key), SECTIONS)))
    end
  end
  return result, path
end

local function check_together(settings)
  local database, s3 = settings.database, settings.s3
  if database.min_connections > database.max_connections then
    if settings.source.DATABASE_MIN_CONNECTIONS then
      fail(("DATABASE_MIN_CONNECTIONS (%d) is more than the maximum of %d connections")
        :format(database.min_connections, database.max_connections))
    end
    database.min_connections = database.max_connections
  end
  if (s3.access_key_id == nil) ~= (s3.secret_access_key == nil) then
    fail("S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY belong together: one of them is missing")
  end
  if s3.endpoint and not s3.bucket then fail "S3_ENDPOINT is set, but S3_BUCKET is not" end
  if s3.path_style == nil then s3.path_style = s3.endpoint ~= nil end
  if not s3.bucket then settings.s3 = nil end
end

---@class nebula.Settings
---@field database {url?: string, replica_url?: string, max_connections: integer, min_connections: integer,
---  connection_timeout: number, idle_timeout: number, max_lifetime: number, slow_query?: number,
---  statement_logging: boolean}
---@field s3? {endpoint?: string, region: string, bucket: string, access_key_id?: string,
---  secret_access_key?: string, session_token?: string, path_style: boolean} nil where no bucket is named
---@field migration_path? string
---@field project? string the directory of nebula.conf.lua
---@field state? string the path of `.nebula`
---@field file table what nebula.conf.lua returned
---@field read_only? boolean set by `nebula repl --read-only`: sessions are read-only, blobs are not written

--- Reads and checks the whole configuration.
---@param source? {env?: (fun(name: string): string?), directory?: string} for specs
---@return nebula.Settings
function config.load(source)
  source = source or {}
  local settings = { database = copy(DEFAULTS.database), s3 = copy(DEFAULTS.s3), source = {}, file = {} }
  settings.project = project.find(source.directory)
  settings.state = project.state(source.directory)
  if settings.project then
    local path
    settings.file, path = read_file(settings.project)
    for _, section in ipairs { "database", "s3" } do
      if settings.file[section] then merge_section(settings, section, settings.file[section], path) end
    end
    local ca = settings.s3.ca_file
    if ca and ca:sub(1, 1) ~= "/" then settings.s3.ca_file = settings.project .. "/" .. ca end
    settings.migration_path = settings.file.migration_path
  end
  merge_environment(settings, source.env or os.getenv)
  check_together(settings)
  return settings
end

local settings

--- The configuration of this process, read once.
---@return nebula.Settings
function config.settings()
  settings = settings or config.load()
  return settings
end

local function has_libpq_environment()
  for _, name in ipairs { "PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE", "PGPORT", "PGUSER" } do
    local value = os.getenv(name)
    if value and value ~= "" then return true end
  end
  return false
end

--- Whether something names a database: DATABASE_URL, nebula.conf.lua, or libpq's own variables.
---@param current nebula.Settings
---@return boolean
function config.names_database(current) return current.database.url ~= nil or has_libpq_environment() end

-- Which of the places a setting is from: the environment, nebula.conf.lua, or neither.
local function origin(current, name, section, key)
  if current.source[name] then return "environment" end
  local given = section and current.file[section] or not section and current.file
  for written in pairs(type(given) == "table" and given or {}) do
    if (SYNONYMS[written] or written) == key then return "nebula.conf.lua" end
  end
  return "default"
end

-- What `database.url` means where it is not set.
local function implied_database(current)
  if has_libpq_environment() then return "libpq's own variables", "environment" end
  if current.state then return "the private PostgreSQL", current.state end
  return "none", "default"
end

-- A section of nebula.conf.lua on one line.
local function shown(value)
  local text = type(value) == "table" and nebula.try(nebula.json.encode, value, { sort_keys = true }) or tostring(value)
  return nebula.log.redact(text)
end

--- Every setting in force, by its variable's name, and where it comes from. No secret is in it.
---@param current nebula.Settings
---@return {setting: string, value: string, from: string}[]
function config.describe(current)
  local rows = {}
  for _, variable in ipairs(VARIABLES) do
    local name, section, key = variable[1], variable[2], variable[3]
    local target = current
    if section then target = current[section] or {} end
    local value = target[key]
    local from = origin(current, name, section, key)
    if name == "DATABASE_URL" and not value then
      value, from = implied_database(current)
    elseif value ~= nil and variable.check == database_url then
      value = nebula.log.redact(value)
    elseif value ~= nil and variable.secret then
      value = "(set)"
    end
    if value ~= nil then rows[#rows + 1] = { setting = name, value = tostring(value), from = from } end
  end
  for name in pairs(MORE_S3) do
    local value = current.s3 and current.s3[name]
    if value ~= nil then
      local text = nebula.log.redact(tostring(value))
      rows[#rows + 1] = { setting = "s3." .. name, value = text, from = "nebula.conf.lua" }
    end
  end
  for section, value in pairs(current.file) do
    if section ~= "s3" and section ~= "database" and section ~= "migration_path" then
      rows[#rows + 1] = { setting = section, value = shown(value), from = "nebula.conf.lua" }
    end
  end
  table.sort(rows, function(a, b) return a.setting < b.setting end)
  return rows
end

--- Where the database is. Starts the private PostgreSQL where that is the one. May wait.
--- Raises `config` where nothing says which database.
---@return string url "" leaves it to libpq's own variables
function config.database_url()
  local current = config.settings()
  if current.database.url then return current.database.url end
  if has_libpq_environment() then return "" end
  if current.state then return require("nebula.dev").ensure(current.state) end
  fail("no database: set DATABASE_URL=postgresql://USER@HOST/DATABASE, or run `nebula dev up` to have a private "
    .. "PostgreSQL in this directory")
end

--- The options of `nebula.pg.connect` for the configured database. May wait.
---@param overrides? table
---@return table
function config.pool(overrides)
  local database = config.settings().database
  local pool = {
    url = overrides and overrides.url or config.database_url(),
    max_connections = database.max_connections,
    min_connections = 0, -- only a worker keeps its minimum
    connection_timeout = database.connection_timeout,
    idle_timeout = database.idle_timeout,
    max_lifetime = database.max_lifetime,
    slow_query = database.slow_query,
    statement_logging = database.statement_logging,
    read_only = config.settings().read_only,
  }
  if database.statement_cache == false then pool.statement_cache = false end
  for key, value in pairs(overrides or {}) do pool[SYNONYMS[key] or key] = value end
  return pool
end

--- Where blobs are: the options of `nebula.s3.connect`, or `{url="file:..."}` for a directory.
---@return table
function config.blobs()
  local current = config.settings()
  if current.s3 then return copy(current.s3) end
  local given = current.file.blobs
  if type(given) == "table" then given = given.url end
  if given then return { url = given:find "^file:" and given or "file:" .. given } end
  if current.state then return { url = "file:" .. current.state .. "/blobs" } end
  fail("no place for blobs: set S3_BUCKET (and S3_ENDPOINT), or run `nebula dev up` to keep them in this directory")
end

return config
