-- The statement log and the slow-query log, as a program's standard error shows them.
local host = require "spec.support.nebula"
local json = require("nebula").json
local postgres = require "spec.support.postgres"

describe("pg statement log", function()
  local url = postgres.database()

  --- Runs code with `db`, and gives what it logged.
  local function records(options, code, env)
    local variables = { NEBULA_LOG = "json:info", DATABASE_URL = url }
    for name, value in pairs(env or {}) do variables[name] = value end
    local result = host.run { env = variables, args = { "-e", ([[
      local nebula = require "nebula"
      local db = %s
      %s]]):format(options and ("nebula.pg.connect { url = os.getenv 'DATABASE_URL', " .. options .. " }")
        or "require('nebula.storage').from_env().db", code) } }
    assert.equal(0, result.status, result.stderr)
    local list = {}
    for line in result.stderr:gmatch "[^\n]+" do list[#list + 1] = json.decode(line) end
    return list, result.stderr
  end

  it("says nothing unless it is asked to", function()
    assert.same({}, (records("max_connections = 1", "db:value('SELECT $1::int', 1)")))
    assert.same({}, (records(nil, "db:value('SELECT $1::int', 1)")))
  end)

  it("tells statement, rows, duration, place and the types of the parameters, not their values", function()
    local list, text = records("statement_logging = true", [[
      db:query("SELECT g, 'hidden' AS x, $2::text[] FROM -- hidden\n generate_series(1, $1::int) g", 3, { "hidden" })]])
    assert.equal(1, #list)
    local one = list[1]
    assert.equal("info", one.level)
    assert.equal("statement", one.message)
    assert.equal("SELECT g, ? AS x, $2::text[] FROM generate_series(1, $1::int) g", one.statement)
    assert.equal(3, one.rows)
    assert.equal(2, one.parameters)
    assert.equal("int4, text[]", one.types)
    assert.is_true(one.duration_ms > 0)
    assert.matches(":%d+$", one.where)
    assert.not_matches("hidden", text)
  end)

  it("shows no literal, however it is written", function()
    local list, text = records("statement_logging = true", [=[
      db:value [[SELECT 'a''hidden', E'b\'hidden', $tag$hidden $$ too$tag$, U&'hidden', 1 - 2 / 3, "x".y
        FROM (SELECT 4 AS y) "x" /* hidden */]]
      nebula.try(db.exec, db, "ALTER ROLE nobody_here PASSWORD 'hidden'")]=])
    assert.equal('SELECT ?, ?, ?, U&?, 1 - 2 / 3, "x".y FROM (SELECT 4 AS y) "x"', list[1].statement)
    assert.equal("ALTER ROLE nobody_here PASSWORD ?", list[2].statement)
    assert.equal("42704", list[2].error)
    assert.not_matches("hidden", text)
  end)

  it("shows values where the pool was told to", function()
    local list = records([[statement_logging = "parameters"]],
      [[db:value("SELECT $1::text || $2::text || $3::text", "seen", nil, ("x"):rep(500))]])
    assert.equal("SELECT $1::text || $2::text || $3::text", list[1].statement)
    assert.matches("^seen, NULL, x+%.%.%.$", list[1].values)
    assert.is_nil(list[1].types)
  end)

  it("is switched on by ENABLE_STATEMENT_LOGGING", function()
    local list = records(nil, "db:value 'SELECT 1'", { ENABLE_STATEMENT_LOGGING = "true" })
    assert.equal("SELECT 1", list[1].statement)
  end)

  it("logs transactions, COPY, streams and what was cancelled", function()
    local list = records("statement_logging = true", [[
      db:transaction(function(tx) tx:exec "CREATE TEMP TABLE t (a int)" end)
      db:copy_out("COPY (SELECT 1) TO STDOUT", function() end)
      for _ in db:rows "SELECT generate_series(1, 3)" do end
      local sleeper = nebula.task.spawn(function()
        db:transaction(function(tx) tx:value "SELECT pg_sleep(60)" end)
      end)
      local SLEEPERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query = $1"
      while db:value(SLEEPERS, "SELECT pg_sleep(60)") == 0 do
        nebula.task.sleep(0.01)
      end
      sleeper:cancel()
      while db:stats().held + db:stats().busy > 0 do nebula.task.sleep(0.01) end]])
    local seen = {}
    for _, one in ipairs(list) do seen[one.statement] = one end
    assert.truthy(seen["CREATE TEMP TABLE t (a int)"])
    assert.truthy(seen.COMMIT)
    assert.equal(1, seen["COPY (SELECT 1) TO STDOUT"].rows)
    assert.equal(3, seen["SELECT generate_series(1, 3)"].rows)
    assert.equal("cancelled", seen["SELECT pg_sleep(60)"].error)
  end)

  it("warns of slow statements alone", function()
    local list = records("slow_query = '50ms'", [[
      db:value "SELECT 1"
      db:value "SELECT pg_sleep(0.06)"]])
    assert.equal("SELECT pg_sleep(0.06)", list[#list].statement)
    for _, one in ipairs(list) do -- a busy machine may be slow with the other one, too
      assert.equal("warn", one.level)
      assert.equal("slow statement", one.message)
      assert.is_true(one.duration_ms >= 50)
    end
    assert.same({}, (records("slow_query = '50s'", "db:value 'SELECT pg_sleep(0.06)'")))
    list = records(nil, "db:value 'SELECT pg_sleep(0.06)'", { DATABASE_SLOW_QUERY_SECONDS = "0.05" })
    assert.equal("slow statement", list[1].message)
  end)

  it("refuses what it does not know", function()
    local nebula = require "nebula"
    local _, err = nebula.try(nebula.pg.connect, { url = url, statement_logging = "all" })
    assert.matches("parameters", err.message)
  end)
end)
