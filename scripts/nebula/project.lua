-- project.lua: where the user's own project is: the nearest directory, from here upwards, that holds
-- nebula.conf.lua or the private `.nebula/`; and which scripts there are, in it and the host's own. Code
-- found in somebody else's directory above this one is not run: a parent counts only where its file belongs
-- to us or to the owner of this directory.
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

--- The scripts of a kind ("policies", "tasks", "handlers"), by name: of several with one name that which is
--- found by it.
---@param kind string
---@return {name: string, path: string}[]
function project.scripts(kind)
  local found, seen = {}, {}
  for template in package.path:gmatch "[^;]+" do
    local directory = template:match "^(.*)/%?%.lua$"
    directory = directory and directory .. "/" .. kind
    for _, file in ipairs(directory and system.list(directory) or {}) do
      local name = file:match "^([^.].*)%.lua$"
      if name and not seen[name] then
        seen[name] = true
        found[#found + 1] = { name = name, path = directory .. "/" .. file }
      end
    end
  end
  table.sort(found, function(a, b) return a.name < b.name end)
  return found
end

--- Their names alone.
---@param kind string
---@return string[]
function project.names(kind)
  local names = {}
  for i, found in ipairs(project.scripts(kind)) do names[i] = found.name end
  return names
end

return project
