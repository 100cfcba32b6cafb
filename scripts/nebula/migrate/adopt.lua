-- migrate/adopt.lua: takes over a database that refinery has migrated, or that has the tables of V1
-- to V3 already.
--
-- refinery keeps its history in refinery_schema_history, with a checksum for each migration: the
-- SipHash-1-3 with the key (0, 0) of the name, 0xFF, the version as 4 bytes little-endian, the SQL
-- byte for byte, 0xFF. Each row must have its .sql file in the project's directory, with that
-- checksum, and no file may have been passed over; the live tables of V1 to V3 must be what our V1
-- to V3 would make. Then the rows are written to our history; else nothing is. refinery's own table
-- stays as it is.
local history = require "nebula.migrate.history"
local nebula = require "nebula"
local schema = require "nebula.migrate.schema"
local siphash = require "nebula.migrate.siphash"

local adopt = {}

-- The tables of the host's V1, V2 and V3.
local TABLES = { "workflows", "executions", "workflow_jobs" }

local function fail(message, ...)
  error(nebula.error { kind = "migration", message = message:format(...) }, 0)
end

--- The checksum that refinery keeps of a migration, in decimal.
---@param name string
---@param version integer
---@param text string
---@param wide? boolean with refinery's feature int8-versions: the version in 8 bytes
---@return string
function adopt.checksum(name, version, text, wide)
  return siphash.decimal(siphash.sum(("%s\xff%s%s\xff"):format(name, string.pack(wide and "<i8" or "<i4", version),
    text)))
end

-- refinery's rows; nil where the database has no such table.
local function refinery_rows(db)
  if not db:value "SELECT to_regclass('refinery_schema_history')::text" then return nil end
  return db:query [[
    SELECT version, coalesce(name, '') AS name, coalesce(applied_on, '') AS applied_on,
      coalesce(checksum, '') AS checksum, pg_typeof(version) = 'bigint'::regtype AS wide
    FROM refinery_schema_history
    ORDER BY version
  ]]
end

-- When refinery applied it; nil where the column, which is free text, holds no time.
local function time_of(row)
  local at = row and nebula.try(nebula.time.parse, row.applied_on)
  return at and at > -1e10 and at < 1e10 and nebula.time.format(at) or nil
end

local function sum_of(row, text) return adopt.checksum(row.name, row.version, text, row.wide) end

-- Why a checksum differs, where that can be told.
local function reason(row, migration)
  local lf = migration.raw:gsub("\r\n", "\n")
  for _, other in ipairs { lf, (lf:gsub("\n", "\r\n")) } do
    if sum_of(row, other) == row.checksum then return "; only its line endings changed" end
  end
  return ""
end

local function newest_of(rows) return #rows > 0 and rows[#rows].version or 0 end

-- The lines of a diff between refinery's rows and the files: "-" is recorded, "+" is there.
local function compare_files(rows, entries)
  local lines, by_version, seen, newest = {}, {}, {}, newest_of(rows)
  local function add(line, ...) lines[#lines + 1] = line:format(...) end
  for _, entry in ipairs(entries) do
    if entry.migration.series == "project" then by_version[entry.migration.version] = entry.migration end
  end
  for _, row in ipairs(rows) do
    seen[row.version] = true
    local migration = by_version[row.version]
    local recorded = ("- V%d__%s %s"):format(row.version, row.name, row.checksum)
    if not migration or migration.kind ~= "sql" then
      add("%s (applied %s; there is no V%d__%s.sql)", recorded, row.applied_on, row.version, row.name)
    elseif migration.name ~= row.name or sum_of(row, migration.raw) ~= row.checksum then
      add("%s (applied %s)", recorded, row.applied_on)
      add("+ V%d__%s %s (%s%s)", migration.version, migration.name,
        adopt.checksum(migration.name, migration.version, migration.raw, row.wide), migration.path,
        reason(row, migration))
    end
  end
  for version, migration in pairs(by_version) do
    if version < newest and not seen[version] and not migration.unordered then
      add("+ V%d__%s (%s was never applied, but V%d was)", version, migration.name, migration.path, newest)
    end
  end
  table.sort(lines, function(a, b) return tonumber(a:match "%d+") < tonumber(b:match "%d+") end)
  return lines
end

-- The host's V1 to V3 that the live tables satisfy, and the lines of a diff where they do not.
local function compare_tables(connection, entries)
  local base, live, newest, lines = {}, {}, 0, {}
  for _, entry in ipairs(entries) do
    local migration = entry.migration
    local name = migration.series == "nebula" and TABLES[migration.version]
    if name and not entry.row then
      base[#base + 1] = migration
      live[name] = schema.describe(connection, name)
      if live[name] then newest = #base end
    end
  end
  if newest == 0 or #base < #TABLES then return {}, lines end
  local wanted = schema.wanted(connection, base, TABLES)
  local taken = {}
  for i = 1, newest do
    local name = TABLES[base[i].version]
    taken[i] = base[i]
    if not live[name] then
      lines[#lines + 1] = ("- %s: the table (%s is there)"):format(name, TABLES[base[newest].version])
    else
      for _, line in ipairs(schema.compare(name, wanted[name], live[name])) do lines[#lines + 1] = line end
    end
  end
  return taken, lines
end

--- The project's files that have not been applied and make what ours of the same version and name makes:
--- a project that came from refinery keeps its V1 to V3. Ours goes first; theirs would find the table
--- there, and counts as applied.
---@param connection nebula.pg.Connection
---@param entries nebula.MigrationEntry[]
---@return table<nebula.Migration, boolean>
function adopt.doubles(connection, entries)
  local ours, theirs, merged, found = {}, {}, {}, {}
  for _, entry in ipairs(entries) do
    local migration = entry.migration
    if migration.series == "nebula" and TABLES[migration.version] then
      ours[migration.version], merged[migration.version] = migration, migration
    elseif adopt.may_double(entry, ours) then
      theirs[#theirs + 1], merged[migration.version] = migration, migration
    end
  end
  if #theirs == 0 or #ours < #TABLES then return found end
  local wanted = schema.wanted(connection, ours, TABLES)
  local made = nebula.try(schema.wanted, connection, merged, TABLES) -- theirs may need what is not there yet
  for _, migration in ipairs(made and theirs or {}) do
    local name = TABLES[migration.version]
    if made[name] and #schema.compare(name, wanted[name], made[name]) == 0 then found[migration] = true end
  end
  return found
end

--- Whether it may be one of those: pending SQL of the version and name of one of ours.
---@param entry nebula.MigrationEntry
---@param ours table<integer, nebula.Migration>
---@return boolean
function adopt.may_double(entry, ours)
  local migration = entry.migration
  local mine = TABLES[migration.version] and ours[migration.version]
  return mine and migration.series == "project" and not entry.row and migration.kind == "sql"
    and migration.name == mine.name
end

--- Says why a database must be adopted before anything is run on it; nil where it need not be.
---@param db nebula.pg.queries
---@param entries nebula.MigrationEntry[]
---@return string?
function adopt.wanted(db, entries)
  local first, pending = entries[1], {}
  for _, entry in ipairs(entries) do
    if entry.migration.series == "project" and not entry.row then pending[entry.migration.version] = true end
  end
  local rows = (next(pending) or first and not first.row) and refinery_rows(db)
  for _, row in ipairs(rows or {}) do
    if pending[row.version] or not first.row then
      return ("refinery has migrated this database, to V%d: `nebula migrate adopt` checks that and takes it over")
        :format(rows[#rows].version)
    end
  end
  if first and first.migration.series == "nebula" and not first.row
    and db:value("SELECT to_regclass($1)::text", TABLES[1]) then
    return ("the table %s is there already: `nebula migrate adopt` compares it with what V1 would make")
      :format(TABLES[1])
  end
end

--- Checks everything and takes it over. Raises `migration` with the differences, and has then written
--- nothing.
---@param connection nebula.pg.Connection of the only migrator
---@param entries nebula.MigrationEntry[]
---@param dry_run boolean
---@return nebula.Migration[] taken
function adopt.run(connection, entries, dry_run)
  local rows = refinery_rows(connection)
  local lines = compare_files(rows or {}, entries)
  local taken, different = compare_tables(connection, entries)
  local double = {}
  for migration in pairs(#taken > 0 and adopt.doubles(connection, entries) or {}) do
    double[migration] = migration.version <= #taken
    if rows and double[migration] and migration.version > newest_of(rows) then
      lines[#lines + 1] = ("+ V%d__%s (%s was never applied, but its table %s is there)"):format(migration.version,
        migration.name, migration.path, TABLES[migration.version])
    end
  end
  table.move(different, 1, #different, #lines + 1, lines)
  if #lines > 0 then
    fail("this database is not what the migrations say, nothing was written (- wanted or recorded, + found):\n%s%s",
      table.concat(lines, "\n"), #different < #lines and "\n-p DIR says where refinery's .sql files are" or "")
  end
  if not rows and #taken == 0 then
    fail "nothing to adopt: there is neither refinery_schema_history nor a table of V1 to V3 without a history"
  end
  local at, by_version = {}, {}
  for _, row in ipairs(rows or {}) do by_version[row.version] = row end
  for _, entry in ipairs(entries) do
    local migration = entry.migration
    local row = migration.series == "project" and by_version[migration.version]
    if (row or not rows and double[migration]) and not entry.row then
      taken[#taken + 1] = migration
      at[migration] = time_of(row)
    end
  end
  if dry_run then return taken end
  connection:transaction(function(tx)
    history.prepare(tx)
    for _, migration in ipairs(taken) do
      history.record(tx, migration, #migration.up, 0, "adopted", at[migration])
    end
  end)
  return taken
end

return adopt
