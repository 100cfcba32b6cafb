-- cli/worker.lua: `nebula worker`: works the queue until SIGTERM or Ctrl-C.
local OPTIONS = {}
for name, option in pairs(require("nebula.worker").OPTIONS) do OPTIONS[name] = option end

-- The first signal drains, the second gives running jobs back at once.
local function stop_on_signals(worker)
  local log = require("nebula").log
  for _, signal in ipairs { "TERM", "INT" } do
    require("nebula.process").on_signal(signal, function()
      log.info(worker.stopping and "stopping at once" or "draining: running jobs may finish", { signal = signal })
      worker:stop()
    end)
  end
end

return {
  summary = "Work the job queue",
  description = [[
Each job is worked by the handler that its payload names: handlers/NAME.lua, in --handlers, in the project, or
built in. The first SIGTERM or Ctrl-C takes no more jobs and waits for those that run; the second gives them back.]],
  options = OPTIONS,
  run = function(opts)
    local nebula = require "nebula"
    local defaults = require("nebula.options").coerce(OPTIONS, {})
    local given = { periodic = require("nebula.config").settings().file.periodic }
    for name, value in pairs(require("nebula.config").settings().file.worker or {}) do given[name] = value end
    for name, value in pairs(opts) do
      if value ~= defaults[name] then given[name] = value end
    end
    local idle = require("nebula.config").settings().database.min_connections -- a worker alone keeps them
    local storage <close> = require("nebula.storage").from_env { min_connections = idle }
    local worker = require("nebula.worker").new(storage, given)
    stop_on_signals(worker)
    collectgarbage("incremental", 400) -- a batch's tables die together; the heap between is a few megabytes
    nebula.log.info("worker started", { worker = worker.id, concurrency = worker.concurrency })
    local counts = worker:run()
    nebula.log.info("worker ended", counts)
  end,
}
