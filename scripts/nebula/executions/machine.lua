-- executions/machine.lua: the statuses of an execution and the legal changes between them.
local machine = {}

machine.STATUSES = { "created", "running", "paused", "cancelling", "completed", "failed", "cancelled", "timed_out" }

local TRANSITIONS = {
  created = { "running", "cancelling", "cancelled", "failed", "timed_out" },
  running = { "paused", "cancelling", "completed", "failed", "cancelled", "timed_out" },
  paused = { "running", "cancelling", "failed", "cancelled", "timed_out" },
  cancelling = { "cancelled", "completed", "failed", "timed_out" },
  completed = {},
  failed = {},
  cancelled = {},
  timed_out = {},
}

--- The statuses that end it.
machine.ENDED = { "cancelled", "completed", "failed", "timed_out" }

--- "from>to" of every legal change, and by target the statuses it may come from.
machine.LEGAL, machine.SOURCES = {}, {}
for _, from in ipairs(machine.STATUSES) do
  for _, to in ipairs(TRANSITIONS[from]) do
    machine.LEGAL[#machine.LEGAL + 1] = from .. ">" .. to
    machine.SOURCES[to] = machine.SOURCES[to] or {}
    table.insert(machine.SOURCES[to], from)
  end
end

return machine
