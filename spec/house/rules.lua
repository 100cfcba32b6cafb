-- rules.lua: the rules of the house that no compiler checks. Each rule sees one file at a time and
-- answers with findings, so that the spec beside this file can show it a file that breaks it.
local rules = {}

local MOST_LINES_A_FILE = 600
local MOST_LINES_A_FUNCTION = 80
local MOST_COLUMNS = { c = 100, lua = 120 }

local function lines_of(text)
  local lines = {}
  for line in (text:gsub("\n$", "") .. "\n"):gmatch("(.-)\r?\n") do lines[#lines + 1] = line end
  return lines
end

local function is_c(path) return path:find("%.[ch]$") ~= nil end
local function is_lua(path) return path:find("%.lua$") ~= nil end
local function is_script(path) return path:find("^scripts/") or path:find("^migrations/") end
local function is_spec(path) return path:find("^spec/") ~= nil end

local function in_columns(line) return utf8.len(line) or #line end

-- A rule is {name, applies(path), check(lines, report, path)}; report(line number, message).
local list = {}

local function rule(name, applies, check)
  list[#list + 1] = { name = name, applies = applies, check = check }
end

-- One that reports each line where a pattern matches.
local function forbid(name, applies, patterns, message)
  rule(name, applies, function(lines, report)
    for number, line in ipairs(lines) do
      for _, pattern in ipairs(patterns) do
        if line:find(pattern) then
          report(number, message)
          break
        end
      end
    end
  end)
end

local function is_source(path) return is_c(path) or is_lua(path) end

rule("file-length", is_source, function(lines, report)
  if #lines > MOST_LINES_A_FILE then
    report(#lines, ("%d lines; at most %d: split it by subject"):format(#lines, MOST_LINES_A_FILE))
  end
end)

rule("line-length", is_source, function(lines, report, path)
  local most = is_c(path) and MOST_COLUMNS.c or MOST_COLUMNS.lua
  for number, line in ipairs(lines) do
    if in_columns(line) > most then
      report(number, ("%d columns; at most %d"):format(in_columns(line), most))
    end
  end
end)

local function function_length(report, first, last)
  local length = last - first + 1
  if length > MOST_LINES_A_FUNCTION then
    report(first, ("a function of %d lines; at most %d"):format(length, MOST_LINES_A_FUNCTION))
  end
end

-- clang-format puts a function's braces where no other line has them: the opening one ends a line
-- that (with its continuations) begins in the first column, the closing one stands alone there.
rule("function-length", is_c, function(lines, report)
  local head, first
  for number, line in ipairs(lines) do
    if line:find("^[%a_]") then head = number end
    if not first and head and line:find("%)%s*{$") then
      first = head
    elseif line == "}" then
      if first then function_length(report, first, number) end
      first, head = nil, nil
    elseif line:find("^[%]}#;]") then
      head = nil
    end
  end
end)

local BLOCKS_OF_SPECS = { describe = true, context = true, insulate = true, expose = true }

-- A Lua function ends with the first `end` at its own indentation. Blocks that only group specs
-- are no functions in this sense.
rule("function-length", is_lua, function(lines, report, path)
  local open = {}
  for number, line in ipairs(lines) do
    local indent, rest = line:match("^(%s*)(.*)$")
    local last = open[#open]
    if last and indent == last.indent and rest:find("^end") then
      if not last.group then function_length(report, last.first, number) end
      open[#open] = nil
    end
    if rest:find("function[%s%w_.:]*%b()%s*$") then
      local group = is_spec(path) and BLOCKS_OF_SPECS[rest:match("^(%a+)[%s(]")]
      open[#open + 1] = { indent = indent, first = number, group = group }
    end
  end
end)

rule("bindings-apart-from-host", function(path)
  return is_c(path) and path:find("^bindings/") ~= nil
end, function(lines, report)
  for number, line in ipairs(lines) do
    if line:find('^%s*#%s*include%s*["<][%./]*host/') then
      report(number, "bindings/ never includes host/")
    end
  end
end)

local LUA_HEADER = '^%s*#%s*include%s*["<]([%w%./_]*)[">]'

rule("lua-in-glue-alone", function(path)
  local folder, name = path:match("^bindings/([%w_]+)/.-([%w_%.]+)$")
  return is_c(path) and folder and folder ~= "async" and not name:find("^lua_")
end, function(lines, report)
  for number, line in ipairs(lines) do
    local header = line:match(LUA_HEADER)
    local name = header and header:match("[^/]+$")
    if name and (name:find("^lua") or name == "lauxlib.h" or header == "async/task.h") then
      report(number, header .. " belongs into the folder's lua_*.c")
    end
  end
end)

rule("pg-and-s3-apart", function(path)
  return is_c(path) and (path:find("^bindings/pg/") or path:find("^bindings/s3/")) ~= nil
end, function(lines, report, path)
  local other = path:find("^bindings/pg/") and "s3" or "pg"
  for number, line in ipairs(lines) do
    if line:find('^%s*#%s*include%s*"[%./]*' .. other .. "/") then
      report(number, "pg/ and s3/ do not know each other; what joins them is Lua")
    end
  end
end)

-- The patterns below are put together so that this file does not match them itself.
forbid("no-shell", is_script, { "os%.exec" .. "ute", "io%.po" .. "pen" },
  "no script shells out: use nebula's own functions")

forbid("nothing-left-to-do", is_source, {
  "%f[%w]TO" .. "DO%f[%W]", "%f[%w]FIX" .. "ME%f[%W]", "%f[%w]XX" .. "X%f[%W]",
  "%f[%w]HA" .. "CK%f[%W]", "not impl" .. "emented", "unimpl" .. "emented",
}, "do it, or leave it out")

forbid("every-spec-runs", function(path) return is_spec(path) and is_lua(path) end,
  { "^%s*pend" .. "ing%s*[(\"']", "^%s*x" .. "it%s*[(\"']", "^%s*xdescr" .. "ibe%s*[(\"']" },
  "a spec that does not run proves nothing")

forbid("no-trailing-space", is_source, { "[ \t]+$" }, "white space at the end of the line")
forbid("no-tabs", is_source, { "^%s*\t" }, "indent with spaces")

-- What a spec is about stands in its first `describe`.
rule("head-comment", function(path)
  return is_source(path) and not path:find("_spec%.lua$")
end, function(lines, report)
  local first = lines[1] or ""
  if first:find("^#!") or first:find("^%-%-%-@meta") then first = lines[2] or "" end
  if not (first:find("^/[*/]") or first:find("^%-%-")) then
    report(1, "begin with what the file provides and why")
  end
end)

--- What a file breaks.
---@param path string relative to the root of the tree, with slashes
---@param text string the file's content
---@return { path: string, line: integer, rule: string, message: string }[]
function rules.check(path, text)
  local found = {}
  local lines = lines_of(text)
  for _, one in ipairs(list) do
    if one.applies(path) then
      one.check(lines, function(line, message)
        found[#found + 1] = { path = path, line = line, rule = one.name, message = message }
      end, path)
    end
  end
  return found
end

--- True where a file of this name has rules at all.
---@param path string
---@return boolean
function rules.covers(path) return is_source(path) end

return rules
