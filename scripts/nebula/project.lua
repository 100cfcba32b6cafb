-- project.lua: where the user's own project is: the nearest directory, from here upwards, that holds
-- nebula.conf.lua or the private `.nebula/`. Code found in somebody else's directory above this one
-- is not run: a parent counts only where its file belongs to us or to the owner of this directory.
local system = require "nebula.system"

local project = {}

local function trusted(info, here, first)
  return first or info.uid == system.ids().uid or (here and info.uid == here.uid)
end

-- The nearest directory upwards from `directory` that has `name` of that type.
local function upwards(name, kind, directory)
  directory = directory or system.cwd()
  local here, first = system.stat(directory), true
  while true do
    local path = (directory == "/" and "" or directory) .. "/" .. name
    local info = system.stat(path)
    if info and info.type == kind and trusted(info, here, first) then return directory end
    if directory == "/" then return nil end
    directory, first = directory:match "^(.*)/[^/]*$", false
    if directory == "" then directory = "/" end
  end
end

--- The directory with nebula.conf.lua, or nil.
---@param from? string an absolute path; default: the current directory
---@return string?
function project.find(from) return upwards("nebula.conf.lua", "file", from) end

--- The path of the nearest `.nebula` directory, or nil.
---@param from? string
---@return string?
function project.state(from)
  local directory = upwards(".nebula", "directory", from)
  return directory and (directory == "/" and "" or directory) .. "/.nebula"
end

return project
