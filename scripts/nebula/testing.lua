-- testing.lua: what specs need of a storage: a database of their own, and a job taken through the
-- queue. Only under `nebula test`, which makes and drops the databases.
local config = require "nebula.config"
local databases = require "nebula.testing.databases"
local nebula = require "nebula"

local testing = {}

local server, template = os.getenv "NEBULA_TEST_SERVER", os.getenv "NEBULA_TEST_TEMPLATE"
local directory = os.getenv "NEBULA_TEST_DIRECTORY"

if not (server and template and directory) then
  error(nebula.error { kind = "config", message = "nebula.testing makes throwaway databases: run the specs by "
    .. "`nebula test`" }, 0)
end

-- What nebula.conf.lua says of other stores must not be reached from a spec.
local settings = config.settings()
settings.s3, settings.database.replica_url = nil, nil
settings.file.blobs = { url = "file:" .. directory .. "/blobs-0" }

local count, current = 0, nil

--- A storage over a migrated, empty database and an empty blob directory of its own. Waits.
---@return nebula.Storage
function testing.storage()
  count = count + 1
  local name = ("%s_%d"):format(template, count)
  local db <close> = nebula.pg.connect { url = server, max_connections = 1 }
  databases.create(db, name, template)
  current = require("nebula.storage").new {
    database_url = databases.named(server, name), max_connections = 8,
    blobs = ("%s/blobs-%d"):format(directory, count),
  }
  return current
end

--- Pushes a job, works the queue until nothing is due, and returns the job as it stands then: its
--- `status`, `result`, `error`, ... It is tried once. Waits.
---@param handler string|fun(ctx: table, job: table): any a handler's name, or the function itself
---@param payload? table
---@param opts? {storage?: nebula.Storage, policy?: string} default: the newest storage(), made where there is none
---@return table job
function testing.work(handler, payload, opts)
  local storage = opts and opts.storage or current or testing.storage()
  local body = { handler = type(handler) == "string" and handler or "testing" }
  for name, value in pairs(payload or {}) do body[name] = value end
  local job = storage:push_job { payload = body, max_retries = 0 }
  local worker = require("nebula.worker").new(storage, {
    drain = true, connections = 1, concurrency = 4, policy = opts and opts.policy,
    handler = type(handler) == "function" and handler or nil,
  })
  worker:run()
  return storage:get_job(job.id)
end

return testing
