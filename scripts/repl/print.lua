-- print.lua: how the prompt and `nebula -e` show values: rows as aligned tables, other tables as
-- Lua with bounded depth and length, strings quoted inside tables and plain alone.
local nebula = require "nebula"
local rows = require "nebula.rows"
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

local function rows_text(value, columns)
  local count = #value
  return ui.table(value, { columns = columns }) .. ("\n(%d row%s)"):format(count, count == 1 and "" or "s")
end

-- Each row as a block of its own: a column a line.
local function expanded_text(value, columns)
  local widest, lines = 0, {}
  for _, name in ipairs(columns) do widest = math.max(widest, ui.text_width(name)) end
  for i, row in ipairs(value) do
    lines[#lines + 1] = ("─[ %d ]"):format(i) .. ("─"):rep(widest)
    for _, name in ipairs(columns) do
      local field = row[name]
      local text = field == nil and "" or print_values.describe(field)
      if type(field) == "string" then text = ui.printable(text) end
      lines[#lines + 1] = name .. (" "):rep(widest - ui.text_width(name)) .. "  " .. text
    end
  end
  lines[#lines + 1] = ("(%d row%s)"):format(#value, #value == 1 and "" or "s")
  return table.concat(lines, "\n")
end

local function plain(value)
  if type(value) == "table" or value == nil or type(value) == "string" or type(value) == "number"
    or type(value) == "boolean" then return value end
  return tostring(value)
end

-- Each format writes one value.
local FORMATS = {
  json = function(value, _, write) write(nebula.json.encode(value == nil and nebula.null or plain(value)), "\n") end,
  jsonl = function(value, columns, write)
    if columns then return rows.jsonl(value, columns, write) end
    write(nebula.json.encode(value == nil and nebula.null or plain(value)), "\n")
  end,
  csv = function(value, columns, write)
    if columns then return rows.csv(value, columns, write) end
    write(print_values.describe(value), "\n")
  end,
  lua = function(value, _, write) write(describe(value, 0, {}), "\n") end,
}

--- The names that `values` knows, besides "table".
print_values.formats = { "table", "json", "jsonl", "csv", "lua" }

local function write_table(values, expanded, write)
  local texts, tall = {}, false
  for i = 1, values.n do
    local value = values[i]
    local columns = rows.columns(value)
    if columns then
      texts[i], tall = (expanded and expanded_text or rows_text)(value, columns), true
    else
      texts[i] = print_values.describe(value)
      tall = tall or texts[i]:find("\n", 1, true) ~= nil
    end
  end
  write(table.concat(texts, tall and "\n" or "\t"), "\n")
end

--- Prints what a line returned.
---@param values {n: integer, [integer]: any}
---@param how? {format?: string, expanded?: boolean, write?: fun(...: string)}
function print_values.values(values, how)
  local write = how and how.write or io.write
  local format = FORMATS[how and how.format]
  if not format then return write_table(values, how and how.expanded, write) end
  for i = 1, values.n do format(values[i], rows.columns(values[i]), write) end
end

return print_values
