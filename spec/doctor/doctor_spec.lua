-- `nebula doctor` on healthy and on broken surroundings, as its users run it.
local core = require "nebula"
local nebula = require "spec.support.nebula"
local postgres = require "spec.support.postgres"
local s3 = require "spec.support.s3"

describe("nebula doctor", function()
  local project, url, db

  lazy_setup(function()
    project = nebula.scratch()
    nebula.write(project, { ["nebula.conf.lua"] = ("return { blobs = 'file:%s/blobs', database = { max_size = 7 } }")
      :format(project) })
    url = postgres.database()
    db = core.pg.connect { url = url }
  end)

  lazy_teardown(function() db:close() end)

  local function doctor(env)
    local given = { DATABASE_URL = url }
    for name, value in pairs(env or {}) do given[name] = value end
    local result = nebula.run { args = { "doctor", "--json" }, cwd = project, env = given }
    assert.equal("", result.stderr)
    local report = core.json.decode(result.stdout)
    assert.equal(report.healthy and 0 or 1, result.status)
    return report, result.stdout
  end

  local function finding(report, check, status)
    for _, entry in ipairs(report.findings) do
      if entry.check == check and entry.status == status then return entry end
    end
    error(("no %s that is %s in %s"):format(check, status, core.json.encode(report.findings)), 2)
  end

  local function setting(report, name)
    for _, row in ipairs(report.settings) do
      if row.setting == name then return row.value, row.from end
    end
  end

  it("finds pending migrations, and nothing wrong once they are applied", function()
    local before = doctor()
    assert.is_false(before.healthy)
    assert.equal("run `nebula migrate up`", finding(before, "migrations", "failed").remedy)
    assert.equal(0, nebula.run { args = { "migrate", "up" }, cwd = project, env = { DATABASE_URL = url } }.status)
    local after = doctor()
    assert.is_true(after.healthy)
    for _, check in ipairs { "database", "clock", "permissions", "connections", "indexes", "blobs" } do
      finding(after, check, "ok")
    end
  end)

  it("tells where each setting comes from", function()
    local report = doctor { DATABASE_IDLE_TIMEOUT_SECONDS = "77" }
    assert.same({ "77", "environment" }, { setting(report, "DATABASE_IDLE_TIMEOUT_SECONDS") })
    assert.same({ "7", "nebula.conf.lua" }, { setting(report, "DATABASE_MAX_CONNECTIONS") })
    assert.same({ "1800", "default" }, { setting(report, "DATABASE_MAX_LIFETIME_SECONDS") })
  end)

  it("goes on after a database that cannot be reached, and shows no password", function()
    local report, text = doctor { DATABASE_URL = "postgresql://x:hunter2@127.0.0.1:1/none", DATABASE_REPLICA_URL =
      "host=/nonexistent password=hunter2" }
    assert.truthy(finding(report, "database", "failed").remedy:find("DATABASE_URL", 1, true))
    finding(report, "replica", "failed")
    finding(report, "blobs", "ok")
    assert.falsy(text:find("hunter2", 1, true))
  end)

  it("names a bad value by its variable", function()
    local report = doctor { DATABASE_MAX_CONNECTIONS = "many" }
    assert.truthy(finding(report, "configuration", "failed").message:find("DATABASE_MAX_CONNECTIONS", 1, true))
  end)

  it("compares the pool with what the server allows", function()
    local found = finding(doctor { DATABASE_MAX_CONNECTIONS = "5000" }, "connections", "failed")
    assert.truthy(found.message:find("5000", 1, true))
  end)

  it("finds an invalid index", function()
    db:exec "CREATE TABLE twice AS SELECT 1 AS n UNION ALL SELECT 1"
    assert.is_nil(core.try(db.exec, db, "CREATE UNIQUE INDEX CONCURRENTLY twice_n ON twice (n)"))
    local found = finding(doctor(), "indexes", "failed")
    assert.truthy(found.remedy:find("REINDEX INDEX CONCURRENTLY twice_n", 1, true))
    db:exec "DROP TABLE twice"
  end)

  it("says what a role may not do, and the GRANT that it lacks", function()
    db:exec "CREATE ROLE reader LOGIN"
    db:exec "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader"
    local report = doctor { DATABASE_URL = url:gsub("nebula@", "reader@", 1) }
    local found = finding(report, "permissions", "failed")
    assert.truthy(found.remedy:find("GRANT DELETE, INSERT, UPDATE ON", 1, true))
    finding(report, "permissions", "warning")
    db:exec "DROP OWNED BY reader"
    db:exec "DROP ROLE reader"
  end)

  it("tells a server that is no replica", function()
    assert.is_true(doctor { DATABASE_REPLICA_URL = url }.healthy)
    finding(doctor { DATABASE_REPLICA_URL = url }, "replica", "warning")
  end)

  it("tries a bucket, and tells a wrong key from a missing bucket", function()
    local env = s3.environment()
    finding(doctor(env), "blobs", "ok")
    finding(doctor(env), "S3 clock", "ok")
    local absent = s3.environment()
    absent.S3_BUCKET = "no-such-bucket-here"
    assert.truthy(finding(doctor(absent), "blobs", "failed").remedy:find("S3_BUCKET", 1, true))
    local wrong = s3.environment()
    wrong.S3_ACCESS_KEY_ID = "NOBODY"
    assert.truthy(finding(doctor(wrong), "blobs", "failed").remedy:find("S3_ACCESS_KEY_ID", 1, true))
  end)

  it("prints the same for people", function()
    local result = nebula.run { args = { "doctor" }, cwd = project, env = { DATABASE_URL = url } }
    assert.equal(0, result.status, result.stderr)
    assert.truthy(result.stdout:find("ok       migrations: all applied", 1, true), result.stdout)
  end)
end)
