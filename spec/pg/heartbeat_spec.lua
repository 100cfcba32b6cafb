local nebula = require "nebula"
local postgres = require "spec.support.postgres"

local task = nebula.task

describe("pg.heartbeat", function()
  local url = postgres.database()
  local db = nebula.pg.connect { url = url, max_connections = 4 }
  db:exec "CREATE TABLE leases (id TEXT PRIMARY KEY, token TEXT, note TEXT, renewed INTEGER NOT NULL DEFAULT 0)"

  local RENEW = [[
    UPDATE leases l SET renewed = renewed + 1, note = coalesce(g.note, l.note)
    FROM unnest($1::text[], $2::text[], $3::text[]) AS g (id, token, note)
    WHERE l.id = g.id AND l.token = g.token
    RETURNING l.id
  ]]

  local function start(interval)
    return nebula.pg.heartbeat { url = url, sql = RENEW, columns = 3, interval = interval or 0.01 }
  end

  local function eventually(condition)
    task.deadline(60, function()
      while not condition() do task.sleep(0.005) end
    end)
  end

  before_each(function() db:exec "TRUNCATE leases" end)

  it("renews each entry while the script computes and the loop does not turn", function()
    db:exec "INSERT INTO leases VALUES ('a', '1'), ('b', '2'), ('other', '3')"
    local beat <close> = start()
    beat:set { "a", 1, 'with "quotes" and \\ in it' }
    beat:set { "b", 2 }
    eventually(function() return beat:stats().rounds > 0 end)
    local before = beat:stats().rounds
    while beat:stats().rounds < before + 3 do end
    for _, row in ipairs(db:query "SELECT id, renewed, note FROM leases ORDER BY id") do
      assert.equal(row.id ~= "other", row.renewed >= 3, row.id)
      if row.id == "a" then assert.equal('with "quotes" and \\ in it', row.note) end
    end
  end)

  it("tells which entries were not renewed, once", function()
    db:exec "INSERT INTO leases VALUES ('a', '1'), ('b', '2')"
    local beat <close> = start()
    beat:set { "a", 1 }
    beat:set { "b", "an old token" }
    beat:set { "gone", 1 }
    local lost = {}
    eventually(function()
      for _, id in ipairs(beat:lost()) do lost[#lost + 1] = id end
      return #lost == 2
    end)
    table.sort(lost)
    assert.same({ "b", "gone" }, lost)
    assert.equal(1, beat:stats().entries)
    local before = beat:stats().rounds
    eventually(function() return beat:stats().rounds > before + 1 end)
    assert.same({}, beat:lost())
  end)

  it("drops an entry that is removed or past its time, and replaces one with its key", function()
    db:exec "INSERT INTO leases VALUES ('a', '1'), ('b', '2'), ('c', '3')"
    local beat <close> = start()
    beat:set { "a", 1 }
    beat:set({ "b", 2 }, "20ms")
    beat:set { "c", "wrong" }
    beat:set { "c", 3 }
    beat:remove "a"
    beat:remove "never there"
    eventually(function() return beat:stats().entries == 1 end)
    eventually(function() return db:value "SELECT renewed FROM leases WHERE id = 'c'" > 1 end)
    assert.same({}, beat:lost())
  end)

  it("goes on after its connection was ended, and says in between what is wrong", function()
    db:exec "INSERT INTO leases VALUES ('a', '1')"
    local beat <close> = start()
    beat:set { "a", 1 }
    eventually(function() return beat:stats().rounds > 0 end)
    db:exec "ALTER TABLE leases RENAME TO hidden"
    eventually(function() return beat:stats().error end)
    assert.matches("leases", beat:stats().error)
    db:exec "ALTER TABLE hidden RENAME TO leases"
    db:query [[
      SELECT pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE pid <> pg_backend_pid() AND query LIKE '%UPDATE leases%' AND datname = current_database()
    ]]
    local before = beat:stats().rounds
    eventually(function() return beat:stats().rounds > before + 1 end)
    assert.is_nil(beat:stats().error)
    assert.same({}, beat:lost())
  end)

  it("holds 5,000 entries", function()
    db:exec "INSERT INTO leases SELECT g, g FROM generate_series(1, 5000) g"
    local beat <close> = start(0.02)
    for i = 1, 5000 do beat:set { i, i } end
    eventually(function() return db:value "SELECT min(renewed) FROM leases" > 0 end)
    for i = 1, 5000 do beat:remove(tostring(i)) end
    assert.equal(0, beat:stats().entries)
  end)

  it("refuses what is no text, and use after close", function()
    local beat = start()
    local _, err = nebula.try(beat.set, beat, { nil, 1 })
    assert.equal("validation", err.kind)
    _, err = nebula.try(beat.set, beat, { "a\0b", 1 })
    assert.equal("validation", err.kind)
    _, err = nebula.try(beat.set, beat, { "a", {} })
    assert.equal("validation", err.kind)
    beat:close()
    beat:close()
    _, err = nebula.try(beat.stats, beat)
    assert.matches("closed", err.message)
  end)

  it("names what is wrong with its options", function()
    local _, err = nebula.try(nebula.pg.heartbeat, { url = url })
    assert.matches("sql is missing", err.message)
    _, err = nebula.try(nebula.pg.heartbeat, { sql = "SELECT 1", url = "nonsense://" })
    assert.equal("config", err.kind)
    _, err = nebula.try(nebula.pg.heartbeat, { sql = "SELECT 1", intervall = 1 })
    assert.matches("interval", err.message)
  end)
end)
