-- history.lua: where the prompt's history is kept, and what of it.
local nebula = require "nebula"
local system = require "nebula.system"

local history = {}

local function make_directory(path)
  local parent = path:match "^(.+)/[^/]*$"
  if parent and not system.stat(parent) then make_directory(parent) end
  system.mkdir(path, 448) -- 0700
end

--- The file in the XDG state directory, which is made; nil where there is no place for one.
---@return string?
function history.path()
  local base = os.getenv "XDG_STATE_HOME"
  if not base or base == "" then
    local home = os.getenv "HOME"
    if not home or home == "" then return nil end
    base = home .. "/.local/state"
  end
  local ok = pcall(make_directory, base .. "/nebula")
  return ok and base .. "/nebula/history" or nil
end

-- Lines that look as if they held a secret are not kept; neither are those that begin with a space.
local SECRET = { "password", "passwd", "passphrase", "secret", "token", "credential", "signature", "authorization",
  "bearer", "cookie", "api_?key", "access_key", "private_key", "%w+://[^/%s]*:[^/%s]*@" }

local function is_private(text)
  if text:find "^%s" then return true end
  if nebula.log.redact(text) ~= text then return true end
  local lower = text:lower()
  for _, pattern in ipairs(SECRET) do
    if lower:find(pattern) then return true end
  end
  return false
end

--- Keeps what was typed. Several lines are kept as one, where that means the same.
---@param editor table
---@param lines string[]
function history.remember(editor, lines)
  local text = table.concat(lines, "\n")
  if text:find "^%s*$" or is_private(text) then return end
  if #lines > 1 and not text:find "%-%-" and not text:find "%[=*%[" and not text:find "\\\n" then
    text = table.concat(lines, " ")
  end
  for line in text:gmatch "[^\n]+" do editor:remember(line) end
end

--- Writes the file, for its user alone.
---@param editor table
---@param path string
function history.save(editor, path)
  editor:save(path)
  pcall(system.chmod, path, 384) -- 0600
end

return history
