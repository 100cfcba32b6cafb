-- child.lua: processes of the specs. Whatever is started here is ended by the kernel as soon as the
-- process that started it is gone, however that one ended: no interrupted run leaves a server behind.
local lfs = require "lfs"
local process = require "nebula.process"
local nebula = require "nebula"

local child = {}

local POLL_SECONDS = 0.02

--- True where this process is root: servers that refuse to run as root are then given a user.
child.is_root = lfs.attributes("/proc/self", "uid") == 0

--- This process's id.
child.pid = (function()
  local file <close> = assert(io.open("/proc/self/stat"))
  return file:read("n")
end)()

-- busted gives each spec file a fresh set of modules; what a process has only once is kept here.
local registry = debug.getregistry()

--- A table of this name that all spec files of this process share.
---@param name string
---@return table
function child.shared(name)
  local key = "nebula.spec." .. name
  registry[key] = registry[key] or {}
  return registry[key]
end

--- Counts: 1 at the first call with this name in this process, then 2, and so on.
---@param name string
---@return integer
function child.next_number(name)
  local counts = child.shared "counts"
  counts[name] = (counts[name] or 0) + 1
  return counts[name]
end

-- The options of process.spawn for one that ends with us. `user` is dropped to; `end_signal` is what
-- the kernel sends when we are gone.
local function options_with_us(options)
  local copy = {}
  for name, value in pairs(options) do copy[name] = value end
  local args = { "--pdeathsig", options.end_signal or "KILL" }
  if options.user then
    for _, arg in ipairs { "--reuid", options.user, "--regid", options.user, "--init-groups" } do
      args[#args + 1] = arg
    end
  end
  args[#args + 1] = "--"
  args[#args + 1] = options.file
  for _, arg in ipairs(options.args or {}) do args[#args + 1] = arg end
  copy.file, copy.args, copy.user, copy.end_signal = "setpriv", args, nil, nil
  return copy
end

--- process.spawn with two more options: `user` and `end_signal` (default KILL).
function child.spawn(options) return process.spawn(options_with_us(options)) end

--- process.run, the same; `status` is absent where a signal ended the program.
function child.run(options)
  local result = process.run(options_with_us(options))
  if result.signal then result.status = nil end
  return result
end

--- Runs a program that must succeed; its standard output without the last line's end.
---@param options table
---@return string
function child.must(options)
  local result = child.run(options)
  if result.status ~= 0 then
    error(("%s %s failed (status %s, signal %s): %s%s"):format(options.file,
      table.concat(options.args or {}, " "), result.status, result.signal, result.stdout or "",
      result.stderr or ""), 2)
  end
  return (result.stdout or ""):gsub("\n$", "")
end

--- Asks `ready` again and again until it answers something true, which is returned. Raises where
--- that takes longer than `seconds`, or where the process that should get ready has ended.
---@param what string for the error
---@param seconds number
---@param ready fun(): any
---@param started Process?
function child.await(what, seconds, ready, started)
  local last = nebula.time.monotonic() + seconds
  while true do
    local answer = ready()
    if answer then return answer end
    if started and started:wait(0) then error(what .. ": it ended before it was ready", 2) end
    if nebula.time.monotonic() > last then
      error(("%s: not ready after %g s"):format(what, seconds), 2)
    end
    nebula.task.sleep(POLL_SECONDS)
  end
end

--- The content of a file, or nil.
function child.read_file(path)
  local file <close> = io.open(path, "rb")
  return file and file:read("a")
end

return child
