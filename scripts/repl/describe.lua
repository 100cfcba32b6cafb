-- describe.lua: any Lua value as text for a person: tables as Lua with bounded depth and length,
-- strings quoted inside of tables, JSON in colours.
local ui = require "nebula.ui"

local MAX_DEPTH, MAX_ITEMS, MAX_STRING = 6, 200, 10000

local describe = {}

local KEYWORDS = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat
  return then true until while]]):gmatch "%a+" do KEYWORDS[word] = true end

-- ---- colours ----

local COLOURS = { string = "32", number = "36", boolean = "35", key = "34", null = "2" }

---@class nebula.repl.Style how values look
---@field colour boolean
---@field width integer columns of the terminal; 0: none, nothing is cut
---@field terminal boolean what is printed goes to one: nothing in it may be its command

--- The text in the colour of a kind of value, where there is colour.
---@param style nebula.repl.Style
---@param kind "string"|"number"|"boolean"|"key"|"null"
---@param text string
---@return string
function describe.paint(style, kind, text)
  if not style.colour then return text end
  return "\27[" .. COLOURS[kind] .. "m" .. text .. "\27[0m"
end

--- JSON as nebula.json has written it, in colours.
---@param style nebula.repl.Style
---@param json string
---@return string
function describe.json(style, json)
  if not style.colour then return json end
  local out, at = {}, 1
  while at <= #json do
    local quote = json:match('^"[^"\\]*"()', at)
    if not quote and json:byte(at) == 34 then
      local last = at + 1
      while json:byte(last) ~= 34 do last = last + (json:byte(last) == 92 and 2 or 1) end
      quote = last + 1
    end
    local word = not quote and json:match("^[%w.+-]+()", at)
    if quote then
      out[#out + 1] = describe.paint(style, json:find("^%s*:", quote) and "key" or "string", json:sub(at, quote - 1))
    elseif word then
      local text = json:sub(at, word - 1)
      local kind = text == "null" and "null" or text:find "^%a" and "boolean" or "number"
      out[#out + 1] = describe.paint(style, kind, text)
    else
      word = json:match('^[^"%w.+-]+()', at)
      out[#out + 1] = json:sub(at, word - 1)
    end
    at = quote or word
  end
  return table.concat(out)
end

-- ---- Lua values ----

--- The text, or its beginning and its size where it is long.
---@param text string
---@return string
function describe.bounded(text)
  if #text <= MAX_STRING then return text end
  local last = MAX_STRING
  while last > MAX_STRING - 4 and (text:byte(last + 1) or 0) & 0xC0 == 0x80 do last = last - 1 end
  return text:sub(1, last) .. ("… (%d bytes)"):format(#text)
end

local function quoted(text)
  text = describe.bounded(text)
  if not utf8.len(text) then
    return '"' .. text:gsub('[%c\x7f-\xff"\\]', function(c) return ("\\x%02X"):format(c:byte()) end) .. '"'
  end
  return '"' .. ui.printable(text:gsub('["\\]', "\\%0")) .. '"'
end

-- A float with the digits that tell it from every other one.
local function exact(value)
  local plain = tostring(value)
  if value ~= value or tonumber(plain) == value or math.abs(value) == math.huge then return plain end
  for digits = 15, 17 do
    local text = ("%." .. digits .. "g"):format(value)
    if tonumber(text) == value then return text:find "[.e]" and text or text .. ".0" end
  end
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

local any

local function key_text(style, key, seen)
  if type(key) == "string" and key:find "^[%a_][%w_]*$" and not KEYWORDS[key] then
    return describe.paint(style, "key", key), #key
  end
  local text, width = any(style, key, MAX_DEPTH, seen)
  return "[" .. text .. "]", (width or 0) + 2
end

-- The members as text, and the columns that they take on one line; nil where one has several lines.
local function members(style, value, indent, seen)
  local parts, length, total = {}, #value, 0
  local function add(prefix, prefix_width, field)
    local text, width = any(style, field, indent + 1, seen)
    parts[#parts + 1] = prefix .. text
    total = total and width and total + prefix_width + width + 2
  end
  for i = 1, math.min(length, MAX_ITEMS) do add("", 0, value[i]) end
  local keys, left = sorted_keys(value), math.max(0, length - MAX_ITEMS)
  for _, key in ipairs(keys) do
    if not (math.type(key) == "integer" and key >= 1 and key <= length) then
      if #parts < MAX_ITEMS then
        local name, width = key_text(style, key, seen)
        add(name .. " = ", width + 3, value[key])
      else
        left = left + 1
      end
    end
  end
  if left > 0 then
    parts[#parts + 1] = ("... %d more"):format(left)
    total = nil
  end
  return parts, total
end

local function of_table(style, value, indent, seen)
  if seen[value] then return "<cycle>", 7 end
  if next(value) == nil then return "{}", 2 end
  if indent >= MAX_DEPTH then return "{...}", 5 end
  seen[value] = true
  local parts, width = members(style, value, indent, seen)
  seen[value] = nil
  if width and width + 2 + 2 * indent <= style.width then
    return "{ " .. table.concat(parts, ", ") .. " }", width + 2
  end
  local pad = ("  "):rep(indent + 1)
  return "{\n" .. pad .. table.concat(parts, ",\n" .. pad) .. "\n" .. ("  "):rep(indent) .. "}"
end

-- The text and the columns it takes; no columns where it has several lines.
function any(style, value, indent, seen)
  local kind = type(value)
  if kind == "table" and not (getmetatable(value) or {}).__tostring then return of_table(style, value, indent, seen) end
  local text = (kind == "string" and quoted or math.type(value) == "float" and exact or tostring)(value)
  local width = ui.text_width(text)
  if kind == "nil" then kind = "null" end
  return COLOURS[kind] and describe.paint(style, kind, text) or text, not text:find "\n" and width or nil
end

-- What a terminal would obey is escaped, but for the ends of lines and tabs.
local function harmless(text)
  if not text:find "[%c\x7f\xc2]" then return text end
  return (text:gsub("[^\n\t]+", ui.printable))
end

--- The value as text, over several lines where it is wide. A string alone is printed as it is; to a
--- terminal, bounded and harmless.
---@param value any
---@param style nebula.repl.Style
---@return string
function describe.value(value, style)
  if type(value) ~= "string" then return (any(style, value, 0, {})) end
  return style.terminal and harmless(describe.bounded(value)) or value
end

--- The value in Lua's own form.
---@param value any
---@param style nebula.repl.Style
---@return string
function describe.lua(value, style) return (any(style, value, 0, {})) end

return describe
