-- migrate.lua: brings a database's schema to the newest version, and back, by migrations in SQL or
-- Lua.
--
-- One migrator works at a time (migrate/lock.lua); the host's own series goes first, then the
-- project's (migrate/series.lua); how a migration runs, and goes on after an interruption, is in
-- migrate/run.lua. What is only asked for changes nothing.
local adopt = require "nebula.migrate.adopt"
local backfill = require "nebula.migrate.backfill"
local check = require "nebula.check"
local history = require "nebula.migrate.history"
local lock = require "nebula.migrate.lock"
local nebula = require "nebula"
local options = require "nebula.options"
local run = require "nebula.migrate.run"
local series = require "nebula.migrate.series"
local ui = require "nebula.ui"

local migrate = {}

local WORKING = {
  path = { type = "file" }, to = { type = "integer", min = 0 },
  series = { choices = { "nebula", "project" } },
  lock_timeout = { type = "duration", default = 2 }, patience = { type = "duration", default = 600 },
  dry_run = { default = false },
}

---@class nebula.migrate.options
---@field path? string the project's migrations
---@field to? integer a version of the project's series (of `series`)
---@field series? "nebula"|"project"
---@field lock_timeout? nebula.Duration longest wait for one lock (2 s); 0 waits for ever
---@field patience? nebula.Duration how long a lock is tried for again and again (10 min)
---@field dry_run? boolean run, and roll back
---@field log? fun(line: string)
---@field progress? fun(label: string, total: integer): nebula.ui.Bar of backfills

local function fail(message, ...)
  error(nebula.error { kind = "migration", message = message:format(...) }, 0)
end

-- Where the project's migrations are, of a function that asks.
local function path_of(what, opts) return check.fields("migrate." .. what, opts or {}, { path = true }).path end

local function split(given)
  local values = {}
  for name, value in pairs(given or {}) do values[name] = value end
  local log, progress = values.log, values.progress
  values.log, values.progress = nil, nil
  local opts = options.coerce(WORKING, values, "migrate")
  opts.log, opts.progress = log or function(line) nebula.log.info(line) end, progress
  return opts
end

--- The series and their directories, in the order they are applied.
---@param path? string the project's; default MIGRATION_PATH, else ./migrations where it exists
---@return {name: "nebula"|"project", directory: string}[]
function migrate.series(path) return series.list(path) end

-- ---- asking ----

local function state_of(row)
  if not row then return "pending" end
  return row.complete and "applied" or "interrupted"
end

--- Every migration with its state. Changes nothing.
---@param db nebula.pg.queries
---@param opts? {path: string}
---@return {series: string, version: integer, name: string, state: "applied"|"pending"|"interrupted",
---  origin: string?, applied_at: string?, applied_by: string?, duration_ms: integer?, summary: string?}[]
function migrate.status(db, opts)
  local rows = {}
  for i, entry in ipairs(series.checked(db, path_of("status", opts))) do
    local migration, row = entry.migration, entry.row
    rows[i] = {
      series = migration.series, version = migration.version, name = migration.name, summary = migration.summary,
      state = state_of(row), origin = row and row.origin,
      applied_at = row and row.applied_at, applied_by = row and row.applied_by,
      duration_ms = row and row.duration_ms,
    }
  end
  return rows
end

--- How many migrations are not applied. Changes nothing.
---@param db nebula.pg.queries
---@param opts? {path: string}
---@return integer
function migrate.pending(db, opts)
  local count = 0
  for _, row in ipairs(migrate.status(db, opts)) do
    if row.state ~= "applied" then count = count + 1 end
  end
  return count
end

--- What is wrong between the files and what was applied: `divergent` (changed since), `missing` (its
--- file is gone), `out of order` (came below what was applied). Changes nothing.
---@param db nebula.pg.queries
---@param opts? {path: string}
---@return nebula.MigrationProblem[]
function migrate.verify(db, opts)
  local _, problems = series.collect(db, path_of("verify", opts))
  return problems
end

local function described(step)
  if type(step) == "string" then return step end
  local info = debug.getinfo(step, "S")
  return ("-- a function, %s:%d to %d"):format(info.short_src, info.linedefined, info.lastlinedefined)
end

--- What `up` would run. Changes nothing.
---@param db nebula.pg.queries
---@param opts? {path: string, to: integer, series: string}
---@return {series: string, version: integer, name: string, transaction: boolean, steps: string[]}[]
function migrate.plan(db, opts)
  opts = check.fields("migrate.plan", opts or {}, { path = true, to = true, series = true })
  local entries = series.up_to(series.checked(db, opts.path), series.target(opts.path, opts.series), opts.to)
  local plan, ours = {}, {}
  for _, entry in ipairs(entries) do
    local migration, row = entry.migration, entry.row
    if migration.series == "nebula" then ours[migration.version] = migration end
    if not (row and row.complete) then
      local steps = {}
      if adopt.may_double(entry, ours) then
        steps[1] = "-- not run where it makes what nebula's own makes; else:"
      end
      for i = (row and row.steps or 0) + 1, #migration.up do steps[#steps + 1] = described(migration.up[i]) end
      plan[#plan + 1] = { series = migration.series, version = migration.version, name = migration.name,
        transaction = migration.transaction, steps = steps }
    end
  end
  return plan
end

-- ---- running ----

-- Calls fn(work) as the only migrator.
local function working(db, opts, fn)
  local held <close> = lock.hold(db, opts.log)
  local work = { held = held, log = opts.log, progress = opts.progress, lock_timeout = opts.lock_timeout,
    patience = opts.patience, api = migrate, trial = opts.dry_run }
  run.begin(work)
  return fn(work, held.work)
end

local DOUBLE = "makes what nebula's own makes: taken as applied"

-- What was run, for the caller, and a line of it.
local function result(log, migration, seconds, did)
  log(("%s %s %s in %.0f ms"):format(migration.series, run.label(migration), did, seconds * 1000))
  return { series = migration.series, version = migration.version, name = migration.name, seconds = seconds }
end

-- Calls fn in a transaction that is rolled back, and returns what fn returned.
local function rolled_back(connection, fn)
  local results
  local _, err = nebula.try(connection.transaction, connection, function(tx)
    results = fn(tx)
    error(nebula.error { kind = "migration", message = "tried" }, 0)
  end)
  if not results then error(err, 0) end
  return results
end

local function is_pending(entry) return not (entry.row and entry.row.complete) end

-- Splits what is pending into what is to be run and what ours makes already.
local function to_run(connection, entries)
  local list, double = {}, adopt.doubles(connection, entries)
  for _, entry in ipairs(entries) do
    if is_pending(entry) then list[#list + 1] = { entry = entry, double = double[entry.migration] } end
  end
  return list
end

--- Applies every migration that is pending. Any number of migrators may be started at once: one
--- works, the others wait and find nothing left to do.
--- Raises `migration` with the file, the step and what the server said.
---@param db nebula.pg.Pool with two connections free
---@param given? nebula.migrate.options
---@return {series: string, version: integer, name: string, seconds: number}[] applied
function migrate.up(db, given)
  local opts = split(given)
  local target = series.target(opts.path, opts.series)
  -- mistakes in the files are told before anyone waits
  series.up_to(series.checked(db, opts.path), target, opts.to)

  return working(db, opts, function(work, connection)
    local entries = series.up_to(series.checked(connection, opts.path), target, opts.to)
    local foreign = adopt.wanted(connection, entries)
    if foreign then fail("%s; nothing was run", foreign) end
    if opts.dry_run then
      return rolled_back(connection, function(tx)
        local tried = {}
        for i, one in ipairs(to_run(tx, entries)) do
          local migration, row = one.entry.migration, one.entry.row
          local seconds = one.double and 0 or run.try(work, tx, migration, "up", (row and row.steps or 0) + 1)
          tried[i] = result(opts.log, migration, seconds, one.double and DOUBLE or "tried, and rolled back,")
        end
        return tried
      end)
    end
    history.prepare(connection)
    local applied = {}
    for i, one in ipairs(to_run(connection, entries)) do
      local migration, seconds = one.entry.migration, 0
      if one.double then
        history.record(connection, migration, #migration.up, 0, "adopted")
      else
        seconds = run.apply(work, migration, one.entry.row)
      end
      applied[i] = result(opts.log, migration, seconds, one.double and DOUBLE or "applied")
    end
    return applied
  end)
end

-- What is undone, the newest first: down to `to`, without it the newest alone. Each has a `down`.
local function to_undo(entries, target, to)
  local list = {}
  for i = #entries, 1, -1 do
    local migration = entries[i].migration
    if entries[i].row and migration.series == target and (to and migration.version > to or not to and #list == 0) then
      if not migration.down then fail("%s: it has no `down`; nothing was undone", migration.path) end
      list[#list + 1] = entries[i]
    end
  end
  return list
end

--- Undoes the newest migration of a series, or every one above `to`. All of them must have a `down`.
--- Raises `migration`.
---@param db nebula.pg.Pool with two connections free
---@param given? nebula.migrate.options
---@return {series: string, version: integer, name: string, seconds: number}[] undone
function migrate.down(db, given)
  local opts = split(given)
  local target = series.target(opts.path, opts.series)
  to_undo(series.checked(db, opts.path), target, opts.to)

  return working(db, opts, function(work, connection)
    local list = to_undo(series.checked(connection, opts.path), target, opts.to)
    if opts.dry_run then
      return rolled_back(connection, function(tx)
        local tried = {}
        for i, entry in ipairs(list) do
          local seconds = run.try(work, tx, entry.migration, "down", (entry.row.undone or 0) + 1)
          tried[i] = result(opts.log, entry.migration, seconds, "tried, and rolled back,")
        end
        return tried
      end)
    end
    if list[1] then history.prepare(connection) end
    local undone = {}
    for i, entry in ipairs(list) do
      undone[i] = result(opts.log, entry.migration, run.undo(work, entry.migration, entry.row), "undone")
    end
    return undone
  end)
end

--- Takes the migrations of a series up to `to` as applied, and runs nothing: for a database that has
--- what they make. Raises `migration` where the series has a history already.
---@param db nebula.pg.Pool with two connections free
---@param given nebula.migrate.options with `to`
---@return {series: string, version: integer, name: string, seconds: number}[] taken
function migrate.baseline(db, given)
  local opts = split(given)
  if not opts.to then fail "baseline wants the version that the database has (--to N)" end
  local target = series.target(opts.path, opts.series)
  return working(db, opts, function(_, connection)
    local taken = {}
    for _, entry in ipairs(series.up_to(series.checked(connection, opts.path), target, opts.to)) do
      if entry.migration.series == target then
        if entry.row then
          fail("%s is in the history already: a baseline is set once, on a database without one",
            run.label(entry.migration))
        end
        taken[#taken + 1] = entry.migration
      end
    end
    return connection:transaction(function(tx)
      history.prepare(tx)
      for i, migration in ipairs(taken) do
        history.record(tx, migration, #migration.up, 0, "baseline")
        taken[i] = result(opts.log, migration, 0, "taken as applied")
      end
      return taken
    end)
  end)
end

--- Takes over a database that refinery has migrated, or that has the tables of V1 to V3 already, after
--- checking every checksum and comparing the tables. Raises `migration` with the differences, and has
--- then written nothing.
---@param db nebula.pg.Pool with two connections free
---@param given? nebula.migrate.options
---@return {series: string, version: integer, name: string, seconds: number}[] taken
function migrate.adopt(db, given)
  local opts = split(given)
  return working(db, opts, function(_, connection)
    local taken = adopt.run(connection, series.checked(connection, opts.path), opts.dry_run)
    for i, migration in ipairs(taken) do
      taken[i] = result(opts.log, migration, 0, opts.dry_run and "could be taken" or "taken as applied")
    end
    return taken
  end)
end

--- Why the database must be adopted before `up` runs anything on it; nil where it need not be.
---@param db nebula.pg.queries
---@param opts? {path: string}
---@return string?
function migrate.foreign(db, opts)
  return adopt.wanted(db, (series.collect(db, path_of("foreign", opts))))
end

--- Changes the rows of a big table page by page, by primary key; see migrate/backfill.lua. Inside of a
--- migration, use the `migrate` that its function is given: its progress is then the migration's.
---@param db nebula.pg.queries
---@param opts {table: string, set: string, where?: string, key?: string[]|string, batch?: integer,
---  target?: nebula.Duration, max_lag?: nebula.Duration, pause?: nebula.Duration}
---@return integer changed rows
function migrate.backfill(db, opts)
  local name = "script/" .. nebula.crypto.sha256(("%s\0%s\0%s"):format(opts.table, opts.set, opts.where))
  local changed = backfill.run(db, opts, {
    name = name, log = function(line) nebula.log.info(line) end,
    progress = ui.terminal "stderr" and function(label, total)
      return ui.progress { label = label, total = total, unit = "rows" }
    end or nil,
  })
  backfill.forget(db, name)
  return changed
end

return migrate
