-- run.lua [FILE|DIRECTORY...]: runs specs, each file in a process of its own, as many at once as the
-- machine has cores. The servers they need are started once, before, and stopped at the end; both
-- they and the processes end with this one, however it ends. A file that crashes, hangs, leaves a
-- process behind or does not say how it went counts as failed. The last line is
-- `N passed, N failed`; the exit status is 1 where anything failed or nothing ran.
local lfs = require "lfs"
package.path = "./?.lua;" .. package.path
local nebula = require "nebula"
local process = require "nebula.process"
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local leftovers = require "spec.support.leftovers"
local postgres = require "spec.support.postgres"
local s3 = require "spec.support.s3"

local PROGRAM = directory.build .. "/nebula"
local BUSTED = "/usr/bin/busted"
local FILE_SECONDS = tonumber(os.getenv "NEBULA_SPEC_SECONDS") or 600
local ENDING_SECONDS = 120

local function find_specs(path, found)
  local mode = lfs.attributes(path, "mode")
  if mode == "file" then
    found[#found + 1] = path
  elseif mode == "directory" then
    local names = {}
    for name in lfs.dir(path) do names[#names + 1] = name end
    table.sort(names)
    for _, name in ipairs(names) do
      local below = path .. "/" .. name
      local is_spec = name:find("_spec%.lua$") or lfs.attributes(below, "mode") == "directory"
      if is_spec and name:sub(1, 1) ~= "." then find_specs(below, found) end
    end
  else
    error(path .. ": no such file or directory", 0)
  end
  return found
end

local function cores()
  local _, count = (child.read_file("/proc/cpuinfo") or ""):gsub("processor%s*:", "")
  return math.max(count, 1)
end

-- The servers that these files speak of, and the environment in which they are found.
local function start_servers(files)
  local env = { [leftovers.VARIABLE] = tostring(child.pid), NEBULA_SPEC_BUILD = directory.build }
  local wanted = {}
  for _, file in ipairs(files) do
    local text = child.read_file(file) or ""
    if text:find("spec.support.postgres", 1, true) then wanted[postgres] = true end
    if text:find("spec.support.s3", 1, true) then wanted[s3] = true end
  end
  nebula.task.scope(function(scope)
    for server in pairs(wanted) do
      scope:spawn(function()
        for name, value in pairs(server.share()) do env[name] = value end
      end)
    end
  end)
  return env
end

local function stop_servers()
  postgres.unshare()
  s3.unshare()
  directory.remove_own()
end

-- What the files' processes left, once that had its time which ends because they have.
local function left_behind()
  nebula.try(child.await, "the end of what the specs started", ENDING_SECONDS, function()
    return next(leftovers.find(child.pid)) == nil
  end)
  return leftovers.find(child.pid)
end

-- Ends what is left even where this process is killed.
local function start_watch()
  return process.spawn {
    file = PROGRAM, args = { "spec/support/watch.lua", child.pid }, stdin = "pipe", stdout = "null", detached = true,
  }
end

local function run_file(file, env)
  local began = nebula.time.monotonic()
  local result, problem = nebula.try(child.run, {
    file = PROGRAM, args = { BUSTED, file }, env = env, stdin = "", stderr = "stdout", timeout = FILE_SECONDS,
  })
  result = result or { stdout = tostring(problem) .. "\n" }
  local output, passed, failed = (result.stdout or ""):match("^(.-)(%d+) passed, (%d+) failed\n*$")
  local outcome = {
    file = file, seconds = nebula.time.monotonic() - began, output = output or result.stdout,
    passed = tonumber(passed) or 0, failed = tonumber(failed) or 1,
  }
  local ended_well = result.status == 0 and outcome.failed == 0 or result.status and outcome.failed > 0
  if not passed or not ended_well then
    if outcome.failed == 0 then outcome.failed = 1 end
    outcome.output = ("%sFAILED %s: the process ended with status %s, signal %s\n"):format(outcome.output,
      file, result.status, result.signal)
  end
  return outcome
end

local function print_outcome(outcome)
  local verdict = outcome.failed > 0 and "FAIL" or "ok  "
  io.write(("%s %-48s %4d passed %8.2f s\n"):format(verdict, outcome.file, outcome.passed, outcome.seconds))
  if outcome.failed > 0 then
    io.write("     ", (outcome.output:gsub("\n+$", ""):gsub("\n", "\n     ")), "\n")
  end
  io.flush()
end

local function main()
  local files = {}
  for _, path in ipairs(#arg > 0 and arg or { "spec" }) do find_specs(path, files) end

  local env = start_servers(files)
  local passed, failed = 0, 0
  nebula.task.map(files, function(file)
    local outcome = run_file(file, env)
    print_outcome(outcome)
    passed, failed = passed + outcome.passed, failed + outcome.failed
  end, { concurrency = cores() })

  for pid, line in pairs(left_behind()) do
    io.write(("FAILED: a process was left behind: %d %s\n"):format(pid, line))
    failed = failed + 1
  end
  return passed, failed
end

leftovers.clear(child.pid) -- of runs before this one
local watch = start_watch()
local ran, passed, failed = xpcall(main, debug.traceback)
stop_servers()
watch:end_input()
watch:wait()
if not ran then
  io.stderr:write(tostring(passed), "\n")
  passed, failed = 0, 1
elseif passed + failed == 0 then
  io.stderr:write("no spec ran\n")
  failed = 1
end
print(("%d passed, %d failed"):format(passed, failed))
os.exit(failed == 0, true)
