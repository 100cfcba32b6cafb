-- Migrations: in order, once, by one migrator at a time, whole or not at all.
local directory = require "spec.support.directory"
local migrate = require "nebula.migrate"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"

local counter = 0

local FRESH = os.getenv "NEBULA_SPEC_LONG" and 50 or 6

local function quiet() end

describe("nebula.migrate", function()
  local db

  before_each(function()
    db = nebula.pg.connect { url = postgres.database(), max_connections = 8 }
  end)
  after_each(function() db:close() end)

  -- A directory of the project's series with these files.
  local function project(files)
    counter = counter + 1
    local path = directory.make("migrations-" .. counter)
    for name, text in pairs(files) do nebula.fs.write(path .. "/" .. name, text) end
    return path
  end

  local function up(path) return migrate.up(db, { path = path, log = quiet }) end

  local function refused(path)
    local _, err = nebula.try(up, path)
    assert.is_table(err)
    assert.equal("migration", err.kind)
    return err.message
  end

  it("brings a fresh database to the newest version, and then has nothing to do", function()
    local applied = up()
    assert.equal("initial_schema", applied[1].name)
    assert.is_true(#applied >= 4)
    assert.same({}, up())
    assert.equal(0, migrate.pending(db))
    assert.equal(#applied, db:value "SELECT count(*) FROM nebula_schema_history WHERE complete")
  end)

  it("changes nothing where it is only asked for the state", function()
    local rows = migrate.status(db)
    assert.equal("pending", rows[1].state)
    assert.equal(0, db:value "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
  end)

  it("applies each migration once where eight migrators start at once on a fresh database, again and again", function()
    for _ = 1, FRESH do
      local url = postgres.database()
      local counts = nebula.task.map({ 1, 2, 3, 4, 5, 6, 7, 8 }, function()
        local own <close> = nebula.pg.connect { url = url, max_connections = 2 }
        return #migrate.up(own, { log = quiet })
      end, { concurrency = 8 })
      local own <close> = nebula.pg.connect { url = url, max_connections = 2 }
      local total = 0
      for _, count in ipairs(counts) do total = total + count end
      assert.equal(#migrate.status(own), total)
      assert.equal(total, own:value "SELECT count(*) FROM nebula_schema_history WHERE complete")
      assert.is_true(own:value "SELECT bool_and(indisvalid) FROM pg_index")
    end
  end)

  it("runs the project's migrations after the host's, in the order of their versions", function()
    local path = project {
      ["V10__ten.sql"] = "INSERT INTO seen VALUES (10)",
      ["V2__two.lua"] = [[return { up = {
        "INSERT INTO seen VALUES (2)",
        function(db) db:exec("INSERT INTO seen VALUES ($1)", 3) end,
      } }]],
      ["V1__one.sql"] = "CREATE TABLE seen (n INTEGER); INSERT INTO seen VALUES (1)",
      ["README"] = "not a migration",
    }
    local applied = up(path)
    assert.equal("nebula", applied[1].series)
    assert.equal("project", applied[#applied].series)
    assert.same({ 1, 2, 3, 10 }, db:value "SELECT array_agg(n ORDER BY ctid) FROM seen")
  end)

  it("keeps nothing of a migration that fails, and names the file, the step and the reason", function()
    local path = project { ["V1__bad.lua"] = 'return { up = { "CREATE TABLE half (n INTEGER)", "SELECT nonsense" } }' }
    local message = refused(path)
    assert.matches("V1__bad%.lua, step 2 of 2", message)
    assert.matches("nonsense", message)
    assert.is_nil(db:value "SELECT to_regclass('half')::text")
    nebula.fs.write(path .. "/V1__bad.lua", 'return { up = "CREATE TABLE whole (n INTEGER)" }')
    assert.equal("bad", up(path)[1].name)
  end)

  it("goes on at the interrupted step of a migration without a transaction", function()
    local path = project { ["V1__steps.lua"] =
      'return { transaction = false, up = { "CREATE TABLE steps (n INTEGER)", "SELECT 1 / 0" } }' }
    refused(path)
    local status = migrate.status(db, { path = path })
    assert.equal("interrupted", status[#status].state)
    nebula.fs.write(path .. "/V1__steps.lua",
      [[return { transaction = false,
        up = { "CREATE TABLE steps (n INTEGER)", "CREATE INDEX CONCURRENTLY i ON steps (n)" } }]])
    assert.equal("steps", up(path)[1].name)
    assert.equal("i", db:value "SELECT to_regclass('i')::text")
  end)

  it("refuses a migration that changed after it was applied, but not another line ending", function()
    local path = project { ["V1__a.sql"] = "CREATE TABLE a (n INTEGER);\nSELECT 1;\n" }
    up(path)
    nebula.fs.write(path .. "/V1__a.sql", "CREATE TABLE a (n INTEGER);\r\nSELECT 1;\r\n")
    assert.same({}, up(path))
    nebula.fs.write(path .. "/V1__a.sql", "CREATE TABLE a (n BIGINT);\nSELECT 1;\n")
    assert.matches("V1__a%.sql has changed since it was applied", refused(path))
  end)

  it("refuses a version that is there twice, a missing file, and one that comes too late", function()
    local path = project { ["V1__a.sql"] = "SELECT 1", ["V01__b.sql"] = "SELECT 1" }
    assert.matches("version 1 is there twice", refused(path))
    path = project { ["V2__a.sql"] = "SELECT 1" }
    up(path)
    nebula.fs.write(path .. "/V1__late.sql", "SELECT 1")
    assert.matches("V1__late%.sql comes too late", refused(path))
    os.remove(path .. "/V1__late.sql")
    os.remove(path .. "/V2__a.sql")
    assert.matches("V2__a.*its file is not in", refused(path))
  end)

  it("names the line of a syntax error, and an unknown field", function()
    assert.matches("V1__x%.lua:2:", refused(project { ["V1__x.lua"] = "return {\n up = = }" }))
    assert.matches("unknown field transactional; did you mean transaction",
      refused(project { ["V1__x.lua"] = 'return { up = "SELECT 1", transactional = false }' }))
    assert.matches("it has no `up`", refused(project { ["V1__x.lua"] = "return {}" }))
    assert.matches("a migration is named", refused(project { ["V_1_x.sql"] = "SELECT 1" }))
  end)

  it("refuses an option that is none, by its name", function()
    for _, name in ipairs { "up", "down", "adopt", "baseline", "status", "verify", "plan", "pending" } do
      local _, err = nebula.try(migrate[name], db, { paht = "x" })
      assert.equal("validation", err.kind, name)
      assert.matches("paht; did you mean path", err.message)
    end
  end)

  it("refuses a directory that is not there", function()
    assert.matches("no such directory", refused "/nonexistent/migrations")
  end)
end)

describe("the schema", function()
  local db
  setup(function()
    db = nebula.pg.connect { url = postgres.database(), max_connections = 4 }
    migrate.up(db, { log = quiet })
  end)
  teardown(function() db:close() end)

  it("lets an engine that knows V1 to V3 push, claim and finish its own jobs", function()
    db:exec [[
      INSERT INTO workflows (id, name, version, definition, status, created_at, updated_at)
      VALUES ('00000000-0000-0000-0000-000000000001', 'theirs', 1, '{}', 'active', now(), now()),
        ('00000000-0000-0000-0000-000000000002', 'theirs', 2, '{}', 'active', now(), now())
    ]]
    db:exec [[
      INSERT INTO executions (id, workflow_id, status, started_at, state, created_at, updated_at)
      VALUES ('00000000-0000-0000-0000-000000000003', '00000000-0000-0000-0000-000000000001', 'whatever', now(), '{}',
        now(), now())
    ]]
    db:exec [[
      INSERT INTO workflow_jobs (id, workflow_id, execution_id, scheduled_at, status, created_at)
      VALUES ('00000000-0000-0000-0000-000000000004', '00000000-0000-0000-0000-000000000001',
        '00000000-0000-0000-0000-000000000003', now(), 'pending', now())
    ]]
    local id = db:value [[
      UPDATE workflow_jobs
      SET status = 'running', locked_by = '00000000-0000-0000-0000-000000000005', locked_at = now()
      WHERE id = (
        SELECT id FROM workflow_jobs
        WHERE status = 'pending' AND scheduled_at <= now()
        ORDER BY priority DESC, scheduled_at
        LIMIT 1
        FOR UPDATE SKIP LOCKED
      )
      RETURNING id
    ]]
    assert.equal("00000000-0000-0000-0000-000000000004", id)
    assert.equal(1, db:exec("UPDATE workflow_jobs SET status = 'completed' WHERE id = $1", id))
  end)

  it("takes a job in a short INSERT", function()
    local row = db:one [[INSERT INTO workflow_jobs (payload) VALUES ('{"handler": "x"}') RETURNING *]]
    assert.equal("pending", row.status)
    assert.equal(0, row.token)
    assert.equal(36, #row.workflow_id)
  end)
end)
