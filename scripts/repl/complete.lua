-- complete.lua: what Tab offers: names of globals and fields along a dotted path, methods after a
-- colon, Lua's keywords; commands after a dot; tables, columns and keys inside strings of SQL and of
-- the blob store. It looks at tables as they are and waits for nothing.
local environment = require "repl.environment"
local nebula = require "nebula"
local schema = require "repl.schema"
local system = require "nebula.system"

local complete = {}

local KEYWORDS = { "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in",
  "local", "nil", "not", "or", "repeat", "return", "then", "true", "until", "while" }

-- A table's own fields, and those of its metatable's __index, as name -> value.
local function fields_of(value, found, depth)
  if type(value) == "string" then value = string end
  if type(value) == "table" then
    for name, field in next, value do
      if type(name) == "string" and found[name] == nil then found[name] = field end
    end
  end
  local meta = getmetatable(value)
  local index = type(meta) == "table" and rawget(meta, "__index")
  if type(index) == "table" and depth > 0 then fields_of(index, found, depth - 1) end
  return found
end

-- The modules that `nebula.NAME` loads by itself.
local function lazy_modules(found)
  for _, file in ipairs(system.scripts and system.list(system.scripts .. "/nebula") or {}) do
    local name = file:match "^([%a_][%w_]*)%.lua$"
    if name and found[name] == nil then found[name] = false end
  end
end

local function globals(env)
  local found = fields_of(env, {}, 0)
  for _, name in ipairs(environment.names()) do found[name] = found[name] or rawget(env, name) or false end
  for _, name in ipairs(KEYWORDS) do found[name] = found[name] or false end
  return found
end

-- What stands at a path of names, without running a lazy maker or an __index function.
local function resolve(env, path)
  local value = env
  for name in path:gmatch "[%a_][%w_]*" do
    if value == env and name == "nebula" then
      value = nebula
    elseif value == env and name == "task" and rawget(env, "task") == nil then
      value = nebula.task
    else
      value = fields_of(value, {}, 8)[name]
    end
    if value == nil then return nil end
  end
  return value
end

local SQL_CALLS = { sql = true, query = true, one = true, value = true, exec = true, rows = true, copy_out = true }
local KEY_CALLS = { get = true, head = true, exists = true, download = true, reader = true, delete = true, url = true }

-- Inside of a string that a call of SQL or of the store was given: its text up to the cursor.
local function string_argument(before)
  local path, text = before:match "([%a_][%w_.:]*)%s*%(?%s*%[%[(.*)$"
  if not path then
    for _, quote in ipairs { '"', "'" } do
      path, text = before:match("([%a_][%w_.:]*)%s*%(?%s*" .. quote .. "([^" .. quote .. "]*)$")
      if path then break end
    end
  end
  if not path or text:find("]]", 1, true) then return nil end
  return path, path:match "[%w_]+$", text
end

local function commands_for(env, before)
  local names = require "repl.commands".names()
  local command, argument = before:match "^%s*%.(%a[%w-]*)%s+(.*)$"
  if not command then return before:match "^%s*%.(.*)$", names end
  if command == "d" then return argument, schema.tables(env) end
  if command == "format" then return argument, require("repl.print").formats end
  if command == "explain" then return schema.sql(env, argument) end
  return argument, {}
end

-- What a line that is no Lua at the cursor may go on with.
local function special(env, before)
  if before:find "^%s*%.[%a]*" and before:find "^%s*%.%f[%a\0]" then return commands_for(env, before) end
  local path, call, text = string_argument(before)
  if not path then return nil end
  if SQL_CALLS[call] then return schema.sql(env, text) end
  if KEY_CALLS[call] and path:find "^blobs:" then return schema.keys(env, text) end
end

--- The candidates for the word before the cursor.
---@param env table the globals
---@param line string
---@param cursor integer byte offset
---@return string word, string[] names, table<string, any> values
function complete.candidates(env, line, cursor)
  local before = line:sub(1, cursor)
  local special_word, given = special(env, before)
  if special_word then
    local fitting = {}
    for _, name in ipairs(given) do
      if name:sub(1, #special_word) == special_word then fitting[#fitting + 1] = name end
    end
    table.sort(fitting)
    return special_word, fitting, {}
  end
  local path, separator, word = before:match "([%a_][%w_%.:]*)([%.:])([%a_]?[%w_]*)$"
  local found
  if path then
    local value = resolve(env, path)
    found = value ~= nil and fields_of(value, {}, 8) or {}
    if value == nebula then lazy_modules(found) end
  else
    word = before:match "[%a_][%w_]*$" or ""
    found = globals(env)
  end
  local names = {}
  for name, value in pairs(found) do
    local fits = name:sub(1, #word) == word and (word:sub(1, 1) == "_" or name:sub(1, 1) ~= "_")
    if fits and (separator ~= ":" or type(value) == "function") then names[#names + 1] = name end
  end
  table.sort(names)
  return word, names, found
end

--- The text that all candidates share.
---@param names string[]
---@return string
function complete.common(names)
  local first, last = names[1] or "", names[#names] or ""
  local length = 0
  while length < #first and first:byte(length + 1) == last:byte(length + 1) do length = length + 1 end
  return first:sub(1, length)
end

return complete
