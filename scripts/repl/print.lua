-- print.lua: how the prompt and `nebula -e` show values: rows as aligned tables, other tables as
-- Lua with bounded depth and length, strings quoted inside tables and plain alone.
local ui = require "nebula.ui"

local MAX_DEPTH, MAX_ITEMS, MAX_STRING = 6, 200, 10000

local print_values = {}

local KEYWORDS = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat
  return then true until while]]):gmatch "%a+" do KEYWORDS[word] = true end

local function quoted(text)
  if #text > MAX_STRING then text = text:sub(1, MAX_STRING) .. ("… (%d bytes)"):format(#text) end
  if not utf8.len(text) then
    return '"' .. text:gsub('[%c\x7f-\xff"\\]', function(c) return ("\\x%02X"):format(c:byte()) end) .. '"'
  end
  return '"' .. ui.printable(text:gsub('["\\]', "\\%0")) .. '"'
end

local function sorted_keys(value)
  local keys = {}
  for key in next, value do keys[#keys + 1] = key end
  table.sort(keys, function(a, b)
    local ta, tb = type(a), type(b)
    if ta ~= tb then return ta < tb end
    if ta == "number" or ta == "string" then return a < b end
    return tostring(a) < tostring(b)
  end)
  return keys
end

local describe

local function describe_table(value, indent, seen)
  if seen[value] then return "<cycle>" end
  if indent >= MAX_DEPTH then return "{...}" end
  seen[value] = true
  local parts, length = {}, #value
  for i = 1, math.min(length, MAX_ITEMS) do parts[#parts + 1] = describe(value[i], indent + 1, seen) end
  for _, key in ipairs(sorted_keys(value)) do
    if not (math.type(key) == "integer" and key >= 1 and key <= length) then
      if #parts >= MAX_ITEMS then break end
      local name = type(key) == "string" and key:find "^[%a_][%w_]*$" and not KEYWORDS[key] and key
        or "[" .. describe(key, MAX_DEPTH, seen) .. "]"
      parts[#parts + 1] = name .. " = " .. describe(value[key], indent + 1, seen)
    end
  end
  if length > MAX_ITEMS then parts[#parts + 1] = ("... %d more"):format(length - MAX_ITEMS) end
  seen[value] = nil
  if #parts == 0 then return "{}" end
  local line = "{ " .. table.concat(parts, ", ") .. " }"
  if #line + 2 * indent <= ui.width() and not line:find "\n" then return line end
  local pad = ("  "):rep(indent + 1)
  return "{\n" .. pad .. table.concat(parts, ",\n" .. pad) .. "\n" .. ("  "):rep(indent) .. "}"
end

function describe(value, indent, seen)
  if type(value) == "string" then return quoted(value) end
  if type(value) ~= "table" then return tostring(value) end
  if (getmetatable(value) or {}).__tostring then return tostring(value) end
  return describe_table(value, indent, seen)
end

--- The value as text, over several lines where it is wide.
---@param value any
---@return string
function print_values.describe(value)
  if type(value) == "string" then return value end
  return describe(value, 0, {})
end

-- The column names where the value is a result of a query: an array of rows that knows its fields.
local function result_columns(value)
  local meta = type(value) == "table" and getmetatable(value)
  local fields = type(value) == "table" and rawget(value, "fields")
    or type(meta) == "table" and type(rawget(meta, "__index")) == "table" and meta.__index.fields
  if type(fields) ~= "table" then return nil end
  local names = {}
  for i, field in ipairs(fields) do names[i] = type(field) == "table" and field.name or tostring(field) end
  return #names > 0 and names or nil
end

-- A list of tables with names for keys is shown as rows too.
local function is_rows(value)
  if type(value) ~= "table" or getmetatable(value) or #value == 0 then return false end
  for i = 1, #value do
    local row = value[i]
    if type(row) ~= "table" or getmetatable(row) or type(next(row)) ~= "string" then return false end
  end
  return true
end

local function rows_text(value, columns)
  local count = #value
  return ui.table(value, { columns = columns }) .. ("\n(%d row%s)"):format(count, count == 1 and "" or "s")
end

--- Prints what a line returned.
---@param values {n: integer, [integer]: any}
function print_values.values(values)
  local texts, tall = {}, false
  for i = 1, values.n do
    local value = values[i]
    local columns = result_columns(value)
    if columns or is_rows(value) then
      texts[i], tall = rows_text(value, columns), true
    else
      texts[i] = print_values.describe(value)
      tall = tall or texts[i]:find("\n", 1, true) ~= nil
    end
  end
  io.write(table.concat(texts, tall and "\n" or "\t"), "\n")
end

return print_values
