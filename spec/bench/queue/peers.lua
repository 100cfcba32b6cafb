-- peers.lua: the programs that the benchmarks of the queue run, each a process of its own that prints
-- one line of JSON; and where the peers come from: npm, into build/peers, when a benchmark first asks.
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local lfs = require "lfs"
local nebula = require "nebula"
local program = require "spec.support.nebula"

local peers = {}

local PACKAGES = { "graphile-worker@0.18", "pg-boss@12", "pg@8" }
local DEADLINE_SECONDS = 900

--- Pushes $1 jobs for the handler `noop`.
peers.FILL = [[
  INSERT INTO workflow_jobs (payload) SELECT '{"handler": "noop"}' FROM generate_series(1, $1)
]]

local function answer(options)
  options.timeout = DEADLINE_SECONDS
  local text = child.must(options)
  return text ~= "" and nebula.json.decode(text:match "[^\n]*$") or nil
end

local function text_of(...)
  local args = {}
  for i, value in ipairs { ... } do args[i] = tostring(value) end
  return args
end

--- One of the C programs of spec/bench.
---@param name string
---@return table? what it printed
function peers.program(name, ...)
  return answer { file = directory.build .. "/bench/" .. name, args = text_of(...) }
end

--- One of the Lua programs beside this file, in a host of its own.
---@param name string
---@return table? what it printed
function peers.nebula(name, ...)
  return answer { file = program.program, args = text_of("spec/bench/queue/" .. name, ...),
    env = { NEBULA_LOG = "warn" } }
end

local function install(where)
  if lfs.attributes(where .. "/node_modules/pg-boss", "mode") then return end
  child.must { file = "mkdir", args = { "-p", where } }
  child.must { file = "npm", args = { "install", "--prefix", where, "--no-audit", "--no-fund", "--loglevel=error",
    table.unpack(PACKAGES) } }
end

--- One of the node programs beside this file. It is run in build/peers, where node finds its packages.
---@param name string
---@return table? what it printed
function peers.node(name, ...)
  local where = directory.build .. "/peers"
  install(where)
  child.must { file = "cp", args = { "spec/bench/queue/" .. name, where } }
  return answer { file = "node", args = text_of(where .. "/" .. name, ...) }
end

return peers
