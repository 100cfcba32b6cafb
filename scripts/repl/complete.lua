-- complete.lua: what Tab offers: names of globals and fields along a dotted path, methods after a
-- colon, Lua's keywords; options inside of a call's braces; commands after a dot; what strings.lua
-- knows inside of strings. It looks at tables as they are and waits for nothing.
local environment = require "repl.environment"
local nebula = require "nebula"
local schema = require "repl.schema"
local strings = require "repl.strings"
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
  if type(index) == "function" then index = meta end -- the class itself, as it is written here
  if type(index) == "table" and depth > 0 then
    fields_of(index, found, depth - 1)
    if index == meta then
      for name in next, found do
        if name:find "^__" then found[name] = nil end
      end
    end
  end
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
    local field = fields_of(value, {}, 8)[name]
    if field == nil and value == env then field = environment.peek(env, name) end
    value = field
    if value == nil then return nil end
  end
  return value
end

local function commands_for(env, before)
  local commands = require "repl.commands"
  local command, argument = before:match "^%s*%.(%a[%w-]*)%s+(.*)$"
  if not command then return before:match "^%s*%.(.*)$", commands.names() end
  if command == "d" then return argument, schema.tables(env) end
  if command == "format" then return argument, require("repl.print").formats end
  if command == "explain" then return schema.sql(env, argument) end
  if command == "load" or command == "output" then return strings.files(argument) end
  local usage = commands[command] and commands[command].usage or ""
  local choices = {}
  for choice in (usage:match "^%[(%l[%l|]*)%]$" or ""):gmatch "%l+" do choices[#choices + 1] = choice end
  return argument, choices
end

-- The names of the options that the call takes in whose braces the cursor is.
local function options_for(env, before)
  local head = before:match "^(.*[{,]%s*)[%a_]?[%w_]*$"
  local path = head and strings.call_of(head)
  local fn = path and resolve(env, path)
  if type(fn) ~= "function" then return nil end
  local names = require("repl.help").options(fn)
  return #names > 0 and names or nil
end

-- What a line that is no Lua at the cursor may go on with.
local function special(env, before)
  if before:find "^%s*%.[%a]*" and before:find "^%s*%.%f[%a\0]" then return commands_for(env, before) end
  return strings.candidates(env, before)
end

local function fitting(names, word)
  local found = {}
  for _, name in ipairs(names) do
    if name:sub(1, #word) == word then found[#found + 1] = name end
  end
  table.sort(found)
  return found
end

--- The candidates for the word before the cursor.
---@param env table the globals
---@param line string
---@param cursor integer byte offset
---@return string word, string[] names, table<string, any> values
function complete.candidates(env, line, cursor)
  local before = line:sub(1, cursor)
  local special_word, given = special(env, before)
  if special_word then return special_word, fitting(given, special_word), {} end
  local path, separator, word = before:match "([%a_][%w_%.:]*)([%.:])([%a_]?[%w_]*)$"
  local found
  if path then
    local value = resolve(env, path)
    found = value ~= nil and fields_of(value, {}, 8) or {}
    if value == nebula then lazy_modules(found) end
  else
    word = before:match "[%a_][%w_]*$" or ""
    local options = options_for(env, before)
    if options and #fitting(options, word) > 0 then return word, fitting(options, word), {} end
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

-- The signature of the function whose opening parenthesis stands before the cursor; nil where
-- nothing is known about it.
local function signature_at(env, line, cursor)
  local path = line:sub(1, cursor):match "([%a_][%w_%.:]*)%s*%(?$"
  local fn = path and resolve(env, path)
  return type(fn) == "function" and require("repl.help").signature(fn) or nil
end

--- All that Tab shows: the candidates, and a function's signature where there is no choice left.
---@param env table
---@param line string
---@param cursor integer
---@return string word, string[] names, table<string, any> values, string? signature
function complete.at(env, line, cursor)
  local before = line:sub(1, cursor)
  if before:find "[%w_]%($" then
    local signature = signature_at(env, line, cursor)
    if signature then return "", {}, {}, signature end
  end
  local word, names, values = complete.candidates(env, line, cursor)
  local fn = #names == 1 and values[names[1]]
  return word, names, values, type(fn) == "function" and require("repl.help").signature(fn) or nil
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
