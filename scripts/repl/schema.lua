-- schema.lua: the names that strings of SQL and of blob keys may hold, for Tab. They are read in the
-- background and kept; a key press gets what is there by then and never waits.
local nebula = require "nebula"

local schema = {}

local FRESH_SECONDS, MOST_KEYS, MOST_WORKFLOWS, ROWS_A_TURN = 30, 200, 1000, 200

local WORDS = { "SELECT", "FROM", "WHERE", "GROUP BY", "ORDER BY", "LIMIT", "INSERT INTO", "VALUES", "UPDATE", "SET",
  "DELETE", "RETURNING", "JOIN", "LEFT JOIN", "HAVING", "DISTINCT", "BETWEEN", "EXISTS", "COALESCE", "count", "now",
  "interval" }

local RELATIONS = [[
  SELECT c.relname AS name, array_agg(a.attname ORDER BY a.attnum) AS columns
  FROM pg_class c
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND pg_table_is_visible(c.oid)
    AND c.relnamespace <> 'pg_catalog'::regnamespace
  GROUP BY 1
]]

-- What was read: table -> columns; the tables' names, sorted; prefix -> keys; workflow names.
local tables, sorted, tables_at, keys, workflows = {}, {}, nil, {}, {}
local loading = {}

-- Runs fn in the background, one of a name at a time; its failure is no business of a key press.
local function in_background(name, fn)
  if loading[name] then return end
  loading[name] = true
  nebula.task.spawn(function()
    nebula.try(fn)
    loading[name] = nil
  end)
end

local function refresh_tables(env)
  if tables_at and nebula.time.monotonic() - tables_at < FRESH_SECONDS then return end
  in_background("tables", function()
    local found = {}
    local names = {}
    for row in env.db:rows { RELATIONS, deadline = 60 } do
      found[row.name], names[#names + 1] = row.columns, row.name
      if #names % ROWS_A_TURN == 0 then nebula.task.sleep(0) end -- a key press comes between
    end
    table.sort(names)
    tables, sorted, tables_at = found, names, nebula.time.monotonic()
  end)
end

--- Forgets everything: another database is talked to.
function schema.forget() tables, sorted, tables_at, keys, workflows = {}, {}, nil, {}, {} end

--- Reads the tables in the background where they are not known yet.
---@param env table
function schema.warm(env)
  if not tables_at then refresh_tables(env) end
end

local function add(list, names, word)
  for _, name in ipairs(names) do
    if name:sub(1, #word) == word then list[#list + 1] = name end
  end
end

-- The tables that begin with the word: there may be many thousand, so they are looked up.
local function add_tables(list, word)
  local low, high = 1, #sorted + 1
  while low < high do
    local middle = (low + high) // 2
    if sorted[middle] < word then low = middle + 1 else high = middle end
  end
  while sorted[low] and sorted[low]:sub(1, #word) == word do
    list[#list + 1], low = sorted[low], low + 1
  end
end

-- Keywords in the case that is being typed.
local function words_like(word)
  if not word:find "%l" then return WORDS end
  local lower = {}
  for i, name in ipairs(WORDS) do lower[i] = name:lower() end
  return lower
end

--- What may stand for the last word of a piece of SQL.
---@param env table
---@param sql string up to the cursor
---@return string word, string[] names
function schema.sql(env, sql)
  refresh_tables(env)
  local owner, word = sql:match "([%a_][%w_]*)%.([%w_]*)$"
  local names = {}
  if owner then
    local of = tables[owner]
    if not of then -- an alias: FROM jobs AS j, JOIN jobs j
      local name = sql:match("([%a_][%w_]*)%s+[Aa][Ss]%s+" .. owner .. "%f[^%w_]")
        or sql:match("([%a_][%w_]*)%s+" .. owner .. "%f[^%w_]")
      of = tables[name] or {}
    end
    add(names, of, word)
  else
    word = sql:match "[%a_][%w_]*$" or ""
    add_tables(names, word)
    local seen = {}
    for name in sql:gmatch "[%a_][%w_]*" do
      if tables[name] and not seen[name] then add(names, tables[name], word) end
      seen[name] = true
    end
    if word ~= "" then add(names, words_like(word), word) end
  end
  table.sort(names)
  local unique = {}
  for i, name in ipairs(names) do
    if name ~= names[i - 1] then unique[#unique + 1] = name end
  end
  return word, unique
end

--- The keys of the store that begin with the prefix, as far as they were read already.
---@param env table
---@param prefix string
---@return string prefix, string[] names
function schema.keys(env, prefix)
  local known = keys[prefix]
  if not known or nebula.time.monotonic() - known.at > FRESH_SECONDS then
    in_background("keys", function()
      local found = {}
      for object in env.blobs:list { prefix = prefix } do
        found[#found + 1] = object.key
        if #found == MOST_KEYS then break end
      end
      keys[prefix] = { at = nebula.time.monotonic(), names = found }
    end)
  end
  return prefix, known and known.names or {}
end

--- The names of the tables known by now, sorted.
---@param env table
---@return string[]
function schema.tables(env)
  refresh_tables(env)
  return sorted
end

--- The names of the workflows, as far as they were read already.
---@param env table
---@return string[]
function schema.workflows(env)
  if not workflows.at or nebula.time.monotonic() - workflows.at > FRESH_SECONDS then
    in_background("workflows", function()
      local names = {}
      for i, row in ipairs(env.db:query({ "SELECT DISTINCT name FROM workflows ORDER BY 1 LIMIT $1", deadline = 10 },
        MOST_WORKFLOWS)) do names[i] = row.name end
      workflows = { at = nebula.time.monotonic(), names = names }
    end)
  end
  return workflows.names or {}
end

return schema
