-- strings.lua: what may be typed inside of a string that a call was given: SQL, keys of the blob
-- store, names of workflows, policies, tasks and handlers, statuses, files.
local project = require "nebula.project"
local schema = require "repl.schema"
local system = require "nebula.system"

local strings = {}

local SQL = { sql = true, query = true, one = true, value = true, exec = true, rows = true, copy_out = true }
local KEYS = { get = true, head = true, exists = true, download = true, reader = true, delete = true, url = true }
local FILES = { open = true, loadfile = true, dofile = true, lines = true, read = true, write = true }

-- Columns with a fixed set of values, by the calls that filter by them.
local STATUSES = {
  { "job", { "pending", "running", "completed", "failed", "cancelled", "dead" } },
  { "execution", { "created", "running", "paused", "cancelling", "completed", "failed", "cancelled", "timed_out" } },
  { "workflow", { "draft", "active", "archived" } },
}

--- The files that the last part of a path may be; directories end in a slash.
---@param text string
---@return string word, string[] names
function strings.files(text)
  local directory, word = text:match "^(.-)([^/]*)$"
  local place = directory:gsub("^~/", (os.getenv "HOME" or "~") .. "/")
  local names = {}
  for _, name in ipairs(system.list(place == "" and "." or place) or {}) do
    if name:sub(1, #word) == word and (word ~= "" or name:sub(1, 1) ~= ".") then
      local info = system.stat(place .. name)
      names[#names + 1] = name .. (info and info.type == "directory" and "/" or "")
    end
  end
  table.sort(names)
  return word, names
end

-- The text of the string that the cursor is in, and what stands before it; nil outside of one.
local function open_string(before)
  local at = 1
  while true do
    local from, quote = before:match("()([\"'%[-])", at)
    if not from then return nil end
    local level = before:match("^%[(=*)%[", from)
    local ends
    if before:find("^%-%-", from) then
      return nil
    elseif level then
      local first = from + #level + 2
      ends = select(2, before:find("]" .. level .. "]", first, true))
      if not ends then return before:sub(first), before:sub(1, from - 1) end
    elseif quote == '"' or quote == "'" then
      ends = from + 1
      while before:sub(ends, ends) ~= quote and ends <= #before do
        ends = ends + (before:sub(ends, ends) == "\\" and 2 or 1)
      end
      if ends > #before then return before:sub(from + 1), before:sub(1, from - 1) end
    else
      ends = from
    end
    at = ends + 1
  end
end

-- The path of the call whose arguments the text ends in.
local function call_of(head)
  local depth = 0
  for at = #head, 1, -1 do
    local c = head:sub(at, at)
    if c == ")" or c == "}" then
      depth = depth + 1
    elseif c == "(" or c == "{" then
      if depth == 0 then
        local path = head:sub(1, at - 1):match "([%a_][%w_.:]*)%s*$"
        if path then return path end
      else
        depth = depth - 1
      end
    end
  end
  return head:match "([%a_][%w_.:]*)%s*$"
end
strings.call_of = call_of

-- A field of a table in the call: name = "...".
local function of_field(env, path, field, text)
  if field == "status" then
    for _, entry in ipairs(STATUSES) do
      if path:find(entry[1], 1, true) then return text, entry[2] end
    end
  elseif field == "name" and path:find("workflow", 1, true) then
    return text, schema.workflows(env)
  elseif field == "policy" or field == "task" or field == "handler" then
    return text, project.names(field == "policy" and "policies" or field .. "s")
  elseif field == "file" or field == "path" then
    return strings.files(text)
  end
end

--- The word to be completed inside of a string, and what it may be; nil where the cursor is in none
--- that is known.
---@param env table
---@param before string the line up to the cursor
---@return string? word, string[]? names
function strings.candidates(env, before)
  local text, head = open_string(before)
  if not text then return nil end
  local path = call_of(head)
  if not path then return nil end
  local field = head:match "([%a_][%w_]*)%s*=%s*$"
  if field then return of_field(env, path, field, text) end
  local call = path:match "[%w_]+$"
  if SQL[call] then return schema.sql(env, text) end
  if KEYS[call] and path:find "^blobs:" then return schema.keys(env, text) end
  if path == "queue.push" then return text, project.names "handlers" end
  if path == "policy.load" or path:find "policy%.load$" then return text, project.names "policies" end
  if path:find "tasks%.%w+$" then return text, project.names "tasks" end
  if FILES[call] and not path:find ":" then return strings.files(text) end
end

return strings
