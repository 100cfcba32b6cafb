-- cli/run.lua: `nebula run [DIR]`: the main job on real input, behind `make run`.
-- Where nothing names a database, this directory gets the private one of `nebula dev`.
local function ensure_database()
  local config = require "nebula.config"
  local current = config.load()
  if current.state or config.names_database(current) then return end
  require("nebula.dev").up(require("nebula.system").cwd())
end

local function print_summary(result)
  local ui = require "nebula.ui"
  local rows = {
    { what = "jobs", value = tostring(result.jobs) },
    { what = "failed", value = tostring(result.failed) },
    { what = "bytes", value = ui.bytes(result.bytes) },
    { what = "jobs/s", value = ("%.0f"):format(result.jobs / math.max(result.seconds, 1e-3)) },
    { what = "artifacts verified", value = ("%d of %d"):format(result.verified, result.artifacts) },
    { what = "blobs", value = result.blobs },
  }
  print(ui.table(result.stats.rows, { columns = result.stats.columns }))
  print ""
  print(ui.table(rows, { columns = { "what", "value" } }))
end

return {
  summary = "Take every file of a directory through the queue and check what comes out",
  description = [[
Registers the workflow "inventory", creates an execution and a job for each file, works them with a Lua handler
that stores the file as an artifact, reads every artifact back, and runs an admin task over the executions.
Leaves out .git, .nebula and build.]],
  options = {
    json = { default = false, help = "print the summary as JSON" },
  },
  arguments = { { name = "directory", help = "default: this one" } },

  run = function(opts, args)
    local directory = args.directory ~= "" and args.directory or "."
    ensure_database()
    local storage <close> = require("nebula.storage").from_env()
    storage:run_migrations { log = function() end }
    local result = require("nebula.inventory").run(storage, directory)
    if opts.json then
      print(require("nebula").json.encode(result))
    else
      print_summary(result)
    end
    for _, line in ipairs(result.problems) do io.stderr:write("nebula run: ", line, "\n") end
    if result.failed > 0 or result.skipped > 0 or result.unfinished > 0 or result.verified ~= result.artifacts then
      return 1
    end
    local system = require "nebula.system"
    if system.isatty(0) and system.isatty(1) and not opts.json then
      return require("nebula.cli").command("repl").run({}, {})
    end
    return 0
  end,
}
