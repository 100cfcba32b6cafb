-- Databases that refinery has migrated: verified to the byte, compared, taken over, or left alone.
local adopt = require "nebula.migrate.adopt"
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local migrate = require "nebula.migrate"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local siphash = require "nebula.migrate.siphash"

local function quiet() end

describe("SipHash-1-3", function()
  -- From Rust's library/coretests/tests/hash/sip.rs, test_siphash_1_3: the key is the bytes 0 to 15, the
  -- message the first n of 0, 1, 2, ...; the sums are in little-endian order.
  local VECTORS = {
    [0] = "dcc40f055801acab", [1] = "93ca577df39bf4c9", [2] = "4dd4c74d029bcb82", [3] = "fbf7dde7b80af88b",
    [7] = "4011b19b987d92d3", [8] = "8e9a298d11959036", [9] = "e43d066cb38ea425", [15] = "5699512a6dd820d3",
    [16] = "668b907d1add4fcc", [31] = "bcd1218c1fdd7023", [32] = "0db6a7166c7b1581", [62] = "e094664b15f6b2c3",
    [63] = "a8b3bbb76290199d",
  }

  it("gives the sums of its reference", function()
    for length, expected in pairs(VECTORS) do
      local bytes = {}
      for i = 1, length do bytes[i] = string.char(i - 1) end
      local sum = siphash.sum(table.concat(bytes), 0x0706050403020100, 0x0f0e0d0c0b0a0908)
      assert.equal(expected, (string.pack("<i8", sum):gsub(".", function(c) return ("%02x"):format(c:byte()) end)))
    end
  end)

  it("is written as an unsigned number", function()
    assert.equal("0", siphash.decimal(0))
    assert.equal("9223372036854775807", siphash.decimal(math.maxinteger))
    assert.equal("9223372036854775808", siphash.decimal(math.mininteger))
    assert.equal("18446744073709551615", siphash.decimal(-1))
  end)

  it("makes refinery's checksums", function()
    -- computed by a program in C after the paper's reference implementation
    local text = "CREATE TABLE a (n INTEGER);\n"
    assert.equal("12040449200593187944", adopt.checksum("initial_schema", 1, text))
    assert.equal("10524348249379245434", adopt.checksum("initial_schema", 2, text))
    assert.equal("1088176920887128816", adopt.checksum("initial_schema", 3, text))
  end)
end)

describe("nebula migrate adopt", function()
  local db, path
  local FILES = {
    { "initial_schema", [[
CREATE TABLE workflows (id UUID PRIMARY KEY, name VARCHAR(255) NOT NULL, version INTEGER NOT NULL,
  definition JSONB NOT NULL, status VARCHAR(50) NOT NULL, created_at TIMESTAMPTZ NOT NULL,
  updated_at TIMESTAMPTZ NOT NULL, deployed_at TIMESTAMPTZ, UNIQUE(name, version));
CREATE INDEX idx_workflows_status ON workflows(status);
]] },
    { "add_executions", [[
CREATE TABLE executions (id UUID PRIMARY KEY, workflow_id UUID NOT NULL REFERENCES workflows(id),
  status VARCHAR(50) NOT NULL, started_at TIMESTAMPTZ NOT NULL, completed_at TIMESTAMPTZ,
  state JSONB NOT NULL, error TEXT, created_at TIMESTAMPTZ NOT NULL, updated_at TIMESTAMPTZ NOT NULL);
CREATE INDEX idx_executions_workflow_status ON executions(workflow_id, status);
]] },
    { "add_job_queue", [[
CREATE TABLE workflow_jobs (id UUID PRIMARY KEY, workflow_id UUID NOT NULL, execution_id UUID NOT NULL,
  priority INTEGER DEFAULT 0, scheduled_at TIMESTAMPTZ NOT NULL, locked_by UUID,
  locked_at TIMESTAMPTZ, retry_count INTEGER DEFAULT 0, max_retries INTEGER DEFAULT 3, status VARCHAR(50) NOT NULL,
  payload JSONB, error TEXT, created_at TIMESTAMPTZ NOT NULL);
CREATE INDEX idx_jobs_queue ON workflow_jobs(status, priority DESC, scheduled_at) WHERE status = 'pending';
]] },
    { "of_the_engine", "CREATE TABLE engine_settings (name TEXT PRIMARY KEY);\r\n" },
  }

  local function file(version) return ("%s/V%d__%s.sql"):format(path, version, FILES[version][1]) end

  before_each(function()
    db = nebula.pg.connect { url = postgres.database(), max_connections = 4 }
    path = directory.make("refinery-" .. child.next_number "directories")
    db:exec [[
      CREATE TABLE refinery_schema_history (
        version INT4 PRIMARY KEY, name VARCHAR(255), applied_on VARCHAR(255), checksum VARCHAR(255))
    ]]
    for version, one in ipairs(FILES) do
      nebula.fs.write(file(version), one[2])
      db:exec(one[2])
      db:exec("INSERT INTO refinery_schema_history VALUES ($1, $2, '2024-05-06T07:08:09.123456789+02:00', $3)", version,
        one[1], adopt.checksum(one[1], version, one[2]))
    end
  end)
  after_each(function() db:close() end)

  local function take(opts) return migrate.adopt(db, { path = path, log = quiet, dry_run = opts and opts.dry_run }) end

  local function refused()
    local _, err = nebula.try(take)
    assert.is_table(err)
    assert.equal("migration", err.kind)
    assert.matches("nothing was written", err.message)
    assert.is_nil(db:value "SELECT to_regclass('nebula_schema_history')::text")
    return err.message
  end

  it("is asked for by up, which runs nothing", function()
    local _, err = nebula.try(migrate.up, db, { path = path, log = quiet })
    assert.matches("refinery has migrated this database, to V4: `nebula migrate adopt`", err.message)
    assert.matches("refinery has migrated", migrate.foreign(db, { path = path }))
    assert.is_nil(db:value "SELECT to_regclass('nebula_schema_history')::text")
  end)

  it("imports the history and takes the live V1 to V3 as ours; up then goes on behind them", function()
    assert.equal(7, #take { dry_run = true })
    assert.is_nil(db:value "SELECT to_regclass('nebula_schema_history')::text")
    assert.equal(7, #take())
    assert.same({ "nebula 1", "nebula 2", "nebula 3", "project 1", "project 2", "project 3", "project 4" }, db:value [[
      SELECT array_agg(series || ' ' || version ORDER BY series, version) FROM nebula_schema_history
      WHERE complete AND origin = 'adopted'
    ]])
    assert.equal("2024-05-06T05:08:09.123457Z",
      db:value "SELECT applied_at FROM nebula_schema_history WHERE series = 'project' AND version = 4")
    assert.same({}, take())
    nebula.fs.write(path .. "/V5__next.sql", "CREATE TABLE next_one (n INTEGER)")
    local applied = migrate.up(db, { path = path, log = quiet })
    assert.equal("leases_lanes_history", applied[1].name)
    assert.equal("next", applied[#applied].name)
    assert.same({}, migrate.verify(db, { path = path }))
    assert.equal(4, db:value "SELECT count(*) FROM refinery_schema_history")
  end)

  it("refuses a file that was tampered with, with both checksums", function()
    nebula.fs.write(file(2), FILES[2][2] .. " ")
    local message = refused()
    assert.matches("%- V2__add_executions " .. adopt.checksum("add_executions", 2, FILES[2][2]), message)
    assert.matches("%+ V2__add_executions " .. adopt.checksum("add_executions", 2, FILES[2][2] .. " "), message)
    assert.is_nil(message:find("V1__", 1, true))
  end)

  it("tells when only the line endings changed", function()
    nebula.fs.write(file(4), (FILES[4][2]:gsub("\r", "")))
    assert.matches("V4__of_the_engine.sql; only its line endings changed", refused())
  end)

  it("refuses a missing, a renamed and a passed-over file", function()
    os.remove(file(3))
    assert.matches("%- V3__add_job_queue %d+ %(applied 2024.*there is no V3__add_job_queue.sql", refused())
    nebula.fs.write(path .. "/V3__queue.sql", FILES[3][2])
    assert.matches("%- V3__add_job_queue %d+.-\n%+ V3__queue %d+", refused())
    os.remove(path .. "/V3__queue.sql")
    nebula.fs.write(file(3), FILES[3][2])
    db:exec "DELETE FROM refinery_schema_history WHERE version = 2"
    assert.matches("%+ V2__add_executions %(.* was never applied, but V4 was%)", refused())
  end)

  it("refuses live tables that are not ours, with a diff", function()
    db:exec [[
      ALTER TABLE executions ALTER COLUMN state TYPE JSON;
      ALTER TABLE workflows DROP COLUMN deployed_at, ADD COLUMN owner TEXT NOT NULL, ADD COLUMN note TEXT;
      DROP INDEX idx_jobs_queue;
      CREATE INDEX more_jobs ON workflow_jobs (locked_by);
      CREATE UNIQUE INDEX one_a_workflow ON workflow_jobs (workflow_id)
    ]]
    local message = refused()
    for _, line in ipairs {
      "- executions: column state jsonb NOT NULL", "+ executions: column state json NOT NULL",
      "- workflows: column deployed_at timestamp with time zone", "+ workflows: column owner text NOT NULL",
      "- workflow_jobs: index idx_jobs_queue: CREATE INDEX USING btree (status, priority DESC, scheduled_at) WHERE",
      "+ workflow_jobs: index one_a_workflow: CREATE UNIQUE INDEX USING btree (workflow_id)",
    } do
      assert.truthy(message:find(line, 1, true), line .. "\n" .. message)
    end
    assert.is_nil(message:find("note", 1, true))
    assert.is_nil(message:find("more_jobs", 1, true))
  end)

  it("takes the live tables where there is no refinery, as many as there are", function()
    db:exec "DROP TABLE refinery_schema_history, workflow_jobs"
    path = directory.make("none-" .. child.next_number "directories")
    assert.equal(2, #take())
    local applied = migrate.up(db, { path = path, log = quiet })
    assert.equal("add_job_queue", applied[1].name)
  end)

  it("goes on from a database that refinery had not finished", function()
    db:exec "DROP TABLE workflow_jobs, engine_settings; DELETE FROM refinery_schema_history WHERE version >= 3"
    assert.equal(4, #take())
    local applied = migrate.up(db, { path = path, log = quiet })
    assert.equal("nebula add_job_queue", applied[1].series .. " " .. applied[1].name)
    assert.same({ "adopted", "applied" }, db:value [[
      SELECT array_agg(origin ORDER BY version) FROM nebula_schema_history WHERE series = 'project' AND version >= 3
    ]])
    assert.equal("project of_the_engine", applied[#applied].series .. " " .. applied[#applied].name)
  end)

  it("refuses a row that is missing where its table is there, and passes over no file", function()
    db:exec "DELETE FROM refinery_schema_history WHERE version >= 3"
    local message = refused()
    assert.matches("%+ V3__add_job_queue %(.*%.sql was never applied, but its table workflow_jobs is there", message)
    assert.is_nil(message:find("V4__", 1, true))
  end)

  it("reads a history without a time, with names or checksums that are NULL, and with wide versions", function()
    db:exec "UPDATE refinery_schema_history SET applied_on = 'long ago' WHERE version = 1"
    db:exec "UPDATE refinery_schema_history SET applied_on = NULL WHERE version = 2"
    db:exec "UPDATE refinery_schema_history SET checksum = NULL WHERE version = 3"
    assert.matches("%- V3__add_job_queue  %(applied 2024", refused())
    db:exec "ALTER TABLE refinery_schema_history ALTER COLUMN version TYPE BIGINT"
    for version, one in ipairs(FILES) do
      db:exec("UPDATE refinery_schema_history SET checksum = $2 WHERE version = $1", version,
        adopt.checksum(one[1], version, one[2], true))
    end
    assert.equal(7, #take())
    assert.same({ true, true, false, false }, db:value [[
      SELECT array_agg(applied_at > now() - interval '1 hour' ORDER BY version)
      FROM nebula_schema_history WHERE series = 'project'
    ]])
  end)

  it("takes refinery's unversioned migrations, and runs one that came later", function()
    local text = "CREATE TABLE unversioned (n INTEGER);"
    nebula.fs.write(path .. "/U7__unversioned.sql", text)
    nebula.fs.write(path .. "/U5__late.sql", "CREATE TABLE late (n INTEGER)")
    db:exec(text)
    db:exec("INSERT INTO refinery_schema_history VALUES (7, 'unversioned', '2024-05-06T07:08:09Z', $1)",
      adopt.checksum("unversioned", 7, text))
    assert.equal(8, #take())
    local applied = migrate.up(db, { path = path, log = quiet })
    assert.equal("late", applied[#applied].name)
    assert.same({}, migrate.verify(db, { path = path }))
  end)

  it("lets a project that came from refinery start on a fresh database", function()
    local fresh <close> = nebula.pg.connect { url = postgres.database(), max_connections = 4 }
    local _, err = nebula.try(migrate.adopt, fresh, { path = path, log = quiet })
    assert.matches("nothing to adopt", err.message)
    migrate.up(fresh, { path = path, log = quiet, dry_run = true })
    migrate.up(fresh, { path = path, log = quiet })
    assert.same({ "adopted", "adopted", "adopted", "applied" }, fresh:value [[
      SELECT array_agg(origin ORDER BY version) FROM nebula_schema_history WHERE series = 'project'
    ]])
    assert.equal(0, migrate.pending(fresh, { path = path }))
  end)

  it("takes the project's V1 to V3 with ours where nothing kept a history", function()
    db:exec "DROP TABLE refinery_schema_history, engine_settings"
    assert.equal(6, #take())
    local applied = migrate.up(db, { path = path, log = quiet })
    assert.equal("of_the_engine", applied[#applied].name)
  end)

  it("has nothing to adopt in an empty database", function()
    db:exec "DROP TABLE refinery_schema_history, workflow_jobs, executions, workflows"
    local _, err = nebula.try(take)
    assert.matches("nothing to adopt", err.message)
  end)
end)
