-- nebula.lua: the built program as its users run it, and the module in a stock lua5.4, both in a
-- clean environment: nothing of the developer's own settings reaches them, and they end with the
-- spec that started them.
local lfs = require "lfs"
local child = require "spec.support.child"
local directory = require "spec.support.directory"

local nebula = {}

local ROOT = lfs.currentdir()
local BUILD = ROOT .. "/" .. directory.build
local DEADLINE_SECONDS = 120

--- Absolute paths: the root of the tree, the built program.
nebula.root = ROOT
nebula.program = BUILD .. "/nebula"

-- What else a program needs to start, and what the sanitizers are told.
local KEPT = {
  "PATH", "HOME", "USER", "LANG", "TMPDIR", "ASAN_OPTIONS", "LSAN_OPTIONS", "UBSAN_OPTIONS", "NEBULA_SPEC_RUN",
}

local function environment(given)
  local env = {}
  for _, name in ipairs(KEPT) do env[name] = os.getenv(name) end
  env.TERM = "dumb"
  env.AWS_EC2_METADATA_DISABLED = "true" -- the metadata service of this machine is not ours
  for name, value in pairs(given or {}) do env[name] = value end
  return env
end

local function prepared(options, file)
  local copy = {}
  for name, value in pairs(options) do copy[name] = value end
  copy.file, copy.clear_env = file, true
  copy.env = environment(options.env)
  copy.stdin = options.stdin or ""
  return copy
end

local function run(options, file)
  local copy = prepared(options, file)
  copy.timeout = options.timeout or DEADLINE_SECONDS
  return child.run(copy)
end

--- Runs the program to its end.
---@param options { args: string[]?, env: table<string, string>?, stdin: string?, cwd: string?, timeout: number? }
---@return { status: integer?, signal: integer?, stdout: string, stderr: string }
function nebula.run(options) return run(options, nebula.program) end

--- Starts the program and returns at once.
---@param options table nebula.process.spawn's, without `file`; standard output is a pipe
---@return Process
function nebula.spawn(options)
  local copy = prepared(options, nebula.program)
  copy.stdout = copy.stdout or "pipe"
  return child.spawn(copy)
end

--- Runs a stock lua5.4 that finds build/nebula.so; options as for run.
function nebula.stock(options)
  local env = {
    LUA_CPATH = BUILD .. "/?.so;;",
    LUA_PATH = ROOT .. "/scripts/?.lua;" .. ROOT .. "/?.lua;;",
    LD_PRELOAD = os.getenv "NEBULA_SPEC_PRELOAD", -- the sanitizer's library, which lua5.4 does not bring
  }
  for name, value in pairs(options.env or {}) do env[name] = value end
  local copy = {}
  for name, value in pairs(options) do copy[name] = value end
  copy.env = env
  return run(copy, "lua5.4")
end

--- Makes an empty directory for a spec's files; it is removed with the run's.
---@return string absolute path
function nebula.scratch()
  return directory.make_outside("scratch-" .. child.next_number "scratches")
end

--- Writes files below a directory: { ["policies/mine.lua"] = "return {}" }.
---@param where string
---@param files table<string, string>
function nebula.write(where, files)
  for name, content in pairs(files) do
    local path = where .. "/" .. name
    child.must { file = "mkdir", args = { "-p", (path:match("^(.*)/")) } }
    local file <close> = assert(io.open(path, "wb"))
    file:write(content)
  end
end

return nebula
