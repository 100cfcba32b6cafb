-- worker/supervisor.lua: `nebula worker --processes N`: N workers as children, of which one that ends out
-- of turn is started again, at once the first time, then after growing pauses.
--
-- The supervisor holds no connection and touches no job, so there is little that could end it. What a
-- dead child ran stands in its flight files: its successor, and its neighbours at their next look, give
-- those jobs their due (worker/flight.lua). Where the supervisor itself is gone, the kernel tells its
-- children, which drain.
local nebula = require "nebula"
local process = require "nebula.process"
local raise = require "nebula.raise"
local system = require "nebula.system"

local supervisor = {}

local ENVIRONMENT = "NEBULA_SUPERVISOR" -- of a child: the supervisor's pid
local FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30
local STEADY_SECONDS = 30 -- a child that lived so long is started again at once
local MARGIN_SECONDS = 10 -- beyond the shutdown timeout, after which a child is killed
local USAGE = 2 -- exit status of what would be refused again

---@class nebula.Supervisor
---@field children table<integer, Process> by their number
local Supervisor = {}
Supervisor.__index = Supervisor

--- Whether this process is a supervisor's child. From then on SIGTERM comes when the supervisor ends.
--- Raises `cancelled` where it has ended already.
---@return boolean
function supervisor.is_child()
  local parent = math.tointeger(tonumber(os.getenv(ENVIRONMENT)))
  if not parent then return false end
  if not system.end_with(parent, "TERM") then raise("cancelled", "the supervisor of this worker has ended") end
  return true
end

---@param args_of fun(number: integer): string[] of a child, after the program's name
---@param count integer
---@param shutdown_timeout number seconds
---@return nebula.Supervisor
function supervisor.new(args_of, count, shutdown_timeout)
  return setmetatable({
    args_of = args_of, count = count, shutdown_timeout = shutdown_timeout, children = {}, naps = {}, status = 0,
  }, Supervisor)
end

local function describe(ended)
  return ended.signal and "signal " .. ended.signal or "status " .. ended.status
end

-- Starts a child and waits for its end. Returns how it ended.
local function live(self, number)
  local args = self.args_of(number)
  local child = process.spawn {
    file = "/proc/self/exe", args = args, env = { [ENVIRONMENT] = tostring(system.ids().pid) },
    stdout = "inherit", stderr = "inherit",
  }
  self.children[number] = child
  local ended = child:wait()
  self.children[number] = nil
  return ended, child.pid
end

-- Keeps one child alive until the end.
local function keep(self, number)
  local pause = 0
  while not self.stopping do
    local since = nebula.time.monotonic()
    local ended, pid = live(self, number)
    if self.stopping or ended.status == 0 and not ended.signal then return end
    if ended.status == USAGE then
      self.status = USAGE
      return self:stop()
    end
    if nebula.time.monotonic() - since >= STEADY_SECONDS then pause = 0 end
    nebula.log.error("a worker process ended; it is started again",
      { pid = pid, ended = describe(ended), pause = ("%.1f"):format(pause) })
    if pause > 0 and not self.stopping then
      local nap = nebula.task.spawn(nebula.task.sleep, pause * (0.75 + math.random() / 2))
      self.naps[number] = nap
      nebula.try(nap.join, nap)
      self.naps[number] = nil
    end
    pause = math.min(math.max(pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
  end
end

local function signal_all(self, signal)
  for _, child in pairs(self.children) do child:kill(signal) end
end

--- Lets the children drain; called again, they give back what they run: by another signal, as two of one
--- may reach a child as one. A child that does not end is killed.
function Supervisor:stop()
  signal_all(self, self.stopping and "QUIT" or "TERM")
  for _, nap in pairs(self.naps) do nap:cancel() end
  if self.stopping then return end
  self.stopping = true
  nebula.task.spawn(function()
    nebula.task.sleep(self.shutdown_timeout + MARGIN_SECONDS)
    signal_all(self, "KILL")
  end)
end

--- Lets the children read handlers, policy and configuration again.
function Supervisor:reload() signal_all(self, "HUP") end

--- Supervises until every child has ended in order.
---@return integer status
function Supervisor:run()
  nebula.task.scope(function(scope)
    for number = 1, self.count do scope:spawn(keep, self, number) end
  end)
  return self.status
end

return supervisor
