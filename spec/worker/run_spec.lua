-- `nebula run`: the main job on real input, whatever the files are called.
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local storages = require "nebula.storage"

local PROGRAM = nebula.fs.realpath(directory.build .. "/nebula")
local NAMES = {
  "plain.txt", "with space", "per%cent%41", "new\nline", "latin1-\xe9", "ünïcödé", ".hidden", "a'b\"c\\d",
}

describe("nebula run", function()
  local url, place, tree

  setup(function()
    url, place = postgres.database(), directory.make "run"
    nebula.fs.mkdir(place .. "/.nebula")
    tree = place .. "/tree"
    for _, path in ipairs { "", "/below", "/below/deeper", "/.git", "/build" } do nebula.fs.mkdir(tree .. path) end
    for _, name in ipairs(NAMES) do nebula.fs.write(tree .. "/" .. name, "the file " .. name) end
    nebula.fs.write(tree .. "/below/empty", "")
    nebula.fs.write(tree .. "/below/deeper/large", ("0123456789abcdef"):rep(1 << 17))
    nebula.fs.write(tree .. "/.git/config", "left out")
    nebula.fs.write(tree .. "/build/output", "left out")
  end)

  local function run(...)
    return child.run {
      file = PROGRAM, args = { "run", "--json", ... }, cwd = place, stdin = "", env = { DATABASE_URL = url },
    }
  end

  it("takes every file through the queue and reads every artifact back, twice in a row", function()
    for _ = 1, 2 do
      local out = run(tree)
      assert.equal(0, out.status, out.stderr)
      local result = nebula.json.decode(out.stdout)
      assert.equal(#NAMES + 2, result.jobs)
      assert.equal(#NAMES + 2, result.verified)
      assert.equal(0, result.failed)
      assert.same({}, result.problems)
    end
  end)

  it("leaves the result in each execution's state, and knows whose each artifact is", function()
    local storage <close> = storages.with_pool_config(url, { max_size = 2 })
    local row = storage.db:one [[
      SELECT e.status, e.state, b.size, b.sha256
      FROM executions e JOIN blobs b ON b.execution_id = e.id
      WHERE e.state ->> 'path' = 'below/deeper/large'
    ]]
    assert.equal("completed", row.status)
    assert.equal(2 << 20, row.state.size)
    assert.equal(row.sha256, row.state.sha256)
    assert.equal(nebula.fs.hash(tree .. "/below/deeper/large"), row.sha256)
  end)

  it("ends with status 1 and names the file where a job is dead", function()
    local storage <close> = storages.with_pool_config(url, { max_size = 2 })
    local workflow = storage:get_workflow { name = "inventory" }
    local execution = storage:create_execution { workflow_id = workflow.id }
    storage:push_job {
      workflow_id = workflow.id, execution_id = execution.id, max_retries = 0,
      payload = { handler = "inventory", root = tree, path = "gone" },
    }
    local out = run(tree)
    assert.equal(1, out.status)
    assert.matches("gone: .*/tree/gone is gone", out.stderr)
    assert.equal(1, nebula.json.decode(out.stdout).failed)
    assert.equal("failed", storage:get_execution(execution.id).status)
  end)

  it("refuses what is no directory", function()
    local out = run(tree .. "/nowhere")
    assert.equal(2, out.status)
    assert.matches("nowhere: no such directory", out.stderr)
    assert.equal(2, run(tree .. "/plain.txt").status)
  end)
end)
