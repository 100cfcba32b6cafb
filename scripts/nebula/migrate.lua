-- migrate.lua: brings a database's schema to the newest version, by migrations in SQL or Lua.
--
-- There are two series, each with its own numbers and history: `nebula`, installed with the host,
-- goes first; `project` is the user's (MIGRATION_PATH, default ./migrations). Where both are the
-- same directory, as in this source tree, they are one.
--
-- One migrator works at a time: it holds an advisory lock on a connection of its own, which runs
-- nothing else, so that the lock lasts as long as the work and no snapshot of its session holds up
-- a CREATE INDEX CONCURRENTLY. Each migration runs in a transaction together with its row in the
-- history; one with `transaction=false` runs step by step, each finished step is recorded, and a
-- rerun goes on at the one that was interrupted.
local nebula = require "nebula"
local files = require "nebula.migrate.files"
local system = require "nebula.system"

local migrate = {}

local HISTORY = "nebula_schema_history"
local POLL_SECONDS = 0.1
local LOCK = "hashtextextended('nebula migrate ' || current_database(), 0)"

local CREATE_HISTORY = [[
  CREATE TABLE IF NOT EXISTS nebula_schema_history (
    series TEXT NOT NULL,
    version INTEGER NOT NULL,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    steps INTEGER NOT NULL,
    complete BOOLEAN NOT NULL,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    applied_by TEXT NOT NULL DEFAULT current_user,
    duration_ms BIGINT NOT NULL,
    PRIMARY KEY (series, version)
  )
]]

local RECORD = [[
  INSERT INTO nebula_schema_history (series, version, name, checksum, steps, complete, duration_ms)
  VALUES ($1, $2, $3, $4, $5, $6, $7)
  ON CONFLICT (series, version)
  DO UPDATE SET steps = excluded.steps, complete = excluded.complete, checksum = excluded.checksum,
    duration_ms = nebula_schema_history.duration_ms + excluded.duration_ms, applied_at = clock_timestamp()
]]

local HOLDER = [[
  SELECT a.pid, a.usename AS user, coalesce(host(a.client_addr), 'this machine') AS host,
    extract(epoch FROM now() - a.backend_start)::float8 AS seconds
  FROM pg_locks l JOIN pg_stat_activity a USING (pid)
  WHERE l.locktype = 'advisory' AND l.granted
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (l.classid::bigint << 32 | l.objid::bigint) = ]] .. LOCK .. [[

  LIMIT 1
]]

local function fail(message, ...)
  error(nebula.error { kind = "migration", message = message:format(...) }, 0)
end

local function label(migration) return ("V%d__%s"):format(migration.version, migration.name) end

-- ---- what there is ----

-- The directory of the host's own migrations: beside the scripts this file belongs to.
local function own_directory()
  local here = package.searchpath("nebula.migrate", package.path)
  local root = here and system.realpath(here):match "^(.*)/scripts/nebula/migrate%.lua$"
  return root and system.realpath(root .. "/migrations")
end

--- The series and their directories, in the order they are applied.
---@param path? string the project's; default MIGRATION_PATH, else ./migrations where it exists
---@return {name: "nebula"|"project", directory: string}[]
function migrate.series(path)
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

local function history(db)
  local applied = {}
  if not db:value("SELECT to_regclass($1)::text", HISTORY) then return applied end
  for _, row in ipairs(db:query("SELECT * FROM nebula_schema_history ORDER BY series, version")) do
    applied[row.series] = applied[row.series] or {}
    applied[row.series][row.version] = row
  end
  return applied
end

-- What may not be passed over: a migration that changed after it ran, one that is gone, one that
-- came too late.
local function check(series, list, applied)
  local newest, by_version = 0, {}
  for _, migration in ipairs(list) do by_version[migration.version] = migration end
  for version, row in pairs(applied) do
    newest = math.max(newest, row.complete and version or 0)
    local migration = by_version[version]
    if not migration then
      fail("V%d__%s (%s) was applied at %s, but its file is not in %s; put it back", version, row.name, series.name,
        row.applied_at, series.directory)
    elseif row.complete and migration.checksum ~= row.checksum then
      fail("%s has changed since it was applied at %s (checksum %s, was %s); put the file back and write the "
        .. "change as a new migration", migration.path, row.applied_at, migration.checksum:sub(1, 12),
        row.checksum:sub(1, 12))
    end
  end
  for _, migration in ipairs(list) do
    if migration.version < newest and not applied[migration.version] then
      fail("%s comes too late: V%d is applied already; give it a number above that", migration.path, newest)
    end
  end
end

local function collect(db, path)
  local applied, all = history(db), {}
  for _, series in ipairs(migrate.series(path)) do
    local list = files.list(series.name, series.directory)
    local done = applied[series.name] or {}
    check(series, list, done)
    for _, migration in ipairs(list) do all[#all + 1] = { migration = migration, row = done[migration.version] } end
  end
  return all
end

--- Every migration with its state. Changes nothing.
---@param db nebula.pg.Pool
---@param opts? {path: string}
---@return {series: string, version: integer, name: string, state: "applied"|"pending"|"interrupted",
---  applied_at: string?, applied_by: string?, duration_ms: integer?, summary: string?}[]
function migrate.status(db, opts)
  local rows = {}
  for i, entry in ipairs(collect(db, opts and opts.path)) do
    local migration, row = entry.migration, entry.row
    rows[i] = {
      series = migration.series, version = migration.version, name = migration.name, summary = migration.summary,
      state = row and (row.complete and "applied" or "interrupted") or "pending",
      applied_at = row and row.applied_at, applied_by = row and row.applied_by,
      duration_ms = row and row.duration_ms,
    }
  end
  return rows
end

-- ---- running them ----

local function run_step(connection, migration, index, step)
  local _, err = nebula.try(function()
    if type(step) == "function" then
      step(connection, migrate)
    else
      connection:exec(step)
    end
  end)
  if not err then return end
  if err.kind == "cancelled" then error(err, 0) end
  error(nebula.error {
    kind = "migration", code = err.code, source = err.source, detail = err.detail, retryable = err.retryable,
    message = ("%s, step %d of %d: %s; nothing of this %s was kept"):format(migration.path, index, #migration.up,
      tostring(err.message or err), migration.transaction and "migration" or "step"),
  }, 0)
end

local function record(connection, migration, steps, started)
  connection:exec(RECORD, migration.series, migration.version, migration.name, migration.checksum, steps,
    steps == #migration.up, math.floor((nebula.time.monotonic() - started) * 1000))
end

local function apply(connection, migration, row)
  local started = nebula.time.monotonic()
  if migration.transaction then
    connection:transaction(function(tx)
      for i, step in ipairs(migration.up) do run_step(tx, migration, i, step) end
      record(tx, migration, #migration.up, started)
    end)
  else
    for i = (row and row.steps or 0) + 1, #migration.up do
      local step_started = nebula.time.monotonic()
      run_step(connection, migration, i, migration.up[i])
      record(connection, migration, i, step_started)
    end
  end
  return nebula.time.monotonic() - started
end

-- Takes the lock. Polled, because a session that waits inside pg_advisory_lock holds a snapshot.
local function lock(connection, log)
  local told
  while not connection:value("SELECT pg_try_advisory_lock(" .. LOCK .. ")") do
    if not told then
      told = true
      local holder = connection:one(HOLDER)
      if holder then
        log(("another migrator works: %s from %s, process %d, connected for %.0f s; waiting for it"):format(
          holder.user, holder.host, holder.pid, holder.seconds))
      end
    end
    nebula.task.sleep(POLL_SECONDS)
  end
end

--- Applies every migration that is pending. Any number of migrators may be started at once: one
--- works, the others wait and find nothing left to do.
--- Raises `migration` with the file, the step and what the server said.
---@param db nebula.pg.Pool with two connections free
---@param opts? {path: string, log: fun(line: string)}
---@return {series: string, version: integer, name: string, seconds: number}[] applied
function migrate.up(db, opts)
  opts = opts or {}
  local log = opts.log or function(line) nebula.log.info(line) end
  collect(db, opts.path) -- mistakes in the files are told before anyone waits

  local lock_connection <close> = db:acquire()
  lock(lock_connection, log)
  local _ <close> = setmetatable({}, { __close = function()
    nebula.try(lock_connection.exec, lock_connection, "SELECT pg_advisory_unlock(" .. LOCK .. ")")
  end })

  local connection <close> = db:acquire()
  connection:exec(CREATE_HISTORY)
  local applied = {}
  for _, entry in ipairs(collect(connection, opts.path)) do
    local migration, row = entry.migration, entry.row
    if not (row and row.complete) then
      local seconds = apply(connection, migration, row)
      applied[#applied + 1] = {
        series = migration.series, version = migration.version, name = migration.name, seconds = seconds,
      }
      log(("%s %s applied in %.0f ms"):format(migration.series, label(migration), seconds * 1000))
    end
  end
  return applied
end

--- How many migrations are not applied. Changes nothing.
---@param db nebula.pg.Pool
---@param opts? {path: string}
---@return integer
function migrate.pending(db, opts)
  local count = 0
  for _, row in ipairs(migrate.status(db, opts)) do
    if row.state ~= "applied" then count = count + 1 end
  end
  return count
end

return migrate
