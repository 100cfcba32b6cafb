-- print.lua: how the prompt and `nebula -e` show values: rows as aligned tables fitted to the
-- terminal, or expanded; other values as Lua; or all as JSON, CSV, Lua.
local describe = require "repl.describe"
local nebula = require "nebula"
local rows = require "nebula.rows"
local ui = require "nebula.ui"

local LEAST_CELL = 10 -- columns; where a table would have narrower ones, it is expanded

local print_values = {}

--- How values look on standard output, as far as it is a terminal.
---@return nebula.repl.Style
function print_values.style()
  local terminal = ui.terminal()
  return { colour = ui.colour(), terminal = terminal, width = terminal and ui.width() or 80 }
end

-- ---- rows ----

local function counted(value) return ("(%d row%s)\n"):format(#value, #value == 1 and "" or "s") end

-- PostgreSQL's exact numbers, which are strings here.
local function exact_numbers(value)
  local found = {}
  for _, field in ipairs(type(value.fields) == "table" and value.fields or {}) do
    if type(field) == "table" and field.type == "numeric" then found[field.name] = true end
  end
  return found
end

local function write_rows(value, columns, style, write)
  ui.write_table(value, { columns = columns, width = style.terminal and style.width or 0,
    null = describe.paint(style, "null", "NULL"), null_width = 4, numbers = exact_numbers(value) }, write)
  write(counted(value))
end

local function field_text(field, style)
  if field == nil then return describe.paint(style, "null", "NULL") end
  if type(field) == "string" then return ui.printable(describe.bounded(field)) end
  if type(field) == "table" and not (getmetatable(field) or {}).__tostring then
    local ok, json = pcall(nebula.json.encode, field, { indent = 2, sort_keys = true })
    if ok then return describe.json(style, json) end
  end
  return describe.value(field, style)
end

-- Each row as a block of its own: a column a line; what has several lines is indented.
local function write_expanded(value, columns, style, write)
  local widest, labels = 0, {}
  for _, name in ipairs(columns) do widest = math.max(widest, ui.text_width(name)) end
  for i, name in ipairs(columns) do
    labels[i] = describe.paint(style, "key", name) .. (" "):rep(widest + 2 - ui.text_width(name))
  end
  local indent = "\n" .. (" "):rep(widest + 2)
  for i, row in ipairs(value) do
    write(("─[ %d ]"):format(i), ("─"):rep(widest), "\n")
    for c, name in ipairs(columns) do write(labels[c], (field_text(row[name], style):gsub("\n", indent)), "\n") end
  end
  write(counted(value))
end

-- ---- forms ----

local function plain(value)
  if value == nil then return nebula.null end
  local kind = type(value)
  if kind == "table" or kind == "string" or kind == "number" or kind == "boolean" then return value end
  return tostring(value)
end

-- Each format writes one value.
local FORMATS = {
  json = function(value, columns, write, style)
    if not style.terminal then return write(nebula.json.encode(plain(value)), "\n") end
    if columns then
      local full = {}
      for i, row in ipairs(value) do
        full[i] = {}
        for _, name in ipairs(columns) do full[i][name] = plain(row[name]) end
      end
      value = nebula.json.array(full)
    end
    write(describe.json(style, nebula.json.encode(plain(value), { indent = 2, sort_keys = true })), "\n")
  end,
  jsonl = function(value, columns, write)
    if columns then return rows.jsonl(value, columns, write) end
    write(nebula.json.encode(plain(value)), "\n")
  end,
  csv = function(value, columns, write, style)
    if columns then return rows.csv(value, columns, write) end
    write(describe.value(value, style), "\n")
  end,
  lua = function(value, _, write, style) write(describe.lua(value, style), "\n") end,
}

--- The names that `values` knows.
print_values.formats = { "table", "json", "jsonl", "csv", "lua" }

-- Whether these columns are better shown below each other.
local function is_expanded(how, columns, style)
  if how.expanded ~= "auto" then return how.expanded end
  return style.terminal and #columns * LEAST_CELL > style.width
end

local function write_values(values, how, style, write)
  local texts = {}
  local function flush()
    if #texts == 0 then return end
    local tall = false
    for _, text in ipairs(texts) do tall = tall or text:find("\n", 1, true) ~= nil end
    write(table.concat(texts, tall and "\n" or "\t"), "\n")
    texts = {}
  end
  for i = 1, values.n do
    local columns = rows.columns(values[i])
    if columns then
      flush()
      local writer = is_expanded(how, columns, style) and write_expanded or write_rows
      writer(values[i], columns, style, write)
    else
      texts[#texts + 1] = describe.value(values[i], style)
    end
  end
  flush()
end

---@class nebula.repl.How
---@field format? string one of print.formats, default "table"
---@field expanded? boolean|"auto"
---@field write? fun(...: string) default: standard output
---@field style? nebula.repl.Style default: standard output's

--- Prints what a line returned.
---@param values {n: integer, [integer]: any}
---@param how? nebula.repl.How
function print_values.values(values, how)
  how = how or {}
  local write, style = how.write or io.write, how.style or print_values.style()
  local format = FORMATS[how.format]
  if not format then return write_values(values, how, style, write) end
  for i = 1, values.n do format(values[i], rows.columns(values[i]), write, style) end
end

return print_values
