-- Memory that is refused: each of the allocations of memory_scenarios.lua in turn, the program's own and Lua's.
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local nebula = require "spec.support.nebula"
local postgres = require "spec.support.postgres"
local s3 = require "spec.support.s3"

local SCENARIOS = 30

describe("memory that is refused", function()
  it("is an error at most, at every allocation of every scenario, and the next call works", function()
    local env = s3.environment()
    env.DATABASE_URL, env.NEBULA_LOG = postgres.database(), "off"
    local said = child.run {
      file = nebula.root .. "/" .. directory.build .. "/nebula_scarce", env = env, timeout = 300,
      args = { nebula.root .. "/spec/faults/memory_scenarios.lua", nebula.scratch() },
    }
    assert.same({ 0, nil }, { said.status, said.signal }, said.stdout .. said.stderr)
    local scenarios, refused = 0, 0
    for count in said.stdout:gmatch "[^\t\n]+\t(%d+)\n" do
      scenarios, refused = scenarios + 1, refused + tonumber(count)
    end
    assert.is_true(scenarios > SCENARIOS and refused > 500, said.stdout)
    assert.truthy(said.stdout:find "tasks left\t0\n$", said.stdout)
  end)
end)
