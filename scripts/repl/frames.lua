-- frames.lua: what an attached prompt and the process it is attached to say to each other: frames of
-- a letter, the length in decimal, a newline, and that many bytes.
--
--   to the process    H hello and every new size   P lines to parse   X run what was parsed
--                     C complete a line            I interrupt
--   to the prompt     G greeting   R reply to P, C and X   O printed text   V a piece of a result
--
-- P, C, X and R begin with a number of their own, so that a late reply is told from the awaited one.
local nebula = require "nebula"
local system = require "nebula.system"

local frames = {}

--- Sends a frame; it waits nowhere.
---@param peer table
---@param kind string
---@param payload? string
---@return integer unsent bytes that the other end has yet to take
function frames.send(peer, kind, payload)
  payload = payload or ""
  return peer:write(("%s%d\n%s"):format(kind, #payload, payload))
end

--- The frames that arrive, one by one, until the end. Raises `io` for what is none, or too long.
---@param peer table
---@param longest integer bytes
---@return fun(): string?, string?
function frames.each(peer, longest)
  local buffer = ""
  return function()
    while true do
      local kind, length, at = buffer:match "^(%a)(%d+)\n()"
      length = tonumber(length)
      if length and length > longest or not kind and #buffer > 32 then
        error(nebula.error { kind = "io", message = "attach: this is no frame" }, 0)
      end
      if kind and #buffer - at + 1 >= length then
        local payload = buffer:sub(at, at + length - 1)
        buffer = buffer:sub(at + length)
        return kind, payload
      end
      local parts = { buffer } -- a long frame is put together once
      local have, wanted = #buffer, kind and at - 1 + length or 0
      repeat
        local bytes = peer:read()
        if not bytes then return nil end
        parts[#parts + 1], have = bytes, have + #bytes
      until have >= wanted
      buffer = table.concat(parts)
    end
  end
end

--- The directories in which a process that can be attached to has its socket; the first is where
--- this process puts its own.
---@return string[]
function frames.directories()
  local runtime = os.getenv "XDG_RUNTIME_DIR"
  local temporary = os.getenv "TMPDIR"
  local own = ("%s/nebula-%d"):format(temporary and temporary ~= "" and temporary or "/tmp", system.ids().uid)
  if runtime and runtime ~= "" and system.stat(runtime) then return { runtime .. "/nebula", own } end
  return { own }
end

--- Whether the directory is this user's alone.
---@param path string
---@return boolean
function frames.is_private(path)
  local info = system.stat(path, false) -- a link would be its owner's to turn elsewhere
  return info ~= nil and info.type == "directory" and info.uid == system.ids().uid and info.mode & 63 == 0 -- 077
end

return frames
