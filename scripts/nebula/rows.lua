-- rows.lua: results of queries as text that programs read: CSV, JSON, JSON lines.
local nebula = require "nebula"

local rows = {}

--- The column names where the value is a query's result or a list of tables with names for keys.
---@param value any
---@return string[]?
function rows.columns(value)
  if type(value) ~= "table" then return nil end
  local meta = getmetatable(value)
  local fields = rawget(value, "fields")
    or type(meta) == "table" and type(rawget(meta, "__index")) == "table" and meta.__index.fields
  local names = {}
  if type(fields) == "table" then
    for i, field in ipairs(fields) do names[i] = type(field) == "table" and field.name or tostring(field) end
    return #names > 0 and names or nil
  end
  if meta or #value == 0 then return nil end
  local seen = {}
  for i = 1, #value do
    local row = value[i]
    if type(row) ~= "table" or getmetatable(row) or type(next(row)) ~= "string" then return nil end
    for name in pairs(row) do
      if not seen[name] then
        seen[name], names[#names + 1] = true, name
      end
    end
  end
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  return names
end

local function csv_field(value)
  if value == nil then return "" end
  local text = type(value) == "table" and nebula.json.encode(value) or tostring(value)
  if text == "" or text:find '[",\r\n]' then return '"' .. text:gsub('"', '""') .. '"' end
  return text
end

--- CSV (RFC 4180) with a header, written piece by piece.
---@param list table[]
---@param names string[]
---@param write fun(...: string)
function rows.csv(list, names, write)
  local values = {}
  for i = 1, #names do values[i] = csv_field(names[i]) end
  write(table.concat(values, ","), "\r\n")
  for _, row in ipairs(list) do
    for i = 1, #names do values[i] = csv_field(row[names[i]]) end
    write(table.concat(values, ","), "\r\n")
  end
end

--- One JSON object a line, its members in the columns' order; NULL is null.
---@param list table[]
---@param names string[]
---@param write fun(...: string)
function rows.jsonl(list, names, write)
  local encode, null = nebula.json.encode, nebula.null
  local heads, members = {}, {}
  for i, name in ipairs(names) do heads[i] = encode(name) .. ":" end
  for _, row in ipairs(list) do
    for i, name in ipairs(names) do
      local value = row[name]
      if value == nil then value = null end
      members[i] = heads[i] .. encode(value)
    end
    write("{", table.concat(members, ","), "}\n")
  end
end

return rows
