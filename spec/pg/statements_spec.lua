-- What a pool tells of itself: counts and times of its statements, spans, and a server too small for it.
local host = require "spec.support.nebula"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local json, pg = nebula.json, nebula.pg

describe("pg statement counts", function()
  local url = postgres.database()

  local function named(db, text)
    for _, one in ipairs(db:statements()) do
      if one.statement == text then return one end
    end
  end

  it("tell calls, rows, errors and times, the costliest first", function()
    local db <close> = pg.connect { url = url, max_connections = 2 }
    assert.same({}, db:statements())
    for i = 1, 20 do db:query("SELECT generate_series(1, $1::int)", i) end
    for _ = 1, 3 do db:value("SELECT $1::text FROM pg_sleep(0.03)", "secret") end
    for _ = 1, 2 do nebula.try(db.value, db, "SELECT 1 / $1::int", 0) end
    db:exec "CREATE TABLE counted (n int)"
    db:exec("INSERT INTO counted SELECT generate_series(1, $1::int)", 7)
    local all, slow = db:statements(), named(db, "SELECT $1::text FROM pg_sleep(0.03)")
    for i = 2, #all do assert.is_true(all[i - 1].seconds >= all[i].seconds) end
    assert.same({ all[1] }, db:statements(1))
    assert.equal(3, slow.calls)
    assert.is_true(slow.seconds >= 0.09 and slow.max <= slow.seconds)
    assert.is_true(slow.p50 >= 0.03 and slow.p99 <= slow.max)
    local series = named(db, "SELECT generate_series(1, $1::int)")
    assert.same({ 20, 210, 0 }, { series.calls, series.rows, series.errors })
    local counted, last = 0, 0
    for _, bucket in ipairs(series.histogram) do
      assert.is_true(bucket.within > last)
      counted, last = counted + bucket.count, bucket.within
    end
    assert.equal(20, counted)
    assert.is_true(series.p50 <= series.p95 and series.p95 <= series.max)
    assert.equal(2, named(db, "SELECT 1 / $1::int").errors)
    assert.equal(7, named(db, "INSERT INTO counted SELECT generate_series(1, $1::int)").rows)
  end)

  it("show no literal", function()
    local db <close> = pg.connect { url = url, max_connections = 1 }
    db:value "SELECT 'hidden'"
    assert.equal("SELECT ?", db:statements()[1].statement)
  end)

  it("come as spans with NEBULA_TRACE=1", function()
    local result = host.run {
      env = { NEBULA_LOG = "json:info", NEBULA_TRACE = "1", DATABASE_URL = url },
      args = { "-e", [[
        local own = nebula.pg.connect { url = os.getenv "DATABASE_URL", max_connections = 1 }
        local held = own:acquire()
        local waiting = task.spawn(function() return own:value("SELECT $1::text", "hidden") end)
        held:exec "SELECT pg_sleep(1)"
        held:close()
        waiting:join() ]] },
    }
    assert.equal(0, result.status, result.stderr)
    assert.not_matches("hidden", result.stderr)
    local spans = {}
    for line in result.stderr:gmatch "[^\n]+" do
      local span = json.decode(line)
      if span.message == "span" then spans[span.statement] = span end
    end
    local sleep, value = spans["SELECT pg_sleep(1)"], spans["SELECT $1::text"]
    assert.is_true(sleep.duration_ms >= 1000 and sleep.waited_ms < 1000)
    assert.is_true(value.waited_ms >= 500 and value.total_ms >= value.waited_ms)
    assert.are_not.equal(sleep.task, value.task)
    assert.equal(sleep.connection, value.connection)
    assert.matches(":%d+$", value.where)
  end)

  it("warn once of a server that has no room for the pool", function()
    local small <close> = postgres.server { max_connections = "12", superuser_reserved_connections = "2" }
    local watch <close> = pg.connect { url = small:url(), max_connections = 1 } -- a superuser's: its room is apart
    -- Each task keeps a connection until as many are open, or one was refused.
    local function warnings(most, tasks)
      while watch:value [[SELECT count(*) FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()]] > 0 do
        nebula.task.sleep(0.01)
      end
      local result = host.run {
        env = { NEBULA_LOG = "json:warn", DATABASE_URL = small:url() },
        args = { "-e", ([[
          local own <close> = nebula.pg.connect { url = os.getenv "DATABASE_URL", max_connections = %d }
          local list = {}
          for i = 1, %d do list[i] = i end
          task.map(list, function()
            local held <close> = own:acquire()
            while own:stats().connections < %d and own:stats().failed == 0 do task.sleep(0.01) end
            held:value "SELECT 1"
          end) ]]):format(most, tasks, tasks) },
      }
      assert.equal(0, result.status, result.stderr)
      local found = {}
      for line in result.stderr:gmatch "[^\n]+" do found[#found + 1] = json.decode(line).message end
      return found
    end
    assert.same({}, warnings(8, 8))
    local found = warnings(20, 6) -- asked before it comes to that
    assert.equal(1, #found)
    assert.matches("may open 20 connections, but the server has room for 10", found[1])
    found = warnings(16, 16)
    assert.equal(1, #found)
    assert.matches("no room for another connection: this pool has %d+ of at most 16", found[1])
  end)
end)
