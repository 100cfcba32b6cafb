-- `nebula migrate` as its users run it.
local child = require "spec.support.child"
local migrate = require "nebula.migrate"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local program = require "spec.support.nebula"

describe("nebula migrate", function()
  local url, db, project

  before_each(function()
    url = postgres.database()
    db = nebula.pg.connect { url = url, max_connections = 4 }
    project = program.scratch()
    program.write(project, {
      ["migrations/V1__one.lua"] = [[return { up = "CREATE TABLE one (n INTEGER)", down = "DROP TABLE one" }]],
      ["migrations/V2__two.lua"] = [[return {
        transaction = false,
        up = { "CREATE TABLE two (n INTEGER)", "INSERT INTO two VALUES (1)",
          "CREATE INDEX CONCURRENTLY two_n ON two (n)",
          function(db) db:exec "INSERT INTO two SELECT 2 WHERE NOT EXISTS (SELECT FROM two)" end },
        down = { "DROP INDEX CONCURRENTLY two_n", "DROP TABLE two" },
      }]],
      ["migrations/V3__three.sql"] = "CREATE TABLE three (n INTEGER);",
    })
  end)
  after_each(function() db:close() end)

  local function run(...)
    local env = { DATABASE_URL = url, OTHER_URL = url }
    local result = program.run { args = { "migrate", ... }, env = env, cwd = project }
    return result.status, result.stdout, result.stderr
  end

  local function must(...)
    local status, out, err = run(...)
    assert.equal(0, status, err .. out)
    return out
  end

  local function tables()
    return db:value [[
      SELECT coalesce(string_agg(relname, ' ' ORDER BY relname), '') FROM pg_class
      WHERE relname IN ('one', 'two', 'three', 'two_n')
    ]]
  end

  it("goes up to a version and down to one, each migration by its own way", function()
    must("up", "--to", "1")
    assert.equal("one", tables())
    must("up", "--to", "2")
    assert.equal("one two two_n", tables())
    assert.matches("project V2__two undone", must "down")
    assert.equal("one", tables())
    must("up", "--to", "2")
    must("down", "--to", "0")
    assert.equal("", tables())
    assert.equal(0, db:value "SELECT count(*) FROM nebula_schema_history WHERE series = 'project'")
    assert.is_true(db:value "SELECT count(*) > 0 FROM nebula_schema_history WHERE series = 'nebula'")
    local status, _, err = run("up", "--to", "7")
    assert.equal(1, status)
    assert.matches("the series project has no V7", err)
  end)

  it("undoes nothing where one of the migrations has no down", function()
    must "up"
    local status, _, err = run("down", "--to", "0")
    assert.equal(1, status)
    assert.matches("V3__three%.sql: it has no `down`; nothing was undone", err)
    assert.equal("one three two two_n", tables())
  end)

  it("brings the host's own series down and up again", function()
    must "up"
    must("down", "--series", "nebula", "--to", "3")
    assert.is_nil(db:value "SELECT to_regclass('execution_history')::text")
    must("down", "--series", "nebula", "--to", "0")
    assert.is_nil(db:value "SELECT to_regclass('workflows')::text")
    must "up"
    assert.equal(0, migrate.pending(db, { path = project .. "/migrations" }))
  end)

  it("finishes an interrupted undoing before it goes up again", function()
    must("up", "--to", "2")
    db:exec "DROP INDEX two_n"
    db:exec "UPDATE nebula_schema_history SET undone = 1, complete = false WHERE series = 'project' AND version = 2"
    assert.matches("V2__two was being undone", must("up", "--to", "2"))
    assert.equal("one two two_n", tables())
  end)

  it("prints the SQL, and runs nothing", function()
    local plan = must "plan"
    assert.matches("%-%- nebula V1__initial_schema\n", plan)
    assert.matches("%-%- project V2__two, without a transaction\n%-%- step 1\nCREATE TABLE two %(n INTEGER%);\n", plan)
    assert.matches("%-%- a function, .*V2__two.lua:5 to 5", plan)
    assert.equal(0, db:value "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace")
    must "up"
    assert.matches("nothing to do", must "plan")
  end)

  it("runs everything and keeps nothing in a dry run", function()
    local out = must("up", "--dry-run")
    assert.matches("V2__two, step 3: not tried, it runs in no transaction", out)
    assert.matches("V3__three tried, and rolled back,", out)
    assert.equal(0, db:value "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace")
    program.write(project, { ["migrations/V3__three.sql"] = "SELECT nonsense" })
    local status, _, err = run("up", "--dry-run")
    assert.equal(1, status)
    assert.matches("V3__three%.sql, step 1 of 1.*nonsense", err)
    assert.equal(0, db:value "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace")
    must("up", "--to", "2")
    assert.matches("V2__two tried", must("down", "--dry-run"))
    assert.equal("one two two_n", tables())
  end)

  it("tells by its exit status whether something is pending, and reads the URL from another variable", function()
    assert.equal(1, (run("status", "--exit-code")))
    assert.equal(0, (run "status"))
    must("up", "-e", "OTHER_URL", "-p", "migrations")
    assert.equal(0, (run("status", "--exit-code")))
    local status, _, err = run("up", "-e", "NO_SUCH_URL")
    assert.equal(2, status)
    assert.matches("NO_SUCH_URL: that variable is not set", err)
    local rows = nebula.json.decode(must("status", "--json"))
    assert.same({ "project", 3, "three", "applied" },
      { rows[#rows].series, rows[#rows].version, rows[#rows].name, rows[#rows].state })
    assert.same({}, nebula.json.decode(must("up", "--json")))
  end)

  it("names what is divergent, missing and out of order, all at once", function()
    program.write(project, { ["migrations/V5__five.sql"] = "SELECT 5" })
    must "up"
    assert.matches("what was applied is what the files say", must "verify")
    program.write(project, { ["migrations/V3__three.sql"] = "CREATE TABLE three (n BIGINT);",
      ["migrations/V4__four.sql"] = "SELECT 4" })
    os.remove(project .. "/migrations/V1__one.lua")
    local status, out = run "verify"
    assert.equal(1, status)
    assert.matches("missing: V1__one", out)
    assert.matches("divergent: .*V3__three%.sql has changed", out)
    assert.matches("out of order: .*V4__four%.sql comes too late", out)
    local kinds, _, json = {}, run("verify", "--json")
    for i, problem in ipairs(nebula.json.decode(json)) do kinds[i] = problem.kind end
    assert.same({ "missing", "divergent", "out of order" }, kinds)
    assert.equal(1, (run "up"))
  end)

  it("takes a database as it is by a baseline, once", function()
    db:exec "CREATE TABLE one (n INTEGER); CREATE TABLE two (n INTEGER)"
    must("baseline", "--to", "2")
    must "up"
    assert.equal("one three two", tables())
    assert.equal(2, db:value "SELECT count(*) FROM nebula_schema_history WHERE origin = 'baseline'")
    local status, _, err = run("baseline", "--to", "3")
    assert.equal(1, status)
    assert.matches("V1__one is in the history already", err)
    assert.equal(2, (run "baseline"))
  end)

  it("makes the file of a new migration with the next number", function()
    assert.equal("migrations/V4__add_tenant.lua\n", must("new", "add tenant"))
    assert.equal("migrations/V5__drop_it.sql\n", must("new", "drop-it", "--sql"))
    assert.equal("elsewhere/db/V1__first.lua\n", must("new", "first", "-p", "elsewhere/db"))
    assert.truthy(assert(load(child.read_file(project .. "/migrations/V4__add_tenant.lua")))().down)
    local status, _, err = run("new", "../x")
    assert.equal(1, status)
    assert.matches("names no migration", err)
  end)

  it("ends the same where eight are started at once and some are killed", function()
    local migrators = {}
    for i = 1, 8 do
      migrators[i] = program.spawn { args = { "migrate", "up" }, env = { DATABASE_URL = url }, cwd = project,
        stdout = "null", stderr = "stdout" }
    end
    for i = 1, 3 do
      migrators[i]:wait(math.random() * 0.2)
      migrators[i]:kill(9)
    end
    for i = 1, 3 do migrators[i]:wait() end
    for i = 4, 8 do assert.equal(0, migrators[i]:wait().status) end
    assert.equal(0, migrate.pending(db, { path = project .. "/migrations" }))
    assert.same({}, migrate.verify(db, { path = project .. "/migrations" }))
    assert.equal(1, db:value "SELECT count(*) FROM two")
  end)
end)
