-- filter.lua: WHERE clauses from tables of filters: columns by name, `limit`, and `after` for pages.
local check = require "nebula.check"
local nebula = require "nebula"
local raise = require "nebula.raise"

local filter = {}

local DEFAULT_LIMIT, MOST = 100, 10000

-- Values of a few known ones stand in the statement itself: a partial index is chosen by them.
local function equal_choice(column, value)
  if type(value) ~= "table" then return ("%s = %s"):format(column, nebula.pg.literal(value)) end
  local list = {}
  for i, item in ipairs(value) do list[i] = nebula.pg.literal(item) end
  return #list > 0 and ("%s IN (%s)"):format(column, table.concat(list, ", ")) or "false"
end

-- One condition of a kind on a column; the parameter is appended to args.
local CONDITIONS = {
  equal = function(column, value, args)
    if type(value) == "table" then
      args.n = args.n + 1
      args[args.n] = value
      return ("%s = ANY ($%d)"):format(column, args.n)
    end
    args.n = args.n + 1
    args[args.n] = value
    return ("%s = $%d"):format(column, args.n)
  end,
  before = function(column, value, args)
    args.n = args.n + 1
    args[args.n] = value
    return ("%s < $%d::timestamptz"):format(column, args.n)
  end,
  like = function(column, value, args)
    args.n = args.n + 1
    args[args.n] = value
    return ("%s LIKE $%d"):format(column, args.n)
  end,
}

---@class nebula.Filter
---@field column string the SQL expression
---@field kind? "equal"|"like"|"before" default equal, where a list means any of them; before a time
---@field choices? string[] what its value may be
---@field type? "text"|"uuid"|"integer"|"boolean" what else its value is; default text

local MOST_INTEGER = 2147483647
local TYPES = {
  text = check.text,
  uuid = check.id,
  integer = function(what, value) return check.integer(what, value, -MOST_INTEGER - 1, MOST_INTEGER) end,
  boolean = function(what, value)
    if type(value) ~= "boolean" then raise("validation", "%s wants true or false, not %s", what, tostring(value)) end
    return value
  end,
}

-- The value, or each of a list of them, as the column takes it.
local function checked(what, field, value)
  local function one(item)
    if field.choices then return check.choice(what, item, field.choices) end
    return TYPES[field.type or "text"](what, item)
  end
  if type(value) ~= "table" or value.id then return one(value) end
  local list = {}
  for i = 1, #value do list[i] = one(value[i]) end
  return list
end

--- Adds the conditions of the given filters to a list.
---@param what string the operation, for messages
---@param given table
---@param declared table<string, nebula.Filter>
---@param args table {n = 0}: the parameters so far
---@param conditions? string[]
---@return string[] conditions
function filter.conditions(what, given, declared, args, conditions)
  conditions = conditions or {}
  local names = {}
  for name in pairs(given) do
    if declared[name] then names[#names + 1] = name end
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local field, value = declared[name], given[name]
    value = checked(what .. ": " .. name, field, value)
    local condition = field.choices and equal_choice or CONDITIONS[field.kind or "equal"]
    conditions[#conditions + 1] = condition(field.column, value, args)
  end
  return conditions
end

--- "WHERE a AND b", or nothing.
---@param conditions string[]
---@return string
function filter.where(conditions)
  return #conditions > 0 and "WHERE " .. table.concat(conditions, " AND ") or ""
end

--- The page size asked for.
---@param what string
---@param given table
---@return integer
function filter.limit(what, given)
  return given.limit == nil and DEFAULT_LIMIT or check.integer(what .. ": limit", given.limit, 1, MOST)
end

--- Refuses names that are no filter of this operation.
---@param what string
---@param given table?
---@param declared table<string, nebula.Filter>
---@param more? string[] names besides the filters
---@return table given
function filter.check(what, given, declared, more)
  local known = {}
  for name in pairs(declared) do known[name] = true end
  for _, name in ipairs(more or { "limit", "after" }) do known[name] = true end
  return check.fields(what, given or {}, known)
end

-- The filters, once for each of several choices that are asked for.
local function by_choice(given, declared)
  for name, field in pairs(declared) do
    local list = field.choices and given[name]
    if type(list) == "table" and #list > 1 then
      local all, seen = {}, {}
      for _, choice in ipairs(list) do
        if not seen[choice] then
          local one = {}
          for key, value in pairs(given) do one[key] = value end
          one[name], seen[choice] = choice, true
          all[#all + 1] = one
        end
      end
      return all
    end
  end
  return { given }
end

--- A page of a table with a UUID key, the newest ids first; `after` is the last row of the page before,
--- or its id. Of several states the page is made of a page of each, which an index by state and id serves.
---@param db nebula.pg.queries
---@param what string the operation, for messages
---@param from string the table's name
---@param given table?
---@param declared table<string, nebula.Filter> at most one with choices
---@return table[]
function filter.page(db, what, from, given, declared)
  given = filter.check(what, given, declared)
  local args, limit, pages = { n = 0 }, filter.limit(what, given), {}
  for i, one in ipairs(by_choice(given, declared)) do
    local conditions = filter.conditions(what, one, declared, args)
    if given.after then
      args.n = args.n + 1
      args[args.n] = check.id(what .. ": after", given.after)
      conditions[#conditions + 1] = ("id < $%d"):format(args.n)
    end
    pages[i] = ("(SELECT * FROM %s %s ORDER BY id DESC LIMIT %d)"):format(from, filter.where(conditions), limit)
  end
  local sql = pages[1]
  if #pages > 1 then
    sql = ("SELECT * FROM (%s) page ORDER BY id DESC LIMIT %d"):format(table.concat(pages, " UNION ALL "), limit)
  end
  return db:query(sql, table.unpack(args, 1, args.n))
end

return filter
