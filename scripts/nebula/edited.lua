-- edited.lua: whether a file's text has changed since it was last looked at, by looks that cost a stat where
-- it has not. Times of files are whole seconds here: what was written a moment ago is read again.
local system = require "nebula.system"

local edited = {}

local FRESH_SECONDS = 2

---@param path string
---@return string? text
function edited.read(path)
  local file <close> = io.open(path, "rb")
  return file and file:read "a"
end

--- Whether a file's text is another than `known.text`, which then becomes the new one.
---@param known {text: string?, state: string?}
---@param path string
---@return boolean
function edited.changed(known, path)
  local info = system.stat(path)
  local state = info and ("%d %d %d"):format(info.size, info.mtime, info.inode)
  if not state or (state == known.state and info.mtime < os.time() - FRESH_SECONDS) then return false end
  known.state = state
  local text = edited.read(path)
  if not text or text == known.text then return false end
  known.text = text
  return true
end

return edited
