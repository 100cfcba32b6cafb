-- migrate/sql.lua: SQL as far as migrations must understand it: its statements, without comments
-- and what stands in quotes, so that words can be looked for.
--
-- After PostgreSQL's "Lexical Structure": '...' and E'...' strings, "names", $tag$ bodies, nested
-- comments.
local sql = {}

-- The end of a '...' or "..." that begins at `at`; backslashes escape only in E'...'.
local function quoted_end(text, at, quote, escapes)
  local i = at + 1
  while i <= #text do
    local c = text:sub(i, i)
    if escapes and c == "\\" then
      i = i + 2
    elseif c == quote then
      if text:sub(i + 1, i + 1) ~= quote then return i end
      i = i + 2
    else
      i = i + 1
    end
  end
  return #text
end

local function comment_end(text, at)
  local depth, i = 1, at + 2
  while depth > 0 do
    local open, close = text:find("/*", i, true), text:find("*/", i, true)
    if not close then return #text end
    if open and open < close then
      depth, i = depth + 1, open + 2
    else
      depth, i = depth - 1, close + 2
    end
  end
  return i - 1
end

-- The piece at `i`: its end, and what it counts as in the plain text.
local function piece(text, i)
  local two, one = text:sub(i, i + 1), text:sub(i, i)
  if two == "--" then return text:find("\n", i, true) or #text, " " end
  if two == "/*" then return comment_end(text, i), " " end
  if one == "'" then
    local before = text:sub(math.max(i - 2, 1), i - 1)
    return quoted_end(text, i, "'", before:find "[eE]$" and not before:find "[%w_][eE]$"), "''"
  end
  if one == '"' then
    local last = quoted_end(text, i, '"')
    return last, text:sub(i, last)
  end
  local tag = one == "$" and not text:sub(i - 1, i - 1):find "[%w_]"
    and text:match("^%$[%a_\128-\255]?[%w_\128-\255]*%$", i)
  if tag then
    local _, last = text:find(tag, i + #tag, true)
    return last or #text, "''"
  end
  return i, one:upper()
end

---@class nebula.Statement
---@field plain string upper case, single spaces, no comments, '' for every string; quoted names as they are
---@field text string as it was written
---@field line integer its first, counted from 1

--- The statements of a text.
---@param text string
---@return nebula.Statement[]
function sql.statements(text)
  local found, plain, begin, i = {}, {}, nil, 1
  local function finish(last)
    local words = table.concat(plain):gsub("%s+", " "):gsub("^ ", ""):gsub(" $", "")
    if words ~= "" then
      local _, lines = text:sub(1, begin - 1):gsub("\n", "")
      found[#found + 1] = { plain = words, text = text:sub(begin, last), line = lines + 1 }
    end
    plain, begin = {}, nil
  end
  while i <= #text do
    local last, means = piece(text, i)
    if means == ";" then
      if begin then finish(i - 1) end
    else
      if not begin and means:find "%S" then begin = i end
      if begin then plain[#plain + 1] = means end
    end
    i = last + 1
  end
  if begin then finish((text:find "%s*$") - 1) end
  return found
end

--- A name of a plain statement as the catalog has it: folded, without its quotes.
---@param name string
---@return string
function sql.folded(name)
  local inside = name:match '^"(.*)"$'
  return inside and (inside:gsub('""', '"')) or name:lower()
end

--- What a CREATE INDEX makes; nil for another statement.
---@param statement nebula.Statement
---@return {name: string?, table: string, concurrently: boolean, unique: boolean, if_not_exists: boolean}?
function sql.index(statement)
  local unique, rest = statement.plain:match "^CREATE (U?N?I?Q?U?E? ?)INDEX (.*)$"
  if not rest then return nil end
  local concurrently = rest:match "^CONCURRENTLY (.*)$"
  rest = concurrently or rest
  local if_not_exists = rest:match "^IF NOT EXISTS (.*)$"
  rest = if_not_exists or rest
  local name, after = rest:match '^("[^"]*") ON (.*)$'
  if not name then name, after = rest:match "^([%w_$\128-\255]+) ON (.*)$" end
  after = after or rest:match "^ON (.*)$"
  if not after then return nil end
  after = after:match "^ONLY (.*)$" or after
  local on = after:match '^("[^"]*"%."[^"]*")' or after:match '^([%w_$\128-\255]+%."[^"]*")'
    or after:match '^("[^"]*"%.?[%w_$\128-\255]*)' or after:match "^([%w_.$\128-\255]+)"
  return { name = name and sql.folded(name), table = on, concurrently = concurrently ~= nil, unique = unique ~= "",
    if_not_exists = if_not_exists ~= nil }
end

return sql
