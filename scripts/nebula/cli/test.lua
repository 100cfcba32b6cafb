-- cli/test.lua: `nebula test [PATH...]`: the project's specs, by busted in a host of its own.
--
-- The databases are made beside the configured one and dropped at the end, however that comes: one
-- that is migrated and never used is the template of all others. The specs' process is told to look
-- nowhere else: no S3, no replica, blobs in a directory that is removed.
local testing = require "nebula.testing.databases"

local function require_busted()
  if package.searchpath("busted.runner", package.path) then return end
  error(require("nebula").error { kind = "config",
    message = "busted, which runs specs, is not installed: apt-get install lua-busted" }, 0)
end

local function check_paths(paths)
  local system = require "nebula.system"
  for _, path in ipairs(paths) do
    if not system.stat(path) then
      error(require("nebula").error { kind = "config", message = path .. ": no such file or directory; specs are "
        .. "files named *_spec.lua, by default under spec/" }, 0)
    end
  end
end

local function run_busted(env, opts, paths)
  local process, system = require "nebula.process", require "nebula.system"
  local args = { system.scripts .. "/nebula/testing/nebula-test.lua" }
  local function add(name, value) if value then table.move({ name, value }, 1, 2, #args + 1, args) end end
  add("--output", opts.output)
  add("--filter", opts.filter)
  add("--tags", opts.tags)
  if opts.shuffle then args[#args + 1] = "--shuffle" end
  table.move(paths, 1, #paths, #args + 1, args)
  local child = process.spawn { file = system.readlink "/proc/self/exe", args = args, env = env, stdin = "inherit",
    stdout = "inherit", stderr = "inherit" }
  local _ <close> = setmetatable({}, { __close = function() -- Ctrl-C has reached it too; TERM would be a second one
    if child:wait(0.5) then return end
    child:kill "TERM"
    child:wait(10)
  end })
  local ended = child:wait()
  return ended.signal and 1 or math.min(ended.status, 1)
end

return {
  summary = "Run the project's specs with a throwaway database",
  description = [[
Specs are busted's: files named *_spec.lua. They may wait, and `require "nebula.testing"` gives them storage(): a
migrated, empty database and blob directory of its own; and work(handler, payload), which takes a job through the
queue. The databases are made beside the configured one and dropped at the end.]],
  options = {
    filter = { type = "string", metavar = "PATTERN", help = "only specs whose names match this Lua pattern" },
    tags = { type = "string", metavar = "TAG,...", help = "only specs with one of these #tags" },
    output = { type = "string", metavar = "FORMAT", help = "busted's: utfTerminal, plainTerminal, TAP, junit, json" },
    shuffle = { type = "boolean", help = "run the specs in random order" },
  },
  arguments = { { name = "path", many = true, help = "spec files and directories (default: spec)" } },
  run = function(opts, args)
    require_busted()
    local paths = #args.path > 0 and args.path or { "spec" }
    check_paths(paths)
    local databases <close> = testing.make()
    return run_busted(databases:environment(), opts, paths)
  end,
}
