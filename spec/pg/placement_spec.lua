-- Which connection a statement goes to: an idle one, then a new one, and only then behind others that
-- are short. Whatever is held up here is held up by a lock, for as long as the spec wants.
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local pg, task = nebula.pg, nebula.task

local WAITING = [[
  SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
]]
local UPDATE, QUICK = "UPDATE locked SET n = n + 1 WHERE id = $1", "SELECT $1::int"

describe("a statement", function()
  local url, other

  setup(function()
    url = postgres.database()
    other = pg.connect { url = url, max_connections = 2 }
    other:exec "CREATE TABLE locked (id int PRIMARY KEY, n int); INSERT INTO locked VALUES (1, 0)"
  end)
  teardown(function() other:close() end)

  local function connect(max)
    local db = pg.connect { url = url, max_connections = max }
    for _ = 1, 3 do -- both are known to be short
      db:exec(UPDATE, 1)
      db:value(QUICK, 1)
    end
    return db
  end

  -- Calls fn while the row is locked, so that an UPDATE waits until fn is over.
  local function locked(fn)
    other:transaction(function(tx)
      tx:exec(UPDATE, 1)
      task.deadline(60, fn)
    end)
  end

  local function all(list, fn) task.map(list, fn, { concurrency = #list }) end

  it("is not put behind another while a connection is idle", function()
    local db <close> = connect(2)
    all({ 1, 2 }, function() db:value "SELECT pg_sleep(0.02)" end)
    while db:stats().idle < 2 do task.sleep(0.01) end -- the second may open when nobody wants it any more
    local pipelined = db:stats().pipelined
    locked(function()
      task.spawn(function() db:exec(UPDATE, 1) end)
      task.yield()
      for i = 1, 50 do assert.equal(i, db:value(QUICK, i)) end
      assert.equal(1, db:stats().busy)
    end)
    assert.equal(pipelined, db:stats().pipelined)
  end)

  it("is not put behind one that is taking long, however short that was before", function()
    local db <close> = connect(2)
    locked(function()
      local held = db:acquire()
      task.spawn(function() db:exec(UPDATE, 1) end)
      while other:value(WAITING) == 0 do task.sleep(0.01) end
      task.sleep(0.02) -- more than what is short
      local quick = task.spawn(function() return db:value(QUICK, 7) end)
      while db:stats().waiting == 0 do task.yield() end
      held:close()
      assert.equal(7, quick:join())
      assert.equal(1, db:stats().busy)
    end)
  end)

  it("has a connection opened for it before it shares one, though it need not wait for that", function()
    local db <close> = connect(4)
    all({ 1, 2, 3, 4 }, function(i) assert.equal(i, db:value(QUICK, i)) end)
    local stats = db:stats()
    assert.equal(4, stats.connections + stats.connecting)
  end)

  it("runs alone the first time, and is shared with once it is known to be short", function()
    local db <close> = connect(1)
    local list = {}
    for i = 1, 20 do list[i] = i end
    local function run() all(list, function(i) assert.equal(i, db:value("SELECT " .. i)) end) end
    run()
    all({ 1, 2 }, function(i) return i == 1 and db:value(QUICK, i) or db:value "SELECT 'new'" end)
    assert.equal(0, db:stats().pipelined)
    task.deadline(60, function()
      while db:stats().pipelined == 0 do run() end
    end)
  end)

  it("runs alone for as long as it is known to be long", function()
    local db <close> = connect(1)
    for _ = 1, 2 do all({ 1, 2, 3, 4 }, function() db:value "SELECT pg_sleep(0.02)" end) end
    assert.equal(0, db:stats().pipelined)
  end)
end)
