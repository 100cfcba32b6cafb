-- options.lua: the one way to declare options: commands, admin tasks, handlers, policies, scripts.
--
-- A declaration is `name = {type=, default=, min=, max=, choices=, required=, help=, short=, metavar=}`;
-- the type is inferred from the default. `older_than` is `--older-than` on a command line, a boolean
-- also `--no-name`. Types: string, integer, number, boolean, duration (seconds), size (bytes), list,
-- map (KEY=VALUE), file, uuid. A value may come as text (command line, environment) or as Lua's own.
local nebula = require "nebula"

---@class nebula.Option
---@field type? "string"|"integer"|"number"|"boolean"|"duration"|"size"|"list"|"map"|"file"|"uuid"
---@field default? any
---@field min? number
---@field max? number
---@field choices? any[] what a value (of a list: each element) may be
---@field required? boolean
---@field help? string
---@field short? string one letter
---@field metavar? string what --help calls the value

local options = {}

local function fail(message) error(nebula.error { kind = "validation", message = message }, 0) end

-- ---- names ----

-- Insertions, deletions, substitutions and swapped neighbours between two names.
local function distance(a, b)
  local before, previous = {}, {}
  for j = 0, #b do previous[j] = j end
  for i = 1, #a do
    local current = { [0] = i }
    for j = 1, #b do
      local same = a:byte(i) == b:byte(j)
      current[j] = math.min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (same and 0 or 1))
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        current[j] = math.min(current[j], before[j - 2] + 1)
      end
    end
    before, previous = previous, current
  end
  return previous[#b]
end

--- The candidate nearest to a mistyped name, as a whole or by its first word, or nil where none is near.
---@param name string
---@param candidates string[]
---@return string?
function options.nearest(name, candidates)
  local best, best_distance
  for _, candidate in ipairs(candidates) do
    local d = math.min(distance(name:lower(), candidate:lower()),
      distance(name:lower(), candidate:lower():match "^[^-]+" or ""))
    if candidate:sub(1, #name) == name and #name >= 2 then d = math.min(d, 1) end
    if not best or d < best_distance then best, best_distance = candidate, d end
  end
  if best and best_distance <= math.max(1, #name // 3) then return best end
end

local function did_you_mean(name, candidates, prefix)
  local near = options.nearest(name, candidates)
  return near and ("; did you mean %s%s?"):format(prefix or "", near) or ""
end
options.did_you_mean = did_you_mean

local function flag(name) return "--" .. name:gsub("_", "-") end

local function sorted_names(declared)
  local names = {}
  for name in pairs(declared) do names[#names + 1] = name end
  table.sort(names)
  return names
end

-- ---- types ----

local INFERRED = { string = "string", boolean = "boolean", table = "list" }

---@param option nebula.Option
---@return string
function options.type_of(option)
  if option.type then return option.type end
  if option.default == nil then return "string" end
  return math.type(option.default) == "integer" and "integer"
    or math.type(option.default) and "number"
    or INFERRED[type(option.default)] or "string"
end

local UNITS = { ms = 0.001, s = 1, m = 60, h = 3600, d = 86400, w = 604800 }

--- Seconds from "90s", "1h30m", "30d", "250ms", or a number of seconds.
---@param value any
---@return number? seconds nil where it is no duration
function options.duration(value)
  if type(value) == "number" then return value >= 0 and value < math.huge and value or nil end
  if type(value) ~= "string" or value == "" then return nil end
  local plain = tonumber(value)
  if plain then return value:find "^[%d.]+$" and plain or nil end
  local total, rest = 0, value
  while rest ~= "" do
    local number, unit, tail = rest:match "^(%d+%.?%d*)(%a+)(.*)$"
    if not number or not UNITS[unit] then return nil end
    total, rest = total + tonumber(number) * UNITS[unit], tail
  end
  return total
end

local SIZES = { b = 1, k = 1 << 10, m = 1 << 20, g = 1 << 30, t = 1 << 40 }

--- Bytes from "64M", "10MiB", "1GB" (powers of 1024), or a number of bytes.
---@param value any
---@return integer?
function options.size(value)
  if math.type(value) == "integer" and value >= 0 then return value end
  local number, unit = tostring(value):match "^(%d+%.?%d*)(%a*)$"
  if not number then return nil end
  local factor = unit == "" and 1 or SIZES[unit:lower():match "^([bkmgt])i?b?$"]
  return factor and math.tointeger(math.floor(tonumber(number) * factor)) or nil
end

local HEX = "%x%x%x%x"
local UUID = "^" .. table.concat({ HEX .. HEX, HEX, HEX, HEX, HEX .. HEX .. HEX }, "%-") .. "$"

---@param value any
---@return boolean
function options.is_uuid(value) return type(value) == "string" and #value == 36 and value:find(UUID) ~= nil end

local TRUE = { ["true"] = true, yes = true, on = true, ["1"] = true }
local FALSE = { ["false"] = true, no = true, off = true, ["0"] = true }

local function split(text)
  local list = {}
  for item in (text .. ","):gmatch "%s*(.-)%s*," do
    if item ~= "" then list[#list + 1] = item end
  end
  return list
end

-- Each reader returns the value, or nil and what was wanted.
local READ = {
  string = function(v)
    if type(v) == "string" then return v end
    if type(v) == "number" then return tostring(v) end
    return nil, "text"
  end,
  uuid = function(v) if options.is_uuid(v) then return v end return nil, "a UUID" end,
  file = function(v) if type(v) == "string" and v ~= "" then return v end return nil, "a file's path" end,
  integer = function(v)
    local n = type(v) == "string" and not v:find "^%s*[+-]?%d+%s*$" and nil or math.tointeger(tonumber(v))
    if n then return n end
    return nil, "a whole number"
  end,
  number = function(v)
    local n = tonumber(v)
    if n and n == n and math.abs(n) < math.huge then return n end
    return nil, "a number"
  end,
  boolean = function(v)
    if type(v) == "boolean" then return v end
    local text = tostring(v):lower()
    if TRUE[text] then return true end
    if FALSE[text] then return false end
    return nil, "true or false"
  end,
  duration = function(v)
    local seconds = options.duration(v)
    if seconds then return seconds end
    return nil, 'a duration such as "90s", "1h30m" or "30d"'
  end,
  size = function(v)
    local bytes = options.size(v)
    if bytes then return bytes end
    return nil, 'a size such as "64M" or "1G"'
  end,
  list = function(v)
    if type(v) == "table" then return v end
    if type(v) == "string" then return split(v) end
    return nil, "a list (a,b,c)"
  end,
  map = function(v)
    if type(v) == "table" then return v end
    local map, last = {}, nil
    for _, pair in ipairs(split(tostring(v))) do
      local key, value = pair:match "^([^=]+)=(.*)$"
      if not key and not last then return nil, "KEY=VALUE" end
      last = key or last -- a comma that no KEY= follows is the value's own
      map[last] = key and value or map[last] .. "," .. pair
    end
    return map
  end,
}

local function texts(list)
  local out = {}
  for i, item in ipairs(list) do out[i] = tostring(item) end
  return table.concat(out, ", ")
end

local function check_choice(label, value, choices)
  for _, choice in ipairs(choices) do
    if choice == value then return end
  end
  local names = {}
  for i, choice in ipairs(choices) do names[i] = tostring(choice) end
  fail(("%s: %q is none of %s%s"):format(label, tostring(value), texts(choices), did_you_mean(tostring(value), names)))
end

-- One value of the declared type, within its bounds.
local function read(label, option, value)
  local kind = options.type_of(option)
  local reader = READ[kind] or fail(("%s: unknown type %q in its declaration"):format(label, tostring(kind)))
  local result, wanted = reader(value)
  if result == nil then fail(("%s wants %s, not %q"):format(label, wanted, tostring(value))) end
  if option.choices then
    if kind == "list" then
      for _, item in ipairs(result) do check_choice(label, item, option.choices) end
    else
      check_choice(label, result, option.choices)
    end
  end
  if type(result) == "number" then
    local unit = kind == "duration" and " s" or ""
    if option.min and result < option.min then
      fail(("%s is at least %s%s, not %s"):format(label, option.min, unit, value))
    end
    if option.max and result > option.max then
      fail(("%s is at most %s%s, not %s"):format(label, option.max, unit, value))
    end
  end
  return result
end

local function finish(declared, values, label)
  for _, name in ipairs(sorted_names(declared)) do
    local option = declared[name]
    if values[name] == nil and option.default ~= nil then values[name] = read(label(name), option, option.default) end
    if values[name] == nil and option.required then fail(label(name) .. " is required") end
  end
  return values
end

--- Checks a table of values against a declaration: types, bounds, unknown names, defaults.
---@param declared table<string, nebula.Option>
---@param given table|nil
---@param what? string whose options these are, for messages
---@return table values
function options.coerce(declared, given, what)
  local prefix = what and (what .. ": ") or ""
  local values = {}
  for name, value in pairs(given or {}) do
    local option = declared[name]
    if not option then
      local near = did_you_mean(tostring(name), sorted_names(declared))
      fail(("%sunknown option %s%s"):format(prefix, tostring(name), near))
    end
    values[name] = read(prefix .. name, option, value)
  end
  return finish(declared, values, function(name) return prefix .. name end)
end

-- ---- command lines ----

-- What a word such as --no-colour, --older-than or -n stands for: name, option, negated.
local function find(declared, word)
  if word:sub(1, 2) == "--" then
    local name = word:sub(3):gsub("-", "_")
    if declared[name] then return name, declared[name], false end
    local positive = name:match "^no_(.+)$"
    if positive and declared[positive] and options.type_of(declared[positive]) == "boolean" then
      return positive, declared[positive], true
    end
  else
    for name, option in pairs(declared) do
      if option.short == word:sub(2) then return name, option, false end
    end
  end
  local flags = {}
  for name in pairs(declared) do flags[#flags + 1] = flag(name) end
  flags[#flags + 1] = "--help"
  table.sort(flags)
  fail(("unknown option %s%s"):format(word, did_you_mean(word, flags)))
end

local function gather(values, name, kind, value)
  if kind == "list" and values[name] then
    for _, item in ipairs(value) do table.insert(values[name], item) end
  elseif kind == "map" and values[name] then
    for key, item in pairs(value) do values[name][key] = item end
  else
    values[name] = value
  end
end

--- Parses a command line. Raises `validation` errors that name the option and the nearest one.
---@param declared table<string, nebula.Option>
---@param argv string[]
---@param settings? {stop_at_argument: boolean} true: options end at the first other word
---@return table values, string[] arguments, table<string, boolean> said which values are of the command line
function options.parse(declared, argv, settings)
  local values, arguments = {}, {}
  local i, only_arguments = 1, false
  while i <= #argv do
    local word = argv[i]
    if only_arguments or word == "-" or word:sub(1, 1) ~= "-" or word:find "^%-%d" then
      arguments[#arguments + 1] = word
      only_arguments = only_arguments or (settings and settings.stop_at_argument) or false
    elseif word == "--" then
      only_arguments = true
    elseif word == "--help" or (word == "-h") then
      values.help = true
    else
      local head, attached = word:match "^(%-%-[^=]+)=(.*)$"
      if not head and word:sub(1, 2) ~= "--" and #word > 2 then head, attached = word:sub(1, 2), word:sub(3) end
      local name, option, negated = find(declared, head or word)
      local kind = options.type_of(option)
      if kind == "boolean" and (not attached or negated) then
        if attached then fail((head or word) .. " takes no value") end
        values[name] = not negated
      else
        local text = attached
        if not text then
          i = i + 1
          text = argv[i] or fail(("%s wants a value"):format(word))
        end
        gather(values, name, kind, read(flag(name), option, text))
      end
    end
    i = i + 1
  end
  if values.help then return values, arguments, {} end
  local said = {}
  for name in pairs(values) do said[name] = true end
  return finish(declared, values, flag), arguments, said
end

--- Assigns the words of a command line to declared positional arguments.
---@param declared {name: string, type?: string, required?: boolean, many?: boolean, help?: string}[]
---@param words string[]
---@return table values by name; of a `many` argument a list
function options.arguments(declared, words)
  local values = {}
  local next_word = 1
  for _, argument in ipairs(declared or {}) do
    if argument.many then
      local list = {}
      while words[next_word] do
        list[#list + 1] = read(argument.name:upper(), argument, words[next_word])
        next_word = next_word + 1
      end
      if argument.required and #list == 0 then fail(argument.name:upper() .. " is missing") end
      values[argument.name] = list
    elseif words[next_word] then
      values[argument.name] = read(argument.name:upper(), argument, words[next_word])
      next_word = next_word + 1
    elseif argument.required then
      fail(argument.name:upper() .. " is missing")
    else
      values[argument.name] = argument.default
    end
  end
  if words[next_word] then fail(("unexpected argument %q"):format(words[next_word])) end
  return values
end

-- ---- help ----

local METAVAR = { string = "TEXT", integer = "N", number = "N", duration = "TIME", size = "SIZE",
  list = "A,B,...", map = "KEY=VALUE", file = "FILE", uuid = "UUID" }

local function shown(kind, value)
  if kind == "list" then return table.concat(value, ",") end
  if kind == "map" then
    local items = {}
    for _, name in ipairs(sorted_names(value)) do items[#items + 1] = name .. "=" .. tostring(value[name]) end
    return table.concat(items, " ")
  end
  return tostring(value)
end

--- One option's part of the help: its flags with what they take, and its text with choices and default.
---@param name string
---@param option nebula.Option
---@return string flags, string text
function options.describe(name, option)
  local kind = options.type_of(option)
  local flags = flag(name)
  if kind == "boolean" and option.default == true then flags = "--no-" .. flags:sub(3) end
  if kind ~= "boolean" then flags = flags .. " " .. (option.metavar or METAVAR[kind] or "VALUE") end
  if option.short then flags = "-" .. option.short .. ", " .. flags end
  local notes = {}
  if option.choices then notes[#notes + 1] = "one of " .. texts(option.choices) end
  if option.required then notes[#notes + 1] = "required" end
  if option.default ~= nil and kind ~= "boolean" and not (kind == "list" and #option.default == 0)
    and option.default ~= "" then
    notes[#notes + 1] = "default " .. shown(kind, option.default)
  end
  local text = option.help or ""
  if #notes > 0 then text = text .. (text ~= "" and " " or "") .. "(" .. table.concat(notes, "; ") .. ")" end
  return flags, text
end

--- Two aligned columns, the second wrapped to the width.
---@param pairs_list string[][]
---@param width? integer
---@return string
function options.columns(pairs_list, width)
  width = width or 100
  local left = 0
  for _, pair in ipairs(pairs_list) do
    if #pair[1] <= 30 then left = math.max(left, #pair[1]) end
  end
  local indent = (" "):rep(left + 4)
  local lines = {}
  for _, pair in ipairs(pairs_list) do
    local line = "  " .. pair[1] .. (" "):rep(left - #pair[1])
    if #pair[1] > left then
      lines[#lines + 1], line = line, indent:sub(3)
    end
    line = line .. "  "
    local empty = true
    for word in pair[2]:gmatch "%S+" do
      if not empty and #line + 1 + #word > width then
        lines[#lines + 1], line, empty = line, indent, true
      end
      line, empty = line .. (empty and "" or " ") .. word, false
    end
    lines[#lines + 1] = (line:gsub("%s+$", ""))
  end
  return table.concat(lines, "\n")
end

--- The options' part of a help text.
---@param declared table<string, nebula.Option>
---@return string
function options.help(declared)
  local rows = {}
  for _, name in ipairs(sorted_names(declared or {})) do
    if not declared[name].hidden then rows[#rows + 1] = { options.describe(name, declared[name]) } end
  end
  if not (declared and declared.help) then rows[#rows + 1] = { "-h, --help", "show this help" } end
  return options.columns(rows)
end

return options
