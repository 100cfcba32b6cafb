-- migrate/history.lua: what a database remembers of its migrations: one row a migration, and what
-- is wrong between those rows and the files.
--
-- A row of a migration without a transaction is written before its first step, and grows with each:
-- `steps` are done, `running` is the one that may have been cut off, `undone` counts the steps of
-- its `down`. There is no flag that a person has to clear: the next run goes on from these numbers.
local nebula = require "nebula"

local history = {}

local COLUMNS_ADDED = { running = "INTEGER NOT NULL DEFAULT 0", undone = "INTEGER NOT NULL DEFAULT 0",
  origin = "TEXT NOT NULL DEFAULT 'applied'" }

local CREATE = [[
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
    running INTEGER NOT NULL DEFAULT 0,
    undone INTEGER NOT NULL DEFAULT 0,
    origin TEXT NOT NULL DEFAULT 'applied',
    PRIMARY KEY (series, version)
  )
]]

local RECORD = [[
  INSERT INTO nebula_schema_history AS h
    (series, version, name, checksum, steps, complete, duration_ms, origin, applied_at)
  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, coalesce($9::timestamptz, clock_timestamp()))
  ON CONFLICT (series, version) DO UPDATE
  SET name = excluded.name, checksum = excluded.checksum, steps = excluded.steps, complete = excluded.complete,
    duration_ms = h.duration_ms + excluded.duration_ms, applied_at = excluded.applied_at,
    running = 0, undone = 0, origin = excluded.origin
]]

--- Makes the table where there is none.
---@param connection nebula.pg.Connection
function history.prepare(connection)
  local present = {}
  for _, row in ipairs(connection:query [[
    SELECT attname AS name
    FROM pg_attribute
    WHERE attrelid = to_regclass('nebula_schema_history') AND attnum > 0 AND NOT attisdropped
  ]]) do
    present[row.name] = true
  end
  if not present.series then return connection:exec(CREATE) end
  for name, kind in pairs(COLUMNS_ADDED) do
    if not present[name] then
      connection:exec(("ALTER TABLE nebula_schema_history ADD COLUMN %s %s"):format(name, kind))
    end
  end
end

---@class nebula.MigrationRow
---@field series string
---@field version integer
---@field name string
---@field checksum string
---@field steps integer of `up`, done
---@field complete boolean
---@field running integer? the step that was begun and did not end
---@field undone integer? steps of `down`, done
---@field origin string? applied, baseline or adopted
---@field applied_at string
---@field applied_by string
---@field duration_ms integer

--- The rows, by series and version; none where there is no table.
---@param db nebula.pg.queries
---@return table<string, table<integer, nebula.MigrationRow>>
function history.read(db)
  local applied = {}
  if not db:value "SELECT to_regclass('nebula_schema_history')::text" then return applied end
  for _, row in ipairs(db:query "SELECT * FROM nebula_schema_history ORDER BY series, version") do
    applied[row.series] = applied[row.series] or {}
    applied[row.series][row.version] = row
  end
  return applied
end

--- Writes a migration's row.
---@param connection nebula.pg.Connection
---@param migration nebula.Migration
---@param steps integer done
---@param seconds number this took
---@param origin? "applied"|"baseline"|"adopted"
---@param at? string
function history.record(connection, migration, steps, seconds, origin, at)
  connection:exec(RECORD, migration.series, migration.version, migration.name, migration.checksum, steps,
    steps == #migration.up, math.floor(seconds * 1000), origin or "applied", at)
end

--- Writes which step is begun (0: none).
function history.mark(connection, migration, step)
  connection:exec("UPDATE nebula_schema_history SET running = $3 WHERE series = $1 AND version = $2",
    migration.series, migration.version, step)
end

--- Writes how many steps of `down` are done.
function history.undo(connection, migration, steps)
  connection:exec("UPDATE nebula_schema_history SET undone = $3, complete = false, running = 0 "
    .. "WHERE series = $1 AND version = $2", migration.series, migration.version, steps)
end

function history.remove(connection, migration)
  connection:exec("DELETE FROM nebula_schema_history WHERE series = $1 AND version = $2", migration.series,
    migration.version)
end

---@class nebula.MigrationProblem
---@field kind "divergent"|"missing"|"out of order"
---@field series string
---@field version integer
---@field name string
---@field message string

--- What may not be passed over: a migration that changed after it ran, one that is gone, one that
--- came too late.
---@param series {name: string, directory: string}
---@param list nebula.Migration[]
---@param applied table<integer, nebula.MigrationRow>
---@return nebula.MigrationProblem[] by version
function history.problems(series, list, applied)
  local newest, by_version, found = 0, {}, {}
  local function add(kind, version, name, message, ...)
    found[#found + 1] = { kind = kind, series = series.name, version = version, name = name,
      message = message:format(...) }
  end
  for _, migration in ipairs(list) do by_version[migration.version] = migration end
  for version, row in pairs(applied) do
    newest = math.max(newest, row.complete and version or 0)
    local migration = by_version[version]
    if not migration then
      add("missing", version, row.name, "V%d__%s (%s) was applied at %s, but its file is not in %s; put it back",
        version, row.name, series.name, row.applied_at, series.directory)
    elseif row.complete and migration.checksum ~= row.checksum then
      add("divergent", version, row.name, "%s has changed since it was applied at %s (checksum %s, was %s); "
        .. "put the file back and write the change as a new migration", migration.path, row.applied_at,
        migration.checksum:sub(1, 12), row.checksum:sub(1, 12))
    end
  end
  for _, migration in ipairs(list) do
    if migration.version < newest and not applied[migration.version] and not migration.unordered then
      add("out of order", migration.version, migration.name,
        "%s comes too late: V%d is applied already; give it a number above that", migration.path, newest)
    end
  end
  table.sort(found, function(a, b) return a.version < b.version end)
  return found
end

--- Raises the problems as one `migration` error.
---@param problems nebula.MigrationProblem[]
function history.refuse(problems)
  if #problems == 0 then return end
  local lines = {}
  for i, problem in ipairs(problems) do lines[i] = problem.message end
  error(nebula.error { kind = "migration", message = table.concat(lines, "\n") }, 0)
end

return history
