-- cli/policy.lua: `nebula policy use|list|show|check|simulate|test`.
local JSON = { default = false, help = "print JSON" }
local SET = { type = "map", help = "an option of the policy; may be repeated" }
local PAYLOAD = { type = "string", metavar = "JSON",
  help = "payload of the job that its functions are tried with (default: one that has a handler alone)" }
local LANE = { type = "string",
  help = "where a job's lane stands, for policies that do not declare it (default: as the first that does)" }
local SVG = { type = "file", help = "write the comparison as a picture" }
local LISTED = 20 -- published versions

local function usage(format, ...)
  error(require("nebula").error { kind = "config", message = format:format(...) }, 0)
end

-- What loads a policy as the command line names it: a name or an option that there is not is a wrong usage.
local function as_named(fn, ...)
  local result, err = require("nebula").try(fn, ...)
  if not err then return result end
  if err.kind == "not_found" or err.kind == "validation" then usage("%s", err.message) end
  error(err, 0)
end

local function with_storage(fn)
  local storage <close> = require("nebula.storage").from_env { max_connections = 2 }
  return fn(storage)
end

local function sample_payload(text)
  if not text then return nil end
  local nebula = require "nebula"
  local payload, err = nebula.try(nebula.json.decode, text)
  if err then usage("--payload is not JSON: %s", err.message) end
  if type(payload) ~= "table" then usage "--payload is a JSON object" end
  return payload
end

local function options_text(options)
  local parts = {}
  for name, value in pairs(options or {}) do
    if type(value) == "table" then value = table.concat(value, ",") end
    parts[#parts + 1] = ("%s=%s"):format(name, value)
  end
  table.sort(parts)
  return table.concat(parts, " ")
end

local function described(row)
  return {
    version = row.version, name = row.name, options = row.options, set_by = row.published_by, since = row.published_at,
  }
end

local function use(opts, args)
  if not args.name and not opts.previous then usage "say which policy: NAME or FILE, or --previous" end
  if args.name and opts.previous then usage "--previous says which policy: no name beside it" end
  if opts.previous and opts.set then usage "--previous takes its options along: no --set" end
  local published = require "nebula.policy.published"
  return with_storage(function(storage)
    local row
    if opts.previous then
      row = published.use_previous(storage.db)
    else
      row = as_named(published.use, storage.db, args.name, opts.set, sample_payload(opts.payload))
    end
    if opts.json then
      print(require("nebula").json.encode(described(row)))
    else
      print(("policy %s is in force as version %d"):format(row.name, row.version))
    end
  end)
end

local function files()
  local nebula, policy = require "nebula", require "nebula.policy"
  local rows = {}
  for i, found in ipairs(require("nebula.project").scripts "policies") do
    local loaded, err = nebula.try(policy.load, found.path)
    rows[i] = { name = found.name, path = found.path, summary = loaded and loaded.summary,
      problem = err and (err.message or tostring(err)) }
  end
  return rows
end

-- What is published; nil and why where no database is named.
local function published_rows()
  local rows, err = require("nebula").try(with_storage, function(storage)
    return require("nebula.policy.published").list(storage.db, LISTED)
  end)
  if err and err.kind ~= "config" then error(err, 0) end
  return rows, err
end

-- What is in force where nothing is published.
local function default_text()
  local default = require("nebula.policy").default()
  if not default.configured then return "the built-in default, priority," end
  return ("%s, which nebula.conf.lua names (%s),"):format(default.name, options_text(default.options))
end

local function list(opts)
  local nebula, ui = require "nebula", require "nebula.ui"
  local rows, err = published_rows()
  local found = files()
  if opts.json then
    local out = { published = nebula.json.array {}, files = nebula.json.array(found) }
    for i, row in ipairs(rows or {}) do
      out.published[i] = described(row)
      out.published[i].in_force = i == 1
    end
    print(nebula.json.encode(out))
    return
  end
  if not rows then
    print(("Published: unknown (%s)\n"):format(err.message))
  elseif #rows == 0 then
    print(("Published: none; %s is in force\n"):format(default_text()))
  else
    local shown = {}
    for i, row in ipairs(rows) do
      shown[i] = described(row)
      shown[i].options, shown[i][""] = options_text(row.options), i == 1 and "in force" or ""
    end
    print(ui.table(shown, { columns = { "version", "name", "set_by", "since", "options", "" } }) .. "\n")
  end
  for _, row in ipairs(found) do row.summary = row.problem and "refused: " .. row.problem or row.summary end
  print(ui.table(found, { columns = { "name", "summary", "path" } }))
end

local function show(opts, args)
  local nebula = require "nebula"
  local row = with_storage(function(storage)
    if args.version then
      return storage.db:one("SELECT * FROM job_policies WHERE version = $1", args.version)
    end
    return require("nebula.policy.published").list(storage.db, 1)[1]
  end)
  if not row then
    local what = args.version and "there is no version " .. args.version
      or "nothing is published: " .. default_text() .. " is in force"
    error(nebula.error { kind = "not_found", message = what .. "; `nebula policy list` shows what there is" }, 0)
  end
  if opts.json then
    local out = described(row)
    out.source, out.modules = row.source, row.modules
    print(nebula.json.encode(out))
    return
  end
  print(("-- %s, version %d, set by %s at %s"):format(row.name, row.version, row.published_by, row.published_at))
  if next(row.options) then print("-- options: " .. options_text(row.options)) end
  print(row.source)
  for name, module in pairs(row.modules or {}) do
    print(("-- it loads policy %q:\n%s"):format(name, module.source))
  end
end

local function check(opts, args)
  local nebula = require "nebula"
  local policy = as_named(require("nebula.policy").load, args.name, opts.set)
  local results, passed = require("nebula.policy.check").run(policy, sample_payload(opts.payload))
  if opts.json then
    print(nebula.json.encode { name = policy.name, path = policy.path, passed = passed,
      functions = nebula.json.array(results) })
  else
    print(("%s: it compiles, and keeps to the contract"):format(policy.path))
    for _, result in ipairs(results) do print(("%-7s %s"):format(result.name, result.problem or "ok")) end
  end
  return passed
end

local function test(_, args)
  local nebula = require "nebula"
  local project = require("nebula.project").find() or "."
  local path = ("%s/spec/policies/%s_spec.lua"):format(project, args.name)
  if not nebula.fs.exists(path) then
    error(nebula.error { kind = "not_found", message = ("%s does not exist: it is where the specs of policy %s stand")
      :format(path, args.name) }, 0)
  end
  arg = { [0] = "busted", path } -- luacheck: globals arg
  local runner, err = nebula.try(require, "busted.runner")
  if not runner then
    error(nebula.error { kind = "config", message = "busted is not installed (Debian: lua-busted): "
      .. (err.message or tostring(err)) }, 0)
  end
  runner { standalone = false }
end

-- A load's file is data: it may compute, but knows nothing of the machine.
local function read_load(path)
  if type(path) == "table" then return path end
  local nebula = require "nebula"
  local chunk, message = load(nebula.fs.read(path), "@" .. path, "t", { math = math, ipairs = ipairs })
  if not chunk then usage("%s", message) end
  local jobs, err = nebula.try(chunk)
  if err then usage("%s: %s", path, err.message or tostring(err)) end
  if type(jobs) ~= "table" then usage("%s returns a list such as { { jobs = 100, every = 1, takes = 2 } }", path) end
  return jobs
end

local function simulate(opts, args)
  local nebula, policies = require "nebula", require "nebula.policy"
  local run, report = require("nebula.simulate").run, require "nebula.simulate.report"
  local jobs, results, loaded = read_load(opts.load), nebula.json.array {}, {}
  local lane = opts.lane
  for i, name in ipairs(args.names) do
    loaded[i] = as_named(policies.load, name, #args.names == 1 and opts.set or nil)
    lane = lane or loaded[i].lane
  end
  for i, policy in ipairs(loaded) do
    policy.lane = policy.lane or lane
    results[i] = run { policy = policy, workers = opts.workers, seed = opts.seed, load = jobs }
    results[i].policy = policy.name
  end
  if opts.svg then nebula.fs.write(opts.svg, report.svg(results)) end
  if opts.json then
    print(nebula.json.encode(results))
    return
  end
  print(report.tables(results))
  report.plot(results)
end

-- The same over what this database's queue did.
local function replay(opts, args)
  local read = with_storage(function(storage)
    return require("nebula.simulate.history").read(storage.db, opts.since, opts.limit)
  end)
  if not opts.json then
    print(("%d jobs ended in the last %s; they waited p50 %.3g, p95 %.3g, p99 %.3g s.\n"):format(read.jobs,
      require("nebula.ui").duration(opts.since), read.wait.p50, read.wait.p95, read.wait.p99))
  end
  opts.load = read.load
  return simulate(opts, args)
end

local NAME = { { name = "name", required = true, help = "a policy's name, or its file" } }

return {
  summary = "Publish, check and test queue policies",
  commands = {
    use = {
      summary = "Publish a policy: every worker follows within a second",
      options = {
        json = JSON, set = SET, payload = PAYLOAD,
        previous = { default = false, help = "publish again what was in force before" },
      },
      arguments = { { name = "name", help = "a policy's name, or its file" } },
      names = "policies",
      run = use,
    },
    list = {
      summary = "Which policy is in force, which were before, and the files found",
      options = { json = JSON },
      run = list,
    },
    show = {
      summary = "The source and options of the policy in force",
      options = { json = JSON },
      arguments = { { name = "version", type = "integer", help = "another version" } },
      run = show,
    },
    check = {
      summary = "Load a policy and try each of its functions; exit 1 where one fails",
      options = { json = JSON, set = SET, payload = PAYLOAD },
      arguments = NAME,
      names = "policies",
      run = check,
    },
    simulate = {
      summary = "Run a load through policies in virtual time, and compare them",
      options = {
        json = JSON, set = SET,
        load = { type = "file", required = true,
          help = "a Lua file that returns { {jobs=, at=, every=, takes=, payload=, priority=}, ... }" },
        workers = { default = 4, min = 1, max = 1000000, help = "jobs that run at once" },
        seed = { default = 1, help = "of the policy's math.random" },
        lane = LANE, svg = SVG,
      },
      arguments = { { name = "names", many = true, required = true, help = "policies" } },
      names = "policies",
      run = simulate,
    },
    replay = {
      summary = "Run the jobs that this database's queue worked through policies, and compare them",
      description = [[
Each job that ended comes when it was due then, and takes what it took. Finished jobs that were purged are gone from
it. The whole table is read once: DATABASE_URL may name a replica.]],
      options = {
        json = JSON, set = SET,
        since = { type = "duration", default = "7d", min = 1, help = "how far back" },
        limit = { default = 100000, min = 1, max = 1000000, help = "most jobs, the newest" },
        workers = { default = 32, min = 1, max = 1000000, help = "jobs that run at once" },
        seed = { default = 1, help = "of the policy's math.random" },
        lane = LANE, svg = SVG,
      },
      arguments = { { name = "names", many = true, required = true, help = "policies" } },
      names = "policies",
      run = replay,
    },
    test = {
      summary = "Run spec/policies/NAME_spec.lua",
      arguments = { { name = "name", required = true, help = "a policy's name" } },
      names = "policies",
      run = test,
    },
  },
}
