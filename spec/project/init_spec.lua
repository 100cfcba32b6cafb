-- `nebula init` and `nebula test`: a new project works at once, by the commands that a person types.
local child = require "spec.support.child"
local core = require "nebula"
local nebula = require "spec.support.nebula"
local postgres = require "spec.support.postgres"

local FAILING = [[
local testing = require "nebula.testing"
describe("specs", function()
  it("fails", function() assert.equal(1, testing.storage().db:value "SELECT 2") end)
end)
]]

local ISOLATED = [[
local testing = require "nebula.testing"
describe("storages", function()
  it("share nothing", function()
    local first = testing.storage()
    first.db:exec "INSERT INTO greetings (name, text) VALUES ('a', 'b')"
    first.blobs:upload("key", "one")
    local second = testing.storage()
    assert.equal(0, second.db:value "SELECT count(*) FROM greetings")
    assert.is_nil(second.blobs:download "key")
    assert.equal("one", first.blobs:download "key")
    local own <close> = require("nebula.storage").from_env()
    assert.equal(0, own.db:value "SELECT count(*) FROM greetings")
    assert.truthy(own.blobs.place:find("nebula-test", 1, true))
  end)

  it("work jobs by a function, too", function()
    local job = testing.work(function(_, job) return { twice = 2 * job.payload.n } end, { n = 21 })
    assert.same({ twice = 42 }, job.result)
  end)
end)
]]

describe("nebula init", function()
  it("lays out a project that works at once, on a private PostgreSQL", function()
    local parent = nebula.scratch()
    local project = parent .. "/mine"
    local function run(where, ...)
      local result = nebula.run { args = { ... }, cwd = where, env = { NEBULA_LOG = "error" } }
      assert.equal(0, result.status, table.concat({ ... }, " ") .. ": " .. result.stdout .. result.stderr)
      return result.stdout
    end
    run(parent, "init", "mine")
    local _ <close> = setmetatable({}, { __close = function() run(project, "dev", "reset", "--yes") end })
    run(project, "dev", "up")
    run(project, "migrate", "up")
    run(project, "queue", "push", "greet", '{"name": "world"}')
    run(project, "worker", "--policy", "steady", "--drain")
    assert.equal('{"text":"Hello, world!"}\n', run(project, "sql", "SELECT text FROM greetings", "--json"))
    assert.equal('{"would_delete":1}\n', run(project, "task", "forget-greetings", "--older-than", "0", "--dry-run",
      "--json"))
    assert.equal('{"deleted":1}\n', run(project, "task", "forget-greetings", "--older-than", "0", "--yes", "--json"))
    assert.truthy(run(project, "test"):find("4 successes / 0 failures / 0 errors", 1, true))
    assert.truthy(run(project, "doctor"))
  end)

  it("refuses a directory that is not empty, and touches nothing there", function()
    local where = nebula.scratch()
    nebula.write(where, { ["notes.txt"] = "mine" })
    local result = nebula.run { args = { "init", "." }, cwd = where }
    assert.equal(2, result.status)
    assert.truthy(result.stderr:find("notes.txt", 1, true))
    assert.equal("notes.txt", child.must { file = "ls", args = { "-A", where } })
  end)
end)

describe("nebula test", function()
  local server, project, env, db -- a server of its own: others' throwaway databases would count

  lazy_setup(function()
    project = nebula.scratch()
    assert(nebula.run { args = { "init", "." }, cwd = project }.status == 0)
    server = postgres.server()
    env = { DATABASE_URL = server:url() }
    db = core.pg.connect { url = env.DATABASE_URL }
  end)

  lazy_teardown(function()
    db:close()
    server:close()
  end)

  local function test(...) return nebula.run { args = { "test", ... }, cwd = project, env = env } end

  local function left_over()
    return db:value "SELECT count(*) FROM pg_database WHERE starts_with(datname, 'nebula_test_')"
  end

  it("exits 1 where a spec fails, and leaves no database behind", function()
    nebula.write(project, { ["more/failing_spec.lua"] = FAILING })
    local result = test "more"
    assert.equal(1, result.status)
    assert.truthy(result.stdout:find("1 failure", 1, true), result.stdout .. result.stderr)
    assert.equal(0, left_over())
    assert.equal(0, db:value "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
  end)

  it("gives each storage a database and a blob directory of its own", function()
    nebula.write(project, { ["isolated/isolated_spec.lua"] = ISOLATED })
    local result = test("isolated", "--output", "TAP")
    assert.equal(0, result.status, result.stdout .. result.stderr)
    assert.truthy(result.stdout:find("ok 2", 1, true), result.stdout)
    assert.equal(0, left_over())
  end)

  it("drops its databases when it is interrupted", function()
    nebula.write(project, { ["slow/slow_spec.lua"] = [[
      it("waits", function() io.open("begun", "w"):close() require("nebula").task.sleep(1000) end)
    ]] })
    local running = nebula.spawn { args = { "test", "slow" }, cwd = project, env = env }
    child.await("the slow spec", 60, function() return child.read_file(project .. "/begun") end, running)
    assert.equal(2, left_over())
    running:kill "INT"
    assert.equal(130, running:wait(60).status)
    assert.equal(0, left_over())
  end)

  it("says what to install where busted is missing", function()
    local result = nebula.run { args = { "test" }, cwd = project,
      env = { DATABASE_URL = env.DATABASE_URL, LUA_PATH = "/nowhere/?.lua" } }
    assert.equal(2, result.status)
    assert.truthy(result.stderr:find("apt-get install lua-busted", 1, true), result.stderr)
  end)

  it("refuses nebula.testing outside of it", function()
    local result = nebula.run { args = { "-e", "require 'nebula.testing'" }, cwd = project, env = env }
    assert.equal(2, result.status)
    assert.truthy(result.stderr:find("nebula test", 1, true), result.stderr)
  end)
end)
