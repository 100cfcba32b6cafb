-- leftovers.lua: what a run of the specs has started and not ended. Every process that a run
-- starts inherits an environment variable with the run's id; daemons that detach themselves with a
-- new environment are known by the directory of the specs that their command line names.
local lfs = require "lfs"
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local system = require "nebula.system"

local leftovers = {}

--- The environment variable; its value is the id of the run's first process.
leftovers.VARIABLE = "NEBULA_SPEC_RUN"

local function is_left(pid, mark, directories)
  local environment = child.read_file("/proc/" .. pid .. "/environ") or ""
  local command = (child.read_file("/proc/" .. pid .. "/cmdline") or ""):gsub("%z", " ")
  local left = ("\0" .. environment):find(mark, 1, true) ~= nil
  for _, path in ipairs(directories) do left = left or command:find(path .. "/", 1, true) ~= nil end
  return left, command
end

--- The processes that belong to a run, or to a spec file's process that is gone, apart from this one.
---@param run integer
---@return table<integer, string> process id -> command line
function leftovers.find(run)
  local found = {}
  local mark, directories = ("\0%s=%d\0"):format(leftovers.VARIABLE, run), directory.stale()
  for name in lfs.dir("/proc") do
    local pid = math.tointeger(name)
    if pid and pid ~= child.pid then
      local left, command = is_left(pid, mark, directories)
      if left then found[pid] = command end
    end
  end
  return found
end

--- Ends them and removes their files.
---@param run integer
---@return boolean whether there was anything
function leftovers.clear(run)
  local found = leftovers.find(run)
  for pid in pairs(found) do system.kill(pid, "KILL") end
  local stale = directory.stale()
  directory.sweep()
  return next(found) ~= nil or #stale > 0
end

return leftovers
