-- What a pool does by itself: the connections it keeps, pings, turns away, warns of; its size.
local host = require "spec.support.nebula"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local system = require "nebula.system"
local pg, task = nebula.pg, nebula.task

local function failure(fn, ...)
  local value, err = nebula.try(fn, ...)
  assert.is_nil(value)
  return err
end

local function eventually(condition)
  task.deadline(60, function()
    while not condition() do task.sleep(0.01) end
  end)
end

describe("pg pool upkeep", function()
  local url = postgres.database()

  local function connect(options)
    options.url = options.url or url
    return pg.connect(options)
  end

  it("keeps its minimum, in the background", function()
    local db <close> = connect { min_connections = 3, max_connections = 5 }
    eventually(function() return db:stats().idle == 3 end)
    assert.equal(0, db:stats().requests)
    db:query [[SELECT pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE datname = current_database() AND pid <> pg_backend_pid()]]
    eventually(function()
      local stats = db:stats()
      return stats.opened >= 5 and stats.idle == 3
    end)
    assert.equal(1, db:value "SELECT 1")
  end)

  it("goes on trying for its minimum where there is no server yet", function()
    local server <close> = postgres.server()
    server:stop()
    local db <close> = connect { url = server:url(), min_connections = 2 }
    eventually(function() return db:stats().failed > 0 end)
    server:start()
    eventually(function() return db:stats().idle == 2 end)
  end)

  it("turns away who would be one too many to wait", function()
    local db <close> = connect { max_connections = 1, max_waiting = 2 }
    local held = db:acquire()
    local first = task.spawn(function() return db:value "SELECT 1" end)
    local second = task.spawn(function() return db:transaction(function(tx) return tx:value "SELECT 2" end) end)
    task.yield()
    local arguments = { value = "SELECT 3", transaction = print, batch = { { "SELECT 3" } }, acquire = {} }
    for call, argument in pairs(arguments) do
      local err = task.spawn(function() return failure(db[call], db, argument) end):join()
      assert.equal("pool", err.kind)
      assert.is_true(err.retryable)
      assert.matches("max_waiting", err.message)
    end
    held:close()
    assert.equal(1, first:join())
    assert.equal(2, second:join())
  end)

  it("lets a connection go that does not answer a ping", function()
    local db <close> = connect { max_connections = 1, ping_after = 0.1 }
    local pid = db:value "SELECT pg_backend_pid()"
    system.kill(pid, "STOP")
    local ok = pcall(eventually, function() return db:stats().closed == 1 end)
    system.kill(pid, "CONT")
    assert.is_true(ok)
    assert.are_not.equal(pid, db:value "SELECT pg_backend_pid()")
  end)

  it("counts a pinged connection as idle still", function()
    local db <close> = connect { max_connections = 1, ping_after = 0.1, idle_timeout = 0.5 }
    db:value "SELECT 1"
    eventually(function() return db:stats().connections == 0 end)
    assert.equal(1, db:stats().closed)
    assert.equal(1, db:stats().requests)
  end)

  it("grows and shrinks when it is told to", function()
    local db <close> = connect { max_connections = 1 }
    local one = db:acquire()
    local waiting = task.spawn(function() return db:acquire() end)
    task.yield()
    assert.equal(1, db:stats().waiting)
    db:resize(3)
    local two = waiting:join()
    local three = db:acquire()
    assert.equal(3, db:stats().held)
    db:resize(1)
    assert.equal(1, db:stats().max_connections)
    one:close()
    two:close()
    eventually(function() return db:stats().connections == 1 end)
    assert.equal(2, db:stats().closed)
    assert.equal(5, three:value "SELECT 5")
    three:close()
    assert.equal(6, db:value "SELECT 6")
    assert.equal(3, db:stats().opened)
    assert.is_false(pcall(db.resize, db, 0))
  end)

  it("warns once of a connection that is held for long, and says where", function()
    local result = host.run { env = { DATABASE_URL = url, NEBULA_LOG = "json:warn" }, args = { "-e", [[
      local nebula = require "nebula"
      local db = nebula.pg.connect { url = os.getenv "DATABASE_URL", leak_after = 0.3 }
      local short <close> = db:acquire()
      short:close()
      local long <close> = db:acquire()
      db:transaction(function(tx) tx:exec "SELECT pg_sleep(1)" end)]] } }
    local lines = {}
    for line in result.stderr:gmatch "[^\n]+" do lines[#lines + 1] = nebula.json.decode(line) end
    assert.equal(2, #lines, result.stderr)
    table.sort(lines, function(a, b) return a.where < b.where end)
    assert.equal("warn", lines[1].level)
    assert.matches(":5$", lines[1].where)
    assert.matches(":6$", lines[2].where)
    assert.is_true(lines[1].held_seconds >= 0.3)
  end)
end)
