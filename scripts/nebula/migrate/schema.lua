-- migrate/schema.lua: what tables look like, and whether live ones are what migrations would make.
--
-- What they would make is found by making it: in the session's temporary schema, in a transaction
-- that is rolled back. A live table may have more than is wanted, as long as nothing that we write
-- can be refused by it: further columns that may be left out, further indexes that are not unique.
local nebula = require "nebula"

local schema = {}

local COLUMNS = [[
  SELECT a.attname AS name,
    format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
      || coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '') AS definition,
    NOT a.attnotnull OR d.adbin IS NOT NULL OR a.attidentity <> '' AS optional
  FROM pg_attribute a
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped
]]

local INDEXES = [[
  SELECT c.relname AS name, pg_get_indexdef(i.indexrelid) AS definition, NOT i.indisunique AS optional
  FROM pg_index i
  JOIN pg_class c ON c.oid = i.indexrelid
  WHERE i.indrelid = $1::regclass AND i.indisvalid
]]

local CONSTRAINTS = [[
  SELECT conname AS name, pg_get_constraintdef(oid) AS definition, false AS optional
  FROM pg_constraint
  WHERE conrelid = $1::regclass AND contype IN ('c', 'f', 'x')
]]

---@class nebula.TablePart
---@field key string by which it is found in the other table
---@field text string for a person
---@field optional boolean more of these does no harm

local function part(key, text, optional) return { key = key, text = text, optional = optional } end

local function rows_of(connection, sql, name) return connection:query({ sql, prepare = false }, name) end

--- What a table has, in the search path's first schema that has it; nil where there is none.
---@param connection nebula.pg.Connection
---@param name string
---@return nebula.TablePart[]? parts sorted
function schema.describe(connection, name)
  if not connection:value("SELECT to_regclass($1)::text", name) then return nil end
  local parts = {}
  for _, row in ipairs(rows_of(connection, COLUMNS, name)) do
    local text = ("column %s %s"):format(row.name, row.definition)
    parts[#parts + 1] = part(text, text, row.optional)
  end
  for _, row in ipairs(rows_of(connection, INDEXES, name)) do
    local key = row.definition:gsub("^(.*INDEX) .- ON .- (USING .*)$", "%1 %2")
    parts[#parts + 1] = part(key, ("index %s: %s"):format(row.name, key), row.optional)
  end
  for _, row in ipairs(rows_of(connection, CONSTRAINTS, name)) do
    parts[#parts + 1] = part(row.definition, ("constraint %s: %s"):format(row.name, row.definition), row.optional)
  end
  table.sort(parts, function(a, b) return a.text < b.text end)
  return parts
end

--- What the migrations would make of these tables. Leaves nothing behind.
---@param connection nebula.pg.Connection
---@param migrations nebula.Migration[] in SQL
---@param names string[]
---@return table<string, nebula.TablePart[]>
function schema.wanted(connection, migrations, names)
  local made
  local _, err = nebula.try(connection.transaction, connection, function(tx)
    tx:exec "SET LOCAL search_path = pg_temp"
    for _, migration in ipairs(migrations) do
      for _, step in ipairs(migration.up) do tx:exec(step) end
    end
    local found = {}
    for _, name in ipairs(names) do found[name] = schema.describe(tx, name) end
    made = found
    error(nebula.error { kind = "migration", message = "compared" }, 0)
  end)
  if not made then error(err, 0) end
  return made
end

--- How a live table differs from what is wanted, in the lines of a diff: "-" is wanted and not there,
--- "+" is there and may refuse what we write.
---@param name string
---@param wanted nebula.TablePart[]
---@param live nebula.TablePart[]
---@return string[] lines
function schema.compare(name, wanted, live)
  local lines, there, known = {}, {}, {}
  for _, one in ipairs(live) do there[one.key] = true end
  for _, one in ipairs(wanted) do
    known[one.key], known[one.text:match "^column %S+" or ""] = true, true
    if not there[one.key] then lines[#lines + 1] = ("- %s: %s"):format(name, one.text) end
  end
  for _, one in ipairs(live) do
    local column = one.text:match "^column %S+"
    if not known[one.key] and (not one.optional or column and known[column]) then
      lines[#lines + 1] = ("+ %s: %s"):format(name, one.text)
    end
  end
  return lines
end

return schema
