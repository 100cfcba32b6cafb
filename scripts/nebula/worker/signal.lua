-- worker/signal.lua: a condition that tasks wait for: notify() wakes those who wait, or the next who
-- will. Several notifications before a wait are one.
local nebula = require "nebula"

---@class nebula.Signal
local Signal = {}
Signal.__index = Signal

---@return nebula.Signal
function Signal.new() return setmetatable({ channel = nebula.task.channel(1), set = false }, Signal) end

--- Never waits.
function Signal:notify()
  if #self.channel == 0 then self.channel:send(true) end
end

--- Waits for a notification, at most so many seconds.
---@param seconds? number
---@return boolean notified
function Signal:wait(seconds)
  if not seconds then return self.channel:receive() end
  local got, err = nebula.try(nebula.task.deadline, seconds, self.channel.receive, self.channel)
  if err and err.kind ~= "timeout" then error(err, 0) end
  return got == true
end

return Signal
