-- pager.lua: results that are longer than the terminal go through $PAGER, or less where there is
-- one. PAGER=cat, or an empty one, pages nothing.
local nebula = require "nebula"
local process = require "nebula.process"
local system = require "nebula.system"
local ui = require "nebula.ui"

local pager = {}

local function is_program(name)
  for directory in (os.getenv "PATH" or ""):gmatch "[^:]+" do
    if system.stat(directory .. "/" .. name) then return true end
  end
  return false
end

-- The pager's program and arguments, or nil.
local function chosen()
  local given = os.getenv "PAGER"
  if not given and is_program "less" then given = "less" end
  local words = {}
  for word in (given or ""):gmatch "%S+" do words[#words + 1] = word end
  if #words == 0 or words[1] == "cat" then return nil end
  return table.remove(words, 1), words
end

--- Whether the pieces are more lines than the terminal shows, and there is a pager to show them.
---@param pieces string[]
---@return boolean
function pager.wanted(pieces)
  if not ui.terminal() or not system.isatty(0) or os.getenv "TERM" == "dumb" then return false end
  local rows, lines = system.window() or 24, 0
  for _, piece in ipairs(pieces) do
    for _ in piece:gmatch "\n" do
      lines = lines + 1
      if lines >= rows then return chosen() ~= nil end
    end
  end
  return false
end

--- Shows the pieces in the pager, until it is left. The terminal is its own meanwhile.
---@param pieces string[]
function pager.show(pieces)
  local file, args = chosen()
  local less = not os.getenv "LESS" and "-FRSX" or nil
  local shown = process.spawn { file = file, args = args, env = less and { LESS = less } or nil,
    stdin = "pipe", stdout = "inherit", stderr = "inherit" }
  nebula.try(function() -- it may be left before it has read all
    for _, piece in ipairs(pieces) do shown:write(piece) end
    shown:end_input()
  end)
  shown:wait()
end

return pager
