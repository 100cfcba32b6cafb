-- doctor.lua: what `nebula doctor` finds: each check adds findings, and goes on where one fails.
--
-- A finding is {check=, status="ok"|"warning"|"failed", message=, remedy=}. The database is only
-- read. In the blob store one small object of a name of its own is written, read and deleted again:
-- there is no other way to know that this would work.
local blob_checks = require "nebula.doctor.blobs"
local config = require "nebula.config"
local database_checks = require "nebula.doctor.database"
local nebula = require "nebula"

local doctor = {}

local CONNECT_SECONDS = 10

---@class nebula.doctor.Report
---@field findings {check: string, status: "ok"|"warning"|"failed", message: string, remedy?: string}[]
local Report = {}
Report.__index = Report

local function add(self, status, check, message, remedy)
  table.insert(self.findings, { check = check, status = status, message = nebula.log.redact(message), remedy = remedy })
end

function Report:ok(check, message, ...) add(self, "ok", check, message:format(...)) end
function Report:warn(check, message, remedy) add(self, "warning", check, message, remedy) end
function Report:fail(check, message, remedy) add(self, "failed", check, message, remedy) end

--- Runs a part of the checks; an error in it is a finding, and the parts behind it still run.
function Report:part(check, remedy, fn, ...)
  local _, err = nebula.try(fn, self, ...)
  if not err then return true end
  if err.kind == "cancelled" then error(err, 0) end
  local line = require("nebula.report").line(err)
  self:fail(check, line:sub(1, #check + 2) == check .. ": " and line:sub(#check + 3) or line, remedy)
  return false
end

local function check_database(self)
  local pool = config.pool { max_connections = 1, connection_timeout = CONNECT_SECONDS, read_only = true }
  local db <close> = nebula.pg.connect(pool)
  if not self:part("database", "start the server, or correct DATABASE_URL: its host, port, user and password",
    database_checks.reach, db) then return end
  for _, check in ipairs(database_checks.CHECKS) do self:part(check.name, check.remedy, check.run, db) end
end

local function check_replica(self, url)
  local primary <close> = nebula.pg.connect(config.pool { max_connections = 1, connection_timeout = CONNECT_SECONDS })
  local replica <close> = nebula.pg.connect(config.pool { url = url, max_connections = 1, read_only = true,
    connection_timeout = CONNECT_SECONDS })
  database_checks.replica(self, primary, replica)
end

--- Looks at everything. Waits; raises nothing but `cancelled`.
---@return {healthy: boolean, settings: table[], findings: table[]}
function doctor.examine()
  local self = setmetatable({ findings = {} }, Report)
  local settings = {}
  local configured = self:part("configuration", "correct the value that is named", function()
    settings = config.describe(config.settings())
    self:ok("configuration", "understood")
  end)
  if configured then
    self:part("database", "set DATABASE_URL, or run `nebula dev up` for a private PostgreSQL here", check_database)
    local replica = config.settings().database.replica_url
    if replica then
      self:part("replica", "start the replica, or correct DATABASE_REPLICA_URL", check_replica, replica)
    end
    self:part("blobs", "set S3_BUCKET (and S3_ENDPOINT), or run `nebula dev up` to keep blobs here", blob_checks.run)
  end
  local healthy = true
  for _, finding in ipairs(self.findings) do healthy = healthy and finding.status ~= "failed" end
  return { healthy = healthy, settings = settings, findings = self.findings }
end

return doctor
