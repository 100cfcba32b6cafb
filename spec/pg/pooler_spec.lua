-- statement_cache=false: behind pgbouncer in transaction mode, which lends a server's session for one
-- transaction at a time.
local nebula = require "nebula"
local pooler = require "spec.support.pooler"
local postgres = require "spec.support.postgres"
local pg, task = nebula.pg, nebula.task

describe("pg without a statement cache", function()
  local server, between, db

  setup(function()
    server = postgres.server { timezone = "Asia/Tokyo", datestyle = "German", log_statement = "all" }
    between = pooler.start(server, 2)
    db = pg.connect { url = between.url, max_connections = 8, statement_cache = false }
    db:exec "CREATE TABLE t (id int PRIMARY KEY, data jsonb)"
  end)
  teardown(function()
    db:close()
    between:close()
    server:close()
  end)

  it("shares the pooler's sessions among many tasks", function()
    local list = {}
    for i = 1, 300 do list[i] = i end
    task.map(list, function(i)
      assert.equal(i, db:value("SELECT $1::int", i))
      db:exec("INSERT INTO t VALUES ($1, $2)", i, { n = i })
    end, { concurrency = 16 })
    assert.equal(300, db:value "SELECT count(*) FROM t")
    assert.equal(300, db:one("SELECT data FROM t WHERE id = $1", 300).data.n)
  end)

  it("reads times as ever, whatever the server's settings are", function()
    for _, url in ipairs { between.url, server:url() } do
      local own <close> = pg.connect { url = url, max_connections = 1, statement_cache = false }
      local SQL = "SELECT '2026-11-22 17:58:03Z'::timestamptz"
      assert.equal("2026-11-22T17:58:03.000000Z", own:value(SQL))
      do
        local session <close> = own:acquire()
        session:exec "SET TimeZone = 'America/New_York'"
      end
      assert.equal("2026-11-22T17:58:03.000000Z", own:value(SQL))
    end
  end)

  it("runs transactions, batches and COPY", function()
    db:exec "TRUNCATE t"
    db:transaction(function(tx)
      tx:exec("INSERT INTO t VALUES ($1, $2)", 1, {})
      assert.equal(1, tx:value "SELECT count(*) FROM t")
    end)
    nebula.try(db.transaction, db, function(tx)
      tx:exec("INSERT INTO t VALUES ($1, $2)", 2, {})
      error "undone"
    end)
    assert.equal(1, db:batch({ { "SELECT count(*) AS n FROM t WHERE id < $1", 9 } })[1][1].n)
    assert.equal(2, db:copy_in("COPY t (id) FROM STDIN", { { 7 }, { 8 } }))
    assert.equal(3, db:value "SELECT count(*) FROM t")
  end)

  it("cancels nobody by the pooler's number of a session: what is cancelled loses its connection", function()
    local closed = db:stats().closed
    local victims = {
      function() db:exec "DO $$ BEGIN PERFORM pg_sleep(60) /* victim 1 */; END $$" end,
      function() db:transaction(function(tx) tx:exec "SELECT pg_sleep(60) /* victim 2 */" end) end,
    }
    for i, victim in ipairs(victims) do
      local slow = task.spawn(victim)
      task.deadline(40, function()
        while not server:log():find(("/* victim %d */"):format(i), 1, true) do task.sleep(0.02) end
      end)
      slow:cancel()
      nebula.try(slow.join, slow)
      task.deadline(40, function()
        while db:stats().closed < closed + i or db:stats().held > 0 do task.sleep(0.01) end
      end)
      assert.equal(i, db:value("SELECT $1::int", i))
    end
    assert.is_nil(server:log():find("pg_cancel_backend", 1, true))
  end)
end)
