-- cli/migrate.lua: `nebula migrate up|status`.
local PATH = { path = { type = "file", short = "p",
  help = "the project's migrations (default: MIGRATION_PATH, ./migrations)" } }

local function with(extra)
  local declared = {}
  for name, option in pairs(PATH) do declared[name] = option end
  for name, option in pairs(extra) do declared[name] = option end
  return declared
end

local function up(opts)
  local nebula = require "nebula"
  local storage <close> = require("nebula.storage").from_env()
  local applied = storage:run_migrations { path = opts.path, log = not opts.json and print or nil }
  if opts.json then
    print(nebula.json.encode(nebula.json.array(applied)))
  elseif #applied == 0 then
    print "nothing to do: every migration is applied"
  end
end

local function status(opts)
  local nebula = require "nebula"
  local storage <close> = require("nebula.storage").from_env { read_only = true }
  local rows = require("nebula.migrate").status(storage.db, { path = opts.path })
  if opts.json then
    print(nebula.json.encode(nebula.json.array(rows)))
  else
    print(require("nebula.ui").table(rows, { columns = { "series", "version", "name", "state", "applied_at",
      "duration_ms" } }))
  end
  if not opts.exit_code then return end
  for _, row in ipairs(rows) do
    if row.state ~= "applied" then return 1 end
  end
end

return {
  summary = "Bring the database's schema to the newest version",
  commands = {
    up = {
      summary = "Apply every pending migration",
      options = with { json = { default = false, help = "print what was applied as JSON" } },
      run = up,
    },
    status = {
      summary = "List the migrations and what is applied",
      options = with {
        json = { default = false, help = "print JSON" },
        exit_code = { default = false, help = "exit 1 where something is pending" },
      },
      run = status,
    },
  },
}
