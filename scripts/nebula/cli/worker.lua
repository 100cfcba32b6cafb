-- cli/worker.lua: `nebula worker`: works the queue until SIGTERM or Ctrl-C.
local OPTIONS = {
  processes = { default = 1, min = 1, max = 256, help = "worker processes; one that dies is started again" },
}
for name, option in pairs(require("nebula.worker").OPTIONS) do OPTIONS[name] = option end

-- The first signal drains, the second gives running jobs back at once. A supervisor's child leaves Ctrl-C,
-- which reaches it as well, to the supervisor.
local function stop_on_signals(worker, is_child)
  local nebula, process = require "nebula", require "nebula.process"
  for _, signal in ipairs { "TERM", "INT" } do
    process.on_signal(signal, function()
      if is_child and signal == "INT" then return end
      nebula.log.info(worker.stopping and "stopping at once" or "draining: running jobs may finish",
        { signal = signal })
      worker:stop()
    end)
  end
  process.on_signal("QUIT", function()
    worker:stop()
    worker:stop()
  end)
end

-- Command lines before nebula.conf.lua before defaults.
local function settings(opts, said)
  local nebula, options = require "nebula", require "nebula.options"
  local given, err = nebula.try(options.coerce, OPTIONS, require("nebula.config").settings().file.worker,
    "nebula.conf.lua: worker")
  if err then error(nebula.error { kind = "config", message = err.message }, 0) end
  for name in pairs(said) do given[name] = opts[name] end
  return given
end

local function reload_on_hangup(worker)
  local nebula = require "nebula"
  require("nebula.process").on_signal("HUP", function()
    local _, err = nebula.try(function() worker:reload(require("nebula.config").load().file.periodic) end)
    if err then
      nebula.log.error("the configuration was refused; the one before works on",
        { error = err.message or tostring(err) })
    else
      nebula.log.info("reloaded: handlers, policy file, periodic jobs")
    end
  end)
end

-- The words after `nebula` of a supervisor's child. Each has a port of its own for its metrics: the first
-- the one that was given, the others those behind it.
local function child_words(given, number)
  local words = { "worker" }
  for name, value in pairs(given) do
    local flag = "--" .. name:gsub("_", "-")
    if name == "metrics" then
      local before, port = value:match "^(.-)(%d+)$"
      value = before .. math.tointeger(port) + number - 1
    end
    if name ~= "processes" then
      words[#words + 1] = type(value) ~= "boolean" and ("%s=%s"):format(flag, value) or value and flag or nil
    end
  end
  return words
end

local function supervise(given)
  if given.metrics then require("nebula.worker.exposed").address(given.metrics) end
  local supervisor = require("nebula.worker.supervisor").new(function(number) return child_words(given, number) end,
    given.processes, given.shutdown_timeout)
  stop_on_signals(supervisor, false)
  require("nebula.process").on_signal("HUP", function() supervisor:reload() end)
  require("nebula").log.info("supervisor started", { processes = given.processes })
  return supervisor:run()
end

return {
  summary = "Work the job queue",
  description = [[
Each job is worked by the handler that its payload names: handlers/NAME.lua, in --handlers, in the project, or
built in; an edited file is loaded again between two jobs. The first SIGTERM or Ctrl-C takes no more jobs and waits
for those that run; the second gives them back. SIGHUP reads the handlers, the policy's file and the periodic jobs
of nebula.conf.lua again.]],
  options = OPTIONS,
  run = function(opts, _, said)
    local nebula = require "nebula"
    local config = require("nebula.config").settings()
    local given = settings(opts, said)
    local is_child = require("nebula.worker.supervisor").is_child()
    if given.processes > 1 and not is_child then
      require("nebula.periodic").entries(config.file.periodic)
      return supervise(given)
    end
    given.processes, given.periodic = nil, config.file.periodic
    local idle = config.database.min_connections -- a worker alone keeps them
    local storage <close> = require("nebula.storage").from_env { min_connections = idle }
    local _ <close> = require("repl.attach").serve(storage)
    local worker, err = nebula.try(require("nebula.worker").new, storage, given)
    if not worker then
      local unknown = err.kind == "not_found" -- a policy
      error(unknown and nebula.error { kind = "config", message = err.message } or err, 0)
    end
    stop_on_signals(worker, is_child)
    reload_on_hangup(worker)
    collectgarbage("incremental", 400) -- a batch's tables die together; the heap between is a few megabytes
    nebula.log.info("worker started", { worker = worker.id, concurrency = worker.concurrency })
    local counts = worker:run()
    nebula.log.info("worker ended", counts)
  end,
}
