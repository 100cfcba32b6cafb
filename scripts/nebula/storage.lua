-- storage.lua: what a workflow engine stores: workflows, executions, jobs in PostgreSQL, and blobs.
--
-- A Storage joins a pool and a blob store. Its operations are in files by subject: workflows,
-- executions, jobs/*, and here what it is made of. Nothing is connected until it is used.
local check = require "nebula.check"
local config = require "nebula.config"
local nebula = require "nebula"
local news = require "nebula.jobs.news"
local options = require "nebula.options"
local raise = require "nebula.raise"
local replica = require "nebula.replica"

local storage = {}

---@class nebula.Storage
---@field db nebula.pg.Pool
---@field reads nebula.pg.Pool|nebula.Replica where get_ and list_ operations read
---@field blobs nebula.Blobs opened at its first use
---@field state_limit integer bytes of JSON up to which an execution's state stays in its row
---@field claims table<string, nebula.Job> what claim_jobs gave this object and has not ended
local Storage = {}

for _, part in ipairs { "workflows", "executions", "jobs" } do
  for name, method in pairs(require("nebula." .. part)) do Storage[name] = method end
end
for name, method in pairs(require("nebula.artifacts").methods) do Storage[name] = method end

Storage.__name = "nebula.Storage"

function Storage:__tostring() return (tostring(self.db):gsub("^pool", "storage")) end

function Storage.__index(self, name)
  if name == "blobs" then
    local blobs = require("nebula.blobs").open(rawget(self, "blob_options"), self.db)
    rawset(self, "blobs", blobs)
    return blobs
  end
  return Storage[name]
end

local STATE_LIMIT, MOST_STATE = 256 << 10, 256 << 20 -- bytes

---@param pool_options table
---@param given {replica_url?: string, state_limit?: integer, blobs?: table}
local function make(pool_options, given)
  local db = nebula.pg.connect(pool_options)
  return setmetatable({
    pool_options = pool_options, blob_options = given.blobs, db = db, claims = {}, wakers = {},
    teller = news.teller(db),
    reads = given.replica_url and replica.open(pool_options, given.replica_url, db) or db,
    state_limit = given.state_limit and check.integer("state_limit", given.state_limit, 0, MOST_STATE) or STATE_LIMIT,
  }, Storage)
end

local FROM_ENV = { read_only = true, max_connections = true, min_connections = true, state_limit = true }

--- The storage that the environment and nebula.conf.lua describe. Raises `config` where no database
--- is named. May wait (the private PostgreSQL is started where that is the one).
---@param opts? {read_only?: boolean, max_connections?: integer, min_connections?: integer, state_limit?: integer}
---@return nebula.Storage
function storage.from_env(opts)
  local pool, given = {}, check.fields("storage.from_env", opts or {}, FROM_ENV)
  for name, value in pairs(given) do
    if name ~= "state_limit" then pool[name] = value end
  end
  return make(config.pool(pool), { replica_url = config.settings().database.replica_url,
    state_limit = given.state_limit })
end

-- The seed's names, and what pg.connect or s3.connect call them.
local POOL_NAMES = {
  max_connections = "max_connections", min_connections = "min_connections", max_size = "max_connections",
  min_idle = "min_connections", max_lifetime = "max_lifetime", idle_timeout = "idle_timeout",
  connection_timeout = "connection_timeout", statement_logging = "statement_logging", slow_query = "slow_query",
  statement_cache = "statement_cache",
}
local S3_NAMES = {
  s3_endpoint = "endpoint", s3_region = "region", s3_bucket = "bucket", s3_access_key = "access_key_id",
  s3_secret_key = "secret_access_key", s3_session_token = "session_token", s3_use_path_style = "path_style",
}
local NEW_NAMES = { database_url = true, pool = true, blobs = true, read_only = true, replica_url = true,
  state_limit = true }
for _, names in ipairs { POOL_NAMES, S3_NAMES } do
  for name in pairs(names) do NEW_NAMES[name] = true end
end

local POOL_DEFAULTS = {
  max_connections = 100, min_connections = 0, max_lifetime = 1800, idle_timeout = 600, connection_timeout = 30,
}

local function pool_of(url, given)
  local pool = { url = url }
  for name, value in pairs(POOL_DEFAULTS) do pool[name] = value end
  for name, value in pairs(check.fields("pool", given or {}, POOL_NAMES)) do pool[POOL_NAMES[name]] = value end
  return pool
end

--- A storage of its own settings: `database_url`, `max_connections`, ..., `s3_endpoint`, `s3_bucket`,
--- `s3_access_key`, `s3_secret_key`, `s3_region`, `s3_use_path_style`, `pool = {...}`; or
--- `blobs = "file:/path"` for a directory; `replica_url`, where get_ and list_ operations read;
--- `state_limit`, the bytes above which an execution's state goes into a blob (256 KiB). What is not said
--- of the blobs is the environment's.
---@param given table
---@return nebula.Storage
function storage.new(given)
  check.fields("storage.new", given, NEW_NAMES)
  local url = check.text("storage.new: database_url", given.database_url)
  local pool = pool_of(url, given.pool)
  local s3 = {}
  for name, value in pairs(given) do
    if POOL_NAMES[name] then pool[POOL_NAMES[name]] = value end
    if S3_NAMES[name] then s3[S3_NAMES[name]] = value end
  end
  pool.read_only = given.read_only
  local blobs
  if given.blobs then
    blobs = { url = given.blobs:find "^file:" and given.blobs or "file:" .. given.blobs }
  elseif next(s3) then
    s3.region = s3.region or "us-east-1"
    if s3.path_style == nil then s3.path_style = s3.endpoint ~= nil end
    blobs = s3
  end
  return make(pool, { blobs = blobs, replica_url = given.replica_url, state_limit = given.state_limit })
end

--- A storage on that database with that pool; its blobs are the environment's.
---@param url string
---@param pool_config? table max_size, min_idle, max_lifetime, idle_timeout, connection_timeout, or their synonyms
---@return nebula.Storage
function storage.with_pool_config(url, pool_config)
  return make(pool_of(check.text("storage.with_pool_config: url", url), pool_config), {})
end

local shared

--- The storage of this process that scripts share: storage.from_env(), made once.
---@return nebula.Storage
function storage.shared()
  shared = shared or storage.from_env()
  return shared
end

-- ---- methods ----

--- Seconds from a duration ("30s", 2.5). Raises `validation`.
---@param what string
---@param value any
---@param default number
---@return number
function Storage.duration(what, value, default)
  if value == nil then return default end
  local seconds = options.duration(value)
  if not seconds then
    raise("validation", '%s wants a duration such as 30 or "1h30m", not %s', what, tostring(value))
  end
  return seconds
end

--- Applies every pending migration, on connections of its own.
---@param opts? {path?: string, log?: fun(line: string)}
---@return table[] applied
function Storage:run_migrations(opts)
  if config.settings().read_only then raise("validation", "this prompt is read-only: no migration is applied") end
  local own = {}
  for name, value in pairs(self.pool_options) do own[name] = value end
  own.max_connections, own.min_connections, own.read_only = 2, 0, nil
  local db <close> = nebula.pg.connect(own)
  return require("nebula.migrate").up(db, opts)
end

--- The same storage, reading from the primary: it sees what was written before, also where other reads
--- go to a replica. `storage:fresh():get_execution(id)`.
---@return nebula.Storage
function Storage:fresh()
  if self.reads == self.db then return self end
  return setmetatable({ reads = self.db, policy = function(_, ...) return self:policy(...) end },
    { __index = self, __newindex = self })
end

--- The policy in force for this storage object's pushes, claims and failures: its own, or the
--- published one, which is looked up now and then.
---@param db? nebula.pg.Pool|nebula.pg.Connection where to look: the caller's transaction
---@return nebula.Policy
function Storage:policy(db)
  local own = rawget(self, "own_policy")
  if own then return own end
  local following = rawget(self, "following")
  if not following then
    following = require("nebula.policy.published").follow(self.db)
    rawset(self, "following", following)
  end
  return following:policy(db)
end

--- Uses another policy for this storage object, whatever is published.
---@param policy nebula.Policy
function Storage:use_policy(policy) rawset(self, "own_policy", policy) end

--- Calls fn whenever this object made jobs due: a worker in the same process need not wait for its poll.
---@param fn fun(what: table|string|nil) with what jobs/news.lua says of them
---@return fun() stop
function Storage:on_push(fn)
  self.wakers[fn] = true
  return function() self.wakers[fn] = nil end
end

--- Tells the workers, of this process and of others, that jobs are due. Not inside a transaction: after it.
---@param what? table|string as jobs/news.lua says
function Storage:wake(what)
  for fn in pairs(self.wakers) do fn(what) end
  self.teller:tell(what)
end

--- Closes the pool and the blob store.
function Storage:close()
  self.teller:flush()
  self.db:close()
  if self.reads ~= self.db then self.reads:close() end
  local blobs = rawget(self, "blobs")
  if blobs then blobs:close() end
  if shared == self then shared = nil end
end

Storage.__close = Storage.close

return storage
