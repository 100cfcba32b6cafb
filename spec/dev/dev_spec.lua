-- The private PostgreSQL of a checkout, as `nebula dev` and whatever needs a database use it.
local child = require "spec.support.child"
local nebula = require "spec.support.nebula"
local core = require "nebula"
local system = require "nebula.system"

local opened = {}

-- An empty checkout. Open: its server's user may enter it; otherwise it is closed to others.
local function checkout(open, below)
  local root = nebula.scratch()
  if open then child.must { file = "chmod", args = { "755", root } } end
  local directory = root .. (below or "")
  child.must { file = "mkdir", args = { "-p", directory } }
  opened[#opened + 1] = directory
  return directory
end

local function dev(directory, ...) return nebula.run { args = { "dev", ... }, cwd = directory } end

local function status(directory) return core.json.decode(dev(directory, "status", "--json").stdout) end

local function up(directory)
  local answer = dev(directory, "up", "--json")
  assert.equal("", answer.status == 0 and "" or answer.stderr)
  return core.json.decode(answer.stdout)
end

local function psql(url, sql, options)
  local command = { file = "psql", args = { "-XAtq", "-d", url, "-c", sql } }
  for name, value in pairs(options or {}) do command[name] = value end
  return child.run(command)
end

describe("nebula dev", function()
  teardown(function()
    for _, directory in ipairs(opened) do
      if system.stat(directory .. "/.nebula") then dev(directory, "reset", "--yes") end
    end
  end)

  it("makes a server once, finds it again, and keeps its data over a stop", function()
    local directory = checkout(true)
    local first, second = up(directory), up(directory)
    assert.is_true(first.started)
    assert.is_false(second.started)
    assert.equal(first.pid, second.pid)
    assert.equal(0, psql(first.url, "CREATE TABLE kept AS SELECT 7 AS x").status)
    assert.equal("stopped\n", dev(directory, "down").stdout)
    assert.equal("stopped", status(directory).status)
    assert.equal("it does not run\n", dev(directory, "down").stdout)
    assert.equal("7\n", psql(up(directory).url, "SELECT x FROM kept").stdout)
  end)

  it("makes one server where eight begin at once", function()
    local directory = checkout(true)
    local answers = core.task.map({ 1, 2, 3, 4, 5, 6, 7, 8 }, function() return up(directory) end)
    local started = 0
    for _, answer in ipairs(answers) do
      assert.equal(answers[1].pid, answer.pid)
      if answer.started then started = started + 1 end
    end
    assert.equal(1, started)
  end)

  it("comes back after its server was killed, though the pid in its file lives on as another's", function()
    local directory = checkout(true)
    local first = up(directory)
    psql(first.url, "CREATE TABLE kept AS SELECT 7 AS x")
    system.kill(first.pid, "KILL")
    child.await("the end of the server", 60, function() return not system.stat("/proc/" .. first.pid) end)
    local path = first.base .. "/data/postmaster.pid"
    local text = child.read_file(path)
    local file <close> = assert(io.open(path, "w"))
    file:write((text:gsub("^%d+", tostring(child.pid))))
    file:close()
    assert.equal("stopped", status(directory).status)
    assert.equal("7\n", psql(up(directory).url, "SELECT x FROM kept").stdout)
  end)

  it("keeps checkouts apart, those that are copies of each other too", function()
    local one = checkout(true)
    local two = checkout(true)
    local first = up(one)
    psql(first.url, "CREATE TABLE kept AS SELECT 1 AS x")
    dev(one, "down")
    child.must { file = "cp", args = { "-a", one .. "/.nebula", two .. "/" } }
    first = up(one)
    local second = up(two)
    assert.are_not.equal(first.pid, second.pid)
    assert.are_not.equal(first.url, second.url)
    psql(second.url, "UPDATE kept SET x = 2")
    assert.equal("1\n", psql(first.url, "SELECT x FROM kept").stdout)
  end)

  it("works in a checkout whose path is longer than a socket's may be", function()
    local directory = checkout(true, "/" .. ("deep/"):rep(40) .. "end")
    local answer = up(directory)
    assert.equal("1\n", psql(answer.url, "SELECT 1").stdout)
    dev(directory, "down")
    assert.equal("1\n", psql(up(directory).url, "SELECT 1").stdout)
  end)

  it("works where the server's user cannot enter the checkout", function()
    local directory = checkout(false)
    local answer = up(directory)
    assert.equal("1\n", psql(answer.url, "SELECT 1").stdout)
    assert.equal(0, dev(directory, "reset", "--yes").status)
    assert.is_nil(system.stat(answer.base))
    assert.equal("absent", status(directory).status)
  end)

  it("lets nobody in but this user and the server's", function()
    local directory = checkout(true)
    local answer = up(directory)
    if child.is_root then
      assert.truthy(psql(answer.url, "SELECT 1", { user = "daemon", cwd = "/" }).stderr:find "Permission denied")
      assert.equal("1\n", psql(answer.url, "SELECT 1", { user = "postgres", cwd = "/" }).stdout)
    end
    local sockets = answer.url:match("host=(.*)$")
    assert.equal(448, system.stat(sockets).mode)
    assert.equal("\n", psql(answer.url, "SHOW listen_addresses").stdout)
    assert.equal("on\n", psql(answer.url, "SHOW fsync").stdout)
  end)

  it("deletes only when told twice", function()
    local directory = checkout(true)
    local answer = up(directory)
    assert.equal(2, dev(directory, "reset").status)
    assert.truthy(system.stat(answer.base))
    assert.equal(0, dev(directory, "reset", "--yes").status)
    assert.is_nil(system.stat(answer.base))
  end)

  it("says what to do where there is no .nebula", function()
    local answer = dev(nebula.scratch(), "status")
    assert.equal(2, answer.status)
    assert.truthy(answer.stderr:find("nebula dev up", 1, true))
  end)
end)
