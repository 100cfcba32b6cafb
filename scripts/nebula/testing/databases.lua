-- testing/databases.lua: the throwaway databases of one `nebula test`: made beside the configured
-- one, from a migrated template, and dropped together.
local config = require "nebula.config"
local nebula = require "nebula"
local system = require "nebula.system"

local databases = {}

---@class nebula.testing.Databases
---@field url string the configured database: where CREATE DATABASE is said
---@field template string
---@field directory string the blobs'
local Databases = {}
Databases.__index = Databases

--- The URL with another database's name; of two names libpq takes the last.
---@param url string
---@param name string
---@return string
function databases.named(url, name)
  if url:find "^postgres%w*://" then return url .. (url:find("?", 1, true) and "&" or "?") .. "dbname=" .. name end
  return (url == "" and "" or url .. " ") .. "dbname=" .. name
end

local function explain(err)
  if err.code ~= "42501" then return err end
  return nebula.error { kind = "config", message = "specs run in a database of their own, and this role may not make "
    .. "one: ALTER ROLE ... CREATEDB, or run `nebula dev up` here and unset DATABASE_URL", detail = err.message }
end

--- Makes an empty copy of the template (or of nothing, for the template itself).
---@param db nebula.pg.Pool
---@param name string
---@param template? string
function databases.create(db, name, template)
  local sql = "CREATE DATABASE " .. nebula.pg.ident(name)
  if template then sql = sql .. " TEMPLATE " .. nebula.pg.ident(template) end
  local _, err = nebula.try(db.exec, db, sql)
  if err then error(explain(err), 0) end
end

local function migrate(url)
  local db <close> = nebula.pg.connect { url = url, max_connections = 2 }
  require("nebula.migrate").up(db, { path = config.settings().migration_path, log = function() end })
end

--- Makes the template and the database that DATABASE_URL names in the specs' process. Waits. Raises
--- `config` where the role may make none, and what a migration raises.
---@return nebula.testing.Databases
function databases.make()
  local url = config.database_url()
  local template = "nebula_test_" .. nebula.crypto.uuid_v7():gsub("%-", ""):sub(1, 20)
  local self = setmetatable({ url = url, template = template, directory = system.mkdtemp "/tmp/nebula-test-" },
    Databases)
  local _, err = nebula.try(function()
    local db <close> = nebula.pg.connect { url = url, max_connections = 1 }
    databases.create(db, template)
    migrate(databases.named(url, template))
    databases.create(db, template .. "_0", template)
  end)
  if err then
    self:close()
    error(err, 0)
  end
  return self
end

--- What the specs' process is told.
---@return table<string, string|false>
function Databases:environment()
  return {
    DATABASE_URL = databases.named(self.url, self.template .. "_0"), DATABASE_REPLICA_URL = false,
    S3_BUCKET = false, S3_ENDPOINT = false, S3_ACCESS_KEY_ID = false, S3_SECRET_ACCESS_KEY = false,
    S3_SESSION_TOKEN = false, NEBULA_LOG = os.getenv "NEBULA_LOG" or "off",
    NEBULA_TEST_SERVER = self.url, NEBULA_TEST_TEMPLATE = self.template, NEBULA_TEST_DIRECTORY = self.directory,
  }
end

--- Drops all of them, whoever is connected, and removes the blobs.
function Databases:close()
  local db <close> = nebula.pg.connect { url = self.url, max_connections = 1 }
  local names = db:query("SELECT datname FROM pg_database WHERE starts_with(datname, $1)", self.template)
  for _, row in ipairs(names) do db:exec(("DROP DATABASE %s WITH (FORCE)"):format(nebula.pg.ident(row.datname))) end
  system.remove_tree(self.directory)
end

Databases.__close = Databases.close

return databases
