-- cli/migrate.lua: `nebula migrate`.
local PATH = { type = "file", short = "p", metavar = "DIR",
  help = "the project's migrations (default: MIGRATION_PATH, ./migrations)" }
local ENV = { type = "string", short = "e", metavar = "VAR", help = "the environment variable with the database's URL" }
local JSON = { default = false, help = "print JSON" }
local SERIES = { choices = { "nebula", "project" }, help = "which series --to is of (default: the project's)" }
local WAITING = {
  lock_timeout = { type = "duration", default = "2s",
    help = "longest wait for one lock before the others pass; 0: none" },
  patience = { type = "duration", default = "10m", help = "how long a lock is tried for again" },
}

local function with(...)
  local declared = { path = PATH, json = JSON }
  for _, more in ipairs { ... } do
    for name, option in pairs(more) do declared[name] = option end
  end
  return declared
end

local DATABASE = { env = ENV }

-- ---- the database ----

-- A pool of the migrator's own, on what -e names or the configuration.
local function connect(opts, read_only)
  local nebula = require "nebula"
  local overrides = { max_connections = 3, read_only = read_only }
  if opts.env then
    overrides.url = os.getenv(opts.env)
    if not overrides.url or overrides.url == "" then
      error(nebula.error { kind = "config", message = ("-e %s: that variable is not set"):format(opts.env) }, 0)
    end
  end
  local settings = require("nebula.config").pool(overrides)
  settings.application_name = "nebula migrate"
  return nebula.pg.connect(settings)
end

-- ---- output ----

local function print_json(value)
  local nebula = require "nebula"
  print(nebula.json.encode(nebula.json.array(value)))
end

local function progress(label, total)
  return require("nebula.ui").progress { label = label, total = total, unit = "rows" }
end

-- Runs migrate[name], prints its lines as they come, or what it returns as JSON.
local function run(name, opts, idle)
  local db <close> = connect(opts)
  local given = {
    path = opts.path, to = opts.to, series = opts.series, dry_run = opts.dry_run,
    lock_timeout = opts.lock_timeout, patience = opts.patience,
    log = opts.json and function(line) io.stderr:write(line, "\n") end or print,
    progress = not opts.json and progress or nil,
  }
  local results = require("nebula.migrate")[name](db, given)
  if opts.json then return print_json(results) end
  if #results == 0 then print(idle) end
end

-- ---- the commands ----

local function up(opts) run("up", opts, "nothing to do: every migration is applied") end

local function down(opts) run("down", opts, "nothing to undo") end

local function baseline(opts) run("baseline", opts, "nothing to take: the series has no such migration") end

local function adopt(opts) run("adopt", opts, "nothing to adopt: the history has it all") end

local function status(opts)
  local db <close> = connect(opts, true)
  local rows = require("nebula.migrate").status(db, { path = opts.path })
  if opts.json then
    print_json(rows)
  else
    print(require("nebula.ui").table(rows, { columns = { "series", "version", "name", "state", "applied_at",
      "duration_ms" } }))
    local foreign = require("nebula.migrate").foreign(db, { path = opts.path })
    if foreign then print("\n" .. foreign) end
  end
  if not opts.exit_code then return end
  for _, row in ipairs(rows) do
    if row.state ~= "applied" then return 1 end
  end
end

local function plan(opts)
  local db <close> = connect(opts, true)
  local list = require("nebula.migrate").plan(db, { path = opts.path, to = opts.to, series = opts.series })
  if opts.json then return print_json(list) end
  for _, migration in ipairs(list) do
    print(("-- %s V%d__%s%s"):format(migration.series, migration.version, migration.name,
      migration.transaction and "" or ", without a transaction"))
    for i, step in ipairs(migration.steps) do
      if #migration.steps > 1 then print("-- step " .. i) end
      print((step:gsub("%s+$", "") .. (step:find "^%-%-" and "" or ";")):gsub(";+$", ";") .. "\n")
    end
  end
  if #list == 0 then print "-- nothing to do: every migration is applied" end
end

local function verify(opts)
  local db <close> = connect(opts, true)
  local problems = require("nebula.migrate").verify(db, { path = opts.path })
  if opts.json then
    print_json(problems)
  else
    for _, problem in ipairs(problems) do print(problem.kind .. ": " .. problem.message) end
    if #problems == 0 then print "what was applied is what the files say" end
  end
  return #problems > 0 and 1 or 0
end

local function lint(opts)
  local list = require("nebula.migrate").series(opts.path)
  local found = require("nebula.migrate.lint").directory(list[#list].directory)
  if opts.json then
    print_json(found)
  else
    for _, one in ipairs(found) do
      print(("%s:%d: %s: %s\n    %s"):format(one.path, one.line, one.rule, one.message, one.statement))
    end
    if #found == 0 then print "nothing dangerous" end
  end
  return #found > 0 and 1 or 0
end

local function new(opts, args)
  local path = require("nebula.migrate.create").file(args.name, { path = opts.path, sql = opts.sql })
  print(opts.json and require("nebula").json.encode { path = path } or path)
end

local TO = { to = { type = "integer", min = 0, metavar = "N", help = "this version and no further" }, series = SERIES }
local DRY = { dry_run = { default = false, help = "run everything in one transaction, and roll back" } }

return {
  summary = "Bring the database's schema to the newest version",
  commands = {
    up = { summary = "Apply every pending migration", options = with(DATABASE, TO, DRY, WAITING), run = up },
    down = {
      summary = "Undo the newest migration, or all above --to N",
      options = with(DATABASE, TO, DRY, WAITING), run = down,
    },
    status = {
      summary = "List the migrations and what is applied",
      options = with(DATABASE, { exit_code = { default = false, help = "exit 1 where something is pending" } }),
      run = status,
    },
    plan = { summary = "Print the SQL that up would run", options = with(DATABASE, TO), run = plan },
    verify = {
      summary = "Name what differs between the files and what was applied: divergent, missing, out of order",
      options = with(DATABASE), run = verify,
    },
    adopt = {
      summary = "Take over a database that refinery has migrated, or that has V1 to V3 already",
      options = with(DATABASE, { dry_run = { default = false, help = "check and compare alone" } }),
      run = adopt,
    },
    baseline = {
      summary = "Take the migrations up to --to N as applied, without running them",
      options = with(DATABASE, {
        to = { type = "integer", min = 1, required = true, metavar = "N", help = "the version that the database has" },
        series = SERIES,
      }),
      run = baseline,
    },
    lint = {
      summary = "Name DDL that stops or breaks what runs beside it, with the safe way",
      options = with(), run = lint,
    },
    new = {
      summary = "Make the file of a new migration",
      options = { path = PATH, json = JSON, sql = { default = false, help = "in SQL, not in Lua" } },
      arguments = { { name = "name", required = true, help = "what it does, in words" } },
      run = new,
    },
  },
}
