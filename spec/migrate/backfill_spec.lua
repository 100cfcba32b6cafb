-- Backfills: every row once, also where the migrator is killed in the middle.
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local migrate = require "nebula.migrate"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local program = require "spec.support.nebula"

local function quiet() end

local function throttled(db, opts, log)
  local backfill = require "nebula.migrate.backfill"
  return backfill.run(db, opts, { name = "spec", log = log })
end

describe("migrate.backfill", function()
  local url, db

  before_each(function()
    url = postgres.database()
    db = nebula.pg.connect { url = url, max_connections = 6 }
  end)
  after_each(function() db:close() end)

  it("changes each row once, in pages, and returns how many", function()
    db:exec [[
      CREATE TABLE items (a INTEGER, b TEXT, n INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (a, b));
      INSERT INTO items SELECT i % 7, 'row ' || i FROM generate_series(1, 1000) AS i
    ]]
    local changed = migrate.backfill(db, { table = "items", set = "n = n + 1", where = "a <> 3", batch = 10 })
    assert.equal(db:value "SELECT count(*) FROM items WHERE a <> 3", changed)
    assert.same({ count = changed, least = 1, most = 1 },
      db:one "SELECT count(*) AS count, min(n) AS least, max(n) AS most FROM items WHERE a <> 3")
    assert.equal(0, db:value "SELECT sum(n) FROM items WHERE a = 3")
    assert.equal(0, db:value "SELECT count(*) FROM nebula_schema_backfills")
  end)

  it("reads by the columns of a unique index, and refuses others by name", function()
    db:exec [[
      CREATE TABLE loose (k UUID NOT NULL DEFAULT gen_random_uuid() UNIQUE, n INTEGER);
      INSERT INTO loose (n) SELECT NULL FROM generate_series(1, 100)
    ]]
    local _, err = nebula.try(migrate.backfill, db, { table = "loose", set = "n = 1" })
    assert.equal("validation", err.kind)
    assert.matches("loose has no primary key", err.message)
    _, err = nebula.try(migrate.backfill, db, { table = "loose", set = "n = 1", key = "n" })
    assert.matches("no unique index on %(n%)", err.message)
    assert.equal(100, migrate.backfill(db, { table = "loose", set = "n = 1", key = "k", batch = 7 }))
    _, err = nebula.try(migrate.backfill, db, { table = "loose", sets = "n = 1" })
    assert.matches("unknown option sets; did you mean set", err.message)
  end)

  it("waits for a row that somebody holds, and goes on", function()
    db:exec [[
      CREATE TABLE held (id INTEGER PRIMARY KEY, n INTEGER);
      INSERT INTO held SELECT i FROM generate_series(1, 50) AS i
    ]]
    local holder <close> = db:acquire()
    holder:exec "BEGIN"
    holder:exec "UPDATE held SET n = 5 WHERE id = 25"
    local connection <close> = db:acquire()
    connection:exec "SET lock_timeout = '20ms'"
    local task = nebula.task.spawn(migrate.backfill, connection,
      { table = "held", set = "n = 1", where = "n IS NULL", batch = 20 })
    child.await("the first page", 60, function() return db:value "SELECT count(*) FROM held WHERE n = 1" >= 20 end)
    holder:exec "COMMIT"
    assert.equal(49, task:join())
    assert.equal(5, db:value "SELECT n FROM held WHERE id = 25")
  end)
end)

describe("a backfill beside a replica", function()
  it("waits while the replica is behind, and goes on when it has caught up or is gone", function()
    local server <close> = postgres.server { max_wal_senders = "4" }
    local standby <close> = server:standby()
    standby:set { recovery_min_apply_delay = "400ms", wal_receiver_status_interval = "1s" }
    local db <close> = nebula.pg.connect { url = server:url(), max_connections = 4 }
    db:exec "CREATE TABLE items (id INTEGER PRIMARY KEY, n INTEGER)"
    db:exec "INSERT INTO items SELECT i FROM generate_series(1, 300) AS i"
    child.await("the standby to tell its lag", 60, function()
      db:exec "UPDATE items SET n = NULL WHERE id = 1"
      return db:value "SELECT replay_lag > interval '0.2 s' FROM pg_stat_replication"
    end)
    local told
    db:exec "CREATE TABLE others (n INTEGER); INSERT INTO others VALUES (1)"
    local writing = nebula.task.spawn(function() -- or the lag of a standby that has nothing to do is forgotten
      while not told do
        db:exec "UPDATE others SET n = n + 1"
        nebula.task.sleep(0.01)
      end
    end)
    local task = nebula.task.spawn(throttled, db, { table = "items", set = "n = 1", batch = 10, max_lag = 0.05 },
      function(line) told = told or line:match "backfill of items waits for .* behind" end)
    child.await("the backfill to wait", 60, function() return told end)
    writing:join()
    standby:stop()
    assert.equal(300, task:join())
  end)
end)

describe("the example migration", function()
  local ROWS = 3000
  local url, db, project

  before_each(function()
    url = postgres.database()
    db = nebula.pg.connect { url = url, max_connections = 4 }
    migrate.up(db, { path = directory.make("none-" .. child.next_number "directories"), log = quiet })
    db:exec [[
      INSERT INTO workflows (id, name, version, definition, status, created_at, updated_at)
      VALUES ('00000000-0000-0000-0000-000000000001', 'w', 1, '{}', 'active', now(), now())
    ]]
    db:exec([[
      INSERT INTO executions (id, workflow_id, status, started_at, state, created_at, updated_at)
      SELECT gen_random_uuid(), '00000000-0000-0000-0000-000000000001', 'completed', now(),
        CASE WHEN i % 3 = 0 THEN '{}'::jsonb ELSE jsonb_build_object('tenant', 't' || i % 3) END, now(), now()
      FROM generate_series(1, $1::int) AS i
    ]], ROWS)
    project = program.scratch()
    program.write(project, { ["migrations/V1__execution_tenant.lua"] =
      child.read_file("examples/migrations/V1__execution_tenant.lua") })
  end)
  after_each(function() db:close() end)

  local function up()
    return program.run { args = { "migrate", "up" }, env = { DATABASE_URL = url }, cwd = project }
  end

  local function assert_done()
    assert.same({ t1 = ROWS // 3, t2 = ROWS // 3, unknown = ROWS // 3 }, db:value [[
      SELECT jsonb_object_agg(tenant, n) FROM (SELECT tenant, count(*) AS n FROM executions GROUP BY 1) AS t
    ]])
    assert.is_true(db:value "SELECT indisvalid FROM pg_index WHERE indexrelid = 'idx_executions_tenant'::regclass")
    local status = migrate.status(db, { path = project .. "/migrations" })
    assert.equal("applied", status[#status].state)
    assert.equal(0, db:value "SELECT count(*) FROM nebula_schema_backfills")
  end

  it("runs as it stands", function()
    local result = up()
    assert.equal(0, result.status, result.stderr)
    assert_done()
    result = program.run { args = { "migrate", "down" }, env = { DATABASE_URL = url }, cwd = project }
    assert.equal(0, result.status, result.stderr)
    assert.equal(0, db:value [[
      SELECT count(*) FROM pg_attribute WHERE attrelid = 'executions'::regclass AND attname = 'tenant'
    ]])
  end)

  it("ends the same where its migrator was killed at random moments", function()
    -- every page costs 20 ms, so that a kill finds one in the middle
    db:exec [[
      CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_sleep(0.00005); RETURN NEW; END';
      CREATE TRIGGER slowly BEFORE UPDATE ON executions FOR EACH ROW EXECUTE FUNCTION slowly()
    ]]
    for _ = 1, 6 do
      local migrator = program.spawn { args = { "migrate", "up" }, env = { DATABASE_URL = url }, cwd = project,
        stdout = "null", stderr = "stdout" }
      migrator:wait(0.03 + math.random() * 0.3)
      migrator:kill(9)
      migrator:wait()
    end
    local result = up()
    assert.equal(0, result.status, result.stderr)
    assert_done()
  end)
end)
