-- cli.lua: how long the program takes to start and to show its prompt, what memory that takes, and
-- how fast it prints a large result, beside psql and curl.
local child = require "spec.support.child"
local nebula = require "nebula"
local host = require "spec.support.nebula"
local process = require "nebula.process"
local prompts = require "spec.repl.prompt"

local STARTS, ROWS = 20, 100000

local QUERY = ([[
  SELECT i AS id, md5(i::text) AS hash, i * 1.5::float8 AS amount, now() AS at,
    CASE WHEN i %% 3 = 0 THEN NULL ELSE 'note ' || i END AS note
  FROM generate_series(1, %d) AS i]]):format(ROWS)

-- Runs a program with its output thrown away; it must succeed.
local function run(file, args, env)
  local ended = process.run { file = file, args = args, env = env, stdout = "null", stderr = "pipe" }
  if ended.status ~= 0 then error(file .. ": " .. ended.stderr) end
end

local function starts_a_second(file, args)
  local began = nebula.time.monotonic()
  for _ = 1, STARTS do run(file, args) end
  return STARTS / (nebula.time.monotonic() - began)
end

-- The largest resident memory in MB that the kernel told of in ten runs.
local function memory(file, args)
  local code = [[
    local process = require "nebula.process"
    local child = process.spawn { file = arg[1], args = table.move(arg, 2, #arg, 1, {}), stdout = "null" }
    local most = 0
    while not child:wait(0.0005) do
      local status = io.open("/proc/" .. child.pid .. "/status")
      local text = status and status:read "a" or ""
      if status then status:close() end
      most = math.max(most, tonumber(text:match "VmHWM:%s*(%d+)") or 0)
    end
    print(most)]]
  local most = 0
  for _ = 1, 10 do
    local told = child.must { file = host.program, args = { "-e", code, file, table.unpack(args) } }
    most = math.max(most, tonumber(told) or 0)
  end
  return most / 1024
end

return function(bench)
  local server = bench.postgres()
  local url = server:database "bench_cli"
  local programs = { { "nebula -e ''", host.program, { "-e", "" } }, { "psql --version", "psql", { "--version" } },
    { "curl --version", "curl", { "--version" } } }
  for _, program in ipairs(programs) do
    local name, file, args = table.unpack(program)
    print(("%-16s %.1f ms, %.1f MB resident"):format(name, 1000 / starts_a_second(file, args), memory(file, args)))
  end
  bench.compare {
    name = "start and end", peer = "psql --version", unit = "/s",
    ours = function() return starts_a_second(host.program, { "-e", "" }) end,
    theirs = function() return starts_a_second("psql", { "--version" }) end,
  }

  local least = math.huge
  for _ = 1, 10 do
    local began = nebula.time.monotonic()
    local prompt <close> = prompts.open { DATABASE_URL = url }
    least = math.min(least, nebula.time.monotonic() - began)
    assert(prompt.prompt)
  end
  print(("first prompt: %.0f ms at best of 10, the wait's step of 20 ms included"):format(least * 1000))

  bench.compare {
    name = ("%d rows printed"):format(ROWS), peer = "psql -P format=aligned", unit = "rows/s",
    ours = function()
      return bench.rate(ROWS, function()
        run(host.program, { "-e", "sql [==[" .. QUERY .. "]==]" }, { DATABASE_URL = url })
      end)
    end,
    theirs = function()
      return bench.rate(ROWS, function()
        run("psql", { "-X", "-P", "format=aligned", "-P", "pager=off", "-c", QUERY, url })
      end)
    end,
  }
end
