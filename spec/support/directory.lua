-- directory.lua: where the servers of the specs keep their files: under the build's directory where
-- their user can enter it and socket paths stay short enough, else under /tmp. The name carries the
-- id of the process they belong to, so that runs beside each other do not collide and what a killed
-- run left is removed by the next.
local lfs = require "lfs"
local child = require "spec.support.child"

local directory = {}

--- Where the built program lies, relative to the root of the tree.
directory.build = os.getenv "NEBULA_SPEC_BUILD" or "build"

-- A socket's path holds 107 bytes; PostgreSQL's own name takes up to 20 of them.
local LONGEST_PATH = 107 - 20

local PLACES = { lfs.currentdir() .. "/" .. directory.build .. "/spec", "/tmp" }
local NAME = "nebula-servers-"

local own = child.shared "directory" -- the directories of this process, once they are made: path, outside

local function can_enter(path)
  if not child.is_root then return true end
  return child.run { file = "test", args = { "-x", path }, user = "postgres", cwd = "/" }.status == 0
end

local function choose()
  local under_build = PLACES[1] .. "/" .. NAME .. child.pid
  child.must { file = "mkdir", args = { "-p", "-m", "755", PLACES[1] } }
  if #under_build + #"/postgres-99" <= LONGEST_PATH and can_enter(PLACES[1]) then return under_build end
  return "/tmp/" .. NAME .. child.pid
end

--- Removes a directory and what is in it.
function directory.remove(path) child.must { file = "rm", args = { "-rf", "--", path } } end

--- The directories whose process is gone.
---@return string[] absolute paths
function directory.stale()
  local found = {}
  for _, place in ipairs(PLACES) do
    if lfs.attributes(place, "mode") == "directory" then
      for name in lfs.dir(place) do
        local path = place .. "/" .. name
        local pid = name:match("^" .. NAME:gsub("%-", "%%-") .. "(%d+)$")
        local mine = pid and lfs.attributes(path, "uid") == lfs.attributes("/proc/self", "uid")
        if mine and not lfs.attributes("/proc/" .. pid) then found[#found + 1] = path end
      end
    end
  end
  return found
end

--- Removes what processes have left that are gone; what something still writes to stays for the next.
function directory.sweep()
  for _, path in ipairs(directory.stale()) do child.run { file = "rm", args = { "-rf", "--", path } } end
end

--- Makes an empty directory for a server of this process.
---@param name string a path component, free in this process
---@param user string? its owner
---@return string absolute path
function directory.make(name, user)
  if not own.path then
    directory.sweep()
    own.path = choose()
    child.must { file = "mkdir", args = { "-p", "-m", "755", own.path } }
  end
  local path = own.path .. "/" .. name
  local args = { "-d", "-m", "700" }
  if user then args = { "-d", "-m", "700", "-o", user, "-g", user } end
  args[#args + 1] = path
  child.must { file = "install", args = args }
  return path
end

--- Makes an empty directory outside of the tree, in whose parents the program finds no project.
---@param name string a path component, free in this process
---@return string absolute path
function directory.make_outside(name)
  own.outside = "/tmp/" .. NAME .. child.pid
  child.must { file = "mkdir", args = { "-p", "-m", "755", own.outside } }
  local path = own.outside .. "/" .. name
  child.must { file = "install", args = { "-d", "-m", "700", path } }
  return path
end

--- Removes the files of all servers of this process; they must have ended.
function directory.remove_own()
  if own.path then directory.remove(own.path) end
  if own.outside then directory.remove(own.outside) end
  own.path, own.outside = nil, nil
end

return directory
