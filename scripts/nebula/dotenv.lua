-- dotenv.lua: `--env FILE`: lines of NAME=value that are added to the environment, below what is set
-- there already. It is read only where it is asked for.
local nebula = require "nebula"
local system = require "nebula.system"

local dotenv = {}

local function fail(message, ...) error(nebula.error { kind = "config", message = message:format(...) }, 0) end

local ESCAPES = { n = "\n", r = "\r", t = "\t" }

-- A value as shells and .env files write it: 'literal', "with \n", or bare up to a comment. nil where
-- a quote is not closed, or something follows it.
local function value_of(text)
  local quote = text:match "^[\"']"
  if not quote then return (text:gsub("^#.*$", ""):gsub("%s+#.*$", ""):gsub("%s+$", "")) end
  if quote == "'" then return (text:match "^'([^']*)'%s*$" or text:match "^'([^']*)'%s+#") end
  local at = 2
  while text:sub(at, at) ~= '"' do
    if at > #text then return nil end
    at = at + (text:sub(at, at) == "\\" and 2 or 1)
  end
  if not text:find("^%s*$", at + 1) and not text:find("^%s+#", at + 1) then return nil end
  return (text:sub(2, at - 1):gsub("\\(.)", function(c) return ESCAPES[c] or c end))
end

--- What the text declares. Raises `config` with file and line, and never repeats a value.
---@param text string
---@param name string the file's, for errors
---@return {[1]: string, [2]: string}[] in its order
function dotenv.parse(text, name)
  local list, number = {}, 0
  for line in (text:gsub("\r\n", "\n") .. "\n"):gmatch "(.-)\n" do
    number = number + 1
    if not line:find "^%s*$" and not line:find "^%s*#" then
      local key, rest = line:gsub("^%s*export%s+", ""):match "^%s*([%a_][%w_]*)=(.*)$"
      local value = key and value_of(rest)
      if not value then fail("%s:%d: wants NAME=value, the value bare or in quotes", name, number) end
      list[#list + 1] = { key, value }
    end
  end
  return list
end

--- Reads a file and sets what is not set yet. Raises `config`.
---@param path string
function dotenv.load(path)
  local file, message = io.open(path, "rb")
  local text
  if file then
    text, message = file:read "a"
    file:close()
  end
  if not text then fail("--env %s", message) end
  for _, pair in ipairs(dotenv.parse(text, path)) do
    if os.getenv(pair[1]) == nil then system.setenv(pair[1], pair[2]) end
  end
end

return dotenv
