-- A pool behind a bad network: bytes that come late, in pieces, or not at all; connections that break
-- at any byte. The oracle: each caller's answer is its own, and what a writer was told is what stands.
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local proxy = require "spec.support.proxy"
local stopwatch = require "spec.support.stopwatch"
local pg, task = nebula.pg, nebula.task

-- A deadline of 0.3 s has passed; what is stalled stays so until the proxy is told otherwise, and connecting
-- may take 20 s.
local LONG = os.getenv "NEBULA_SPEC_LONG" == "1"
local SOON, BLACKHOLE_SECONDS = LONG and 0.4 or 15, LONG and 20 or 0

local function fails_soon(kind, fn, ...)
  local elapsed = stopwatch()
  local value, err = nebula.try(fn, ...)
  local took = elapsed()
  assert.is_nil(value)
  assert.equal(kind, err.kind, tostring(err))
  assert.is_true(took < SOON, took)
  return err
end

describe("pg behind a bad network", function()
  local server, between

  setup(function()
    server = postgres.server()
    between = proxy.postgres(server)
  end)
  before_each(function() between:clear() end)
  teardown(function()
    between:close()
    server:close()
  end)

  local function connect(options)
    options.url = between:url()
    return pg.connect(options)
  end

  it("ends a statement, an acquire, a transaction, a stream and a COPY at their deadlines in a blackhole", function()
    local began = nebula.time.monotonic()
    local db <close> = connect { min_connections = 8, max_connections = 8, connection_timeout = 20 }
    db:exec "CREATE TABLE sink (t text)"
    assert.equal(1, db:value("SELECT $1::int", 1))
    task.deadline(60, function() while db:stats().idle < 8 do task.sleep(0.01) end end)
    between:set("both", { stall = true })
    fails_soon("timeout", function() db:value({ "SELECT $1::int", deadline = 0.3 }, 1) end)
    fails_soon("timeout", function() task.deadline(0.3, function() db:exec "DO $$ BEGIN END $$" end) end)
    fails_soon("timeout", function()
      db:transaction(function(tx) tx:value { "SELECT 1", deadline = 0.3 } end)
    end)
    fails_soon("timeout", function() db:transaction(function(tx) tx:value "SELECT 1" end, { deadline = 0.3 }) end)
    fails_soon("timeout", function()
      task.deadline(0.3, function() for _ in db:rows "SELECT 1" do break end end)
    end)
    fails_soon("timeout", function()
      task.deadline(0.3, function() db:copy_in("COPY sink FROM STDIN", function() return "row\n" end) end)
    end)
    local unconnected <close> = connect { max_connections = 1, connection_timeout = 20 }
    fails_soon("timeout", function() task.deadline(0.3, function() unconnected:acquire():close() end) end)
    local impatient <close> = connect { max_connections = 1, connection_timeout = 0.3 }
    fails_soon("pool", function() impatient:acquire():close() end)
    task.sleep(math.max(0, BLACKHOLE_SECONDS - (nebula.time.monotonic() - began)))
    between:clear()
    assert.equal(2, task.deadline(60, function() return db:value("SELECT $1::int", 2) end))
    assert.equal(0, db:value "SELECT count(*) FROM sink")
  end)

  it("gives a connection up that answers nothing past a deadline, so that another one serves", function()
    local db <close> = connect { max_connections = 1, connection_timeout = 60 }
    for i = 1, 3 do db:value("SELECT $1::int", i) end
    between:set("down", { stall = true })
    task.map({ 1, 2, 3 }, function(i) -- one behind the other
      fails_soon("timeout", function() db:value({ "SELECT $1::int", deadline = 0.3 }, i) end)
    end)
    local waiting = task.spawn(function() return db:value("SELECT $1::int", 7) end)
    task.deadline(60, function() while db:stats().closed == 0 do task.sleep(0.02) end end)
    between:set("down", { stall = false })
    assert.equal(7, waiting:join())
  end)

  it("says in time that a server takes connects and says nothing, or does not answer connects at all", function()
    for _, how in ipairs { "silent", "unanswered", "reset", "refuse" } do
      between:accept(how)
      local db <close> = connect { max_connections = 2, connection_timeout = 0.3 }
      -- The time of the caller and that of connecting end together.
      local elapsed = stopwatch()
      local _, err = nebula.try(db.value, db, "SELECT 1")
      assert.is_true(elapsed() < SOON)
      assert.is_true(err.kind == "database" or err.kind == "pool", tostring(err))
      assert.is_true(err.retryable)
      assert.matches("cannot connect to nebula on 127.0.0.1", err.message, 1, true)
    end
  end)

  it("is ready once a server is that was silent at first", function()
    between:accept "silent"
    local db <close> = connect { max_connections = 2, connection_timeout = 0.5 }
    assert.truthy(select(2, nebula.try(db.value, db, "SELECT 1")))
    between:accept "open"
    task.deadline(60, function()
      while not nebula.try(db.value, db, "SELECT 1") do task.sleep(0.01) end
    end)
  end)

  it("gives each caller its own answer, however the bytes come", function()
    local db <close> = connect { max_connections = 4 }
    db:exec "CREATE TABLE slices (id int PRIMARY KEY, t text)"
    for _, fault in ipairs {
      { slice = 1 }, { slice = 7, bandwidth = 400000 }, { latency = 0.05, jitter = 0.05 },
      { latency = 0.002, jitter = 0.002, slice = 3 },
    } do
      between:set("both", fault)
      db:exec "TRUNCATE slices"
      local list = {}
      for i = 1, 64 do list[i] = i end
      task.map(list, function(i)
        local text = ("%d "):format(i):rep(i)
        assert.equal(1, db:exec("INSERT INTO slices VALUES ($1, $2)", i, text))
        assert.same({ id = i, t = text }, db:one("SELECT id, t FROM slices WHERE id = $1", i))
        assert.equal(i, db:transaction(function(tx) return tx:value("SELECT $1::int", i) end))
      end, { concurrency = 16 })
      local n = 0
      for row in db:rows "SELECT id, t FROM slices ORDER BY id" do
        n = n + 1
        assert.same({ id = n, t = ("%d "):format(n):rep(n) }, row)
      end
      assert.equal(64, n)
      between:clear()
    end
  end)

  it("tells the truth of writes, and mixes up no answers, while connections break at any byte", function()
    local db <close> = connect { max_connections = 6, connection_timeout = 30 }
    db:exec "CREATE TABLE broken (key text PRIMARY KEY)"
    local told, breaking, cut = {}, true, 0
    task.scope(function(scope)
      local writers = {}
      for writer = 1, 16 do
        writers[writer] = scope:spawn(function()
          local i = 0
          repeat -- as often as it takes until enough was cut off
            i = i + 1
            local key = writer .. "-" .. i
            local _, err = nebula.try(db.exec, db, "INSERT INTO broken VALUES ($1)", key)
            told[key] = err == nil and "acked" or err.kind == "unknown_outcome" and "unknown" or "failed"
            assert.is_true(err == nil or err.kind == "unknown_outcome" or err.retryable, tostring(err))
            local value
            value, err = nebula.try(db.value, db, "SELECT $1::text", key)
            assert.is_true(value == key or err ~= nil and err.retryable, tostring(err))
            if err then cut = cut + 1 end
          until i >= 60 and cut > 20
        end)
      end
      scope:spawn(function()
        while breaking do
          local side = math.random() < 0.5 and "up" or "down"
          local way = ({ "reset_after", "finish_after" })[math.random(2)]
          between:set(side, { [way] = math.random(400, 4000) })
          task.sleep(0.03)
          between:clear()
          if math.random() < 0.2 then between:reset() end
          if math.random() < 0.2 then between:finish(side) end
        end
      end)
      for _, writer in ipairs(writers) do writer:join() end
      breaking = false
    end)
    between:clear()
    -- What broke last may be seen by the next statements only.
    local rows
    task.deadline(60, function()
      repeat
        local err
        rows, err = nebula.try(db.query, db, "SELECT key FROM broken")
        assert.is_true(err == nil or err.retryable or err.kind == "unknown_outcome", tostring(err))
      until rows
    end)
    local found = {}
    for _, row in ipairs(rows) do found[row.key] = true end
    for key, how in pairs(told) do
      if how == "acked" then assert.is_true(found[key], key .. " was acknowledged, and is gone") end
      if how == "failed" then assert.is_nil(found[key], key .. " failed, and is there") end
    end
    assert.equal(0, db:stats().held)
  end)
end)
