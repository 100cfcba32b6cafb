-- bench.lua [FILE|DIRECTORY...]: runs benchmarks. A benchmark is a file that returns a function of
-- the table below; it measures the host against a peer in the same run, in turns, because absolute
-- figures move with the machine's load: what it prints is the ratio, smallest, median and largest.
local lfs = require "lfs"
package.path = "./?.lua;" .. package.path
local nebula = require "nebula"
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local postgres = require "spec.support.postgres"
local s3 = require "spec.support.s3"

local bench = { child = child, s3 = s3 }

local ROUNDS = 5

local server -- the one PostgreSQL of all benchmarks, durable as in production

--- The durable PostgreSQL server of the benchmarks.
---@return spec.Server
function bench.postgres()
  server = server or postgres.server {
    fsync = "on", shared_buffers = "512MB", max_wal_size = "4GB", autovacuum = "off",
  }
  return server
end

--- Calls fn and returns how often a second it did `count` things.
---@param count number
---@param fn fun()
---@return number
function bench.rate(count, fn)
  local began = nebula.time.monotonic()
  fn()
  return count / (nebula.time.monotonic() - began)
end

local function spread(list)
  local sorted = table.move(list, 1, #list, 1, {})
  table.sort(sorted)
  return sorted[1], sorted[(#sorted + 1) // 2], sorted[#sorted]
end

local function short(number)
  for _, scale in ipairs { { 1e9, "G" }, { 1e6, "M" }, { 1e3, "k" } } do
    if number >= scale[1] then return ("%.3g %s"):format(number / scale[1], scale[2]) end
  end
  return ("%.3g "):format(number)
end

--- Measures `ours` and `theirs` in turns and prints what ours is of theirs. Both return a rate;
--- higher is better.
---@param what { name: string, peer: string, unit: string, ours: function, theirs: function, rounds: integer? }
function bench.compare(what)
  local ours, theirs, ratios = {}, {}, {}
  for round = 1, what.rounds or ROUNDS do
    ours[round], theirs[round] = what.ours(), what.theirs()
    ratios[round] = ours[round] / theirs[round]
  end
  local least, median, most = spread(ratios)
  local _, our_median = spread(ours)
  local _, their_median = spread(theirs)
  print(("%s\n  ratio to %s: min %.2f, median %.2f, max %.2f   (%s%s against %s%s)"):format(what.name, what.peer,
    least, median, most, short(our_median), what.unit, short(their_median), what.unit))
end

--- What a program costs as a whole process, by GNU time. Raises where it fails.
---@param options table as child.run takes them
---@return {cpu: number, wall: number, rss: number} CPU and wall seconds, peak RSS in MiB
function bench.cost(options)
  local copy = {}
  for name, value in pairs(options) do copy[name] = value end
  local report = os.tmpname()
  copy.file = "/usr/bin/time"
  copy.args = { "-o", report, "-f", "%U %S %e %M", options.file, table.unpack(options.args) }
  child.must(copy)
  local user, system, wall, rss = (child.read_file(report) or ""):match "([%d.]+) ([%d.]+) ([%d.]+) (%d+)%s*$"
  os.remove(report)
  return { cpu = user + system, wall = tonumber(wall), rss = rss / 1024 }
end

--- Lets several clients do the same in turns, and prints each one's costs and what ours, the first, are
--- of them: CPU seconds (smallest, median, largest ratio), wall seconds and peak RSS (medians).
---@param what {name: string, clients: {name: string, run: fun(): table}[], rounds?: integer} run: as bench.cost
function bench.costs(what)
  local measured = {}
  for round = 1, what.rounds or 3 do
    for i, client in ipairs(what.clients) do
      measured[i] = measured[i] or { cpu = {}, wall = {}, rss = {}, ratio = {} }
      local cost = client.run()
      for _, field in ipairs { "cpu", "wall", "rss" } do measured[i][field][round] = cost[field] end
      measured[i].ratio[round] = measured[1].cpu[round] / math.max(cost.cpu, 0.005)
    end
  end
  print(what.name)
  for i, client in ipairs(what.clients) do
    local _, cpu = spread(measured[i].cpu)
    local _, wall = spread(measured[i].wall)
    local _, rss = spread(measured[i].rss)
    local least, median, most = spread(measured[i].ratio)
    print(("  %-22s %7.2f s CPU %7.2f s wall %6.0f MiB%s"):format(client.name, cpu, wall, rss,
      i > 1 and ("   our CPU: min %.2f, median %.2f, max %.2f of its"):format(least, median, most) or ""))
  end
end

local function find(path, found)
  if lfs.attributes(path, "mode") == "file" then
    found[#found + 1] = path
    return found
  end
  for name in lfs.dir(path) do
    if name:find("%.lua$") then found[#found + 1] = path .. "/" .. name end
  end
  table.sort(found)
  return found
end

local function main()
  local files = {}
  for _, path in ipairs(#arg > 0 and arg or { "spec/bench" }) do find(path, files) end
  for _, file in ipairs(files) do dofile(file)(bench) end
end

local ran, problem = xpcall(main, debug.traceback)
if server then server:close() end
s3.unshare()
directory.remove_own()
if not ran then
  io.stderr:write(tostring(problem), "\n")
  os.exit(1, true)
end
