-- run.lua [FILE|DIRECTORY...]: runs specs, each file in a process of its own, as many at once as the
-- machine has cores. The servers they need are started once, before, and stopped at the end; both
-- they and the processes end with this one, however it ends. A file that crashes, hangs, leaves a
-- process behind or does not say how it went counts as failed. The last line is
-- `N passed, N failed`; the exit status is 1 where anything failed or nothing ran.
local lfs = require "lfs"
package.path = "./?.lua;" .. package.path
local nebula = require "nebula"
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local postgres = require "spec.support.postgres"
local s3 = require "spec.support.s3"

local PROGRAM = directory.build .. "/nebula"
local BUSTED = "/usr/bin/busted"
local FILE_SECONDS = tonumber(os.getenv "NEBULA_SPEC_SECONDS") or 600
local ENDING_SECONDS = 5
local MARK = "NEBULA_SPEC_RUN=" .. child.pid

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
  local env = { NEBULA_SPEC_RUN = tostring(child.pid), NEBULA_SPEC_BUILD = directory.build }
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
  directory.sweep()
end

-- Processes that carry the run's mark, apart from this one: { [pid] = command line }.
local function marked()
  local found = {}
  for pid in lfs.dir("/proc") do
    if pid:find("^%d+$") and tonumber(pid) ~= child.pid then
      local env = child.read_file("/proc/" .. pid .. "/environ") or ""
      if ("\0" .. env):find("\0" .. MARK .. "\0", 1, true) then
        local line = (child.read_file("/proc/" .. pid .. "/cmdline") or ""):gsub("%z", " ")
        found[tonumber(pid)] = line
      end
    end
  end
  return found
end

-- The same once those had their time that end because the process that started them has.
local function left_behind()
  nebula.try(child.await, "the end of what the specs started", ENDING_SECONDS, function()
    return next(marked()) == nil
  end)
  return marked()
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
  if outcome.failed > 0 or outcome.output ~= "" then
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
    child.run { file = "kill", args = { "-9", tostring(pid) } }
    failed = failed + 1
  end
  return passed, failed
end

local ran, passed, failed = xpcall(main, debug.traceback)
stop_servers()
if not ran then
  io.stderr:write(tostring(passed), "\n")
  passed, failed = 0, 1
elseif passed + failed == 0 then
  io.stderr:write("no spec ran\n")
  failed = 1
end
print(("%d passed, %d failed"):format(passed, failed))
os.exit(failed == 0, true)
