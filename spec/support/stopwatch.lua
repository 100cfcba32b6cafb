-- stopwatch.lua: how long something took, less what this process had to wait for a processor: what is held
-- against a bound is the program's own time, however busy the machine is.
local child = require "spec.support.child"
local nebula = require "nebula"

local function waited() -- seconds on a run queue; 0 where the kernel does not count them
  return tonumber((child.read_file "/proc/self/schedstat" or ""):match "^%d+ (%d+)" or 0) / 1e9
end

--- Starts one.
---@return fun(): number seconds since then
return function()
  local began, before = nebula.time.monotonic(), waited()
  return function() return nebula.time.monotonic() - began - (waited() - before) end
end
