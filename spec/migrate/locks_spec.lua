-- Migrations beside traffic: locks are not waited for long, one migrator works, leftovers are ended.
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local migrate = require "nebula.migrate"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local program = require "spec.support.nebula"

describe("a migration beside traffic", function()
  local url, db, lines

  before_each(function()
    url, lines = postgres.database(), {}
    db = nebula.pg.connect { url = url, max_connections = 12 }
    db:exec "CREATE TABLE busy (id INTEGER PRIMARY KEY); INSERT INTO busy VALUES (1)"
  end)
  after_each(function() db:close() end)

  local function project(files)
    local path = directory.make("locks-" .. child.next_number "directories")
    for name, text in pairs(files) do nebula.fs.write(path .. "/" .. name, text) end
    return path
  end

  local function up(path, more)
    local opts = { path = path, log = function(line) lines[#lines + 1] = line end }
    for name, value in pairs(more or {}) do opts[name] = value end
    return migrate.up(db, opts)
  end

  -- A transaction that has read `busy` and stays open.
  local function reader()
    local connection = db:acquire()
    connection:exec "SET application_name = 'long reader'"
    connection:exec "BEGIN"
    connection:query "SELECT * FROM busy"
    return connection
  end

  local function logged(pattern)
    for _, line in ipairs(lines) do
      if line:find(pattern) then return line end
    end
  end

  it("lets the traffic pass when a long reader holds its table, names the reader, and ends", function()
    local path = project { ["V1__a.sql"] = "ALTER TABLE busy ADD COLUMN n INTEGER" }
    local long <close> = reader()
    local reads, stop = 0, false
    nebula.task.scope(function(scope)
      local migration = scope:spawn(up, path, { lock_timeout = "200ms" })
      child.await("a first attempt", 60, function() return logged "V1__a waited 0.2 s" end)
      scope:spawn(function()
        while not stop do
          db:query "SELECT * FROM busy"
          reads = reads + 1
        end
      end)
      local before = reads
      child.await("a second attempt", 60, function() return #lines > 1 and logged "again in" end)
      child.await("reads between the attempts", 60, function() return reads > before end)
      child.await("the reader's name", 60, function() -- which an attempt has no time for where the machine stalls
        return logged "V1__a waited.*process %d+ %(long reader, nebula from this machine, since 20"
      end)
      long:exec "COMMIT"
      assert.equal("a", migration:join()[#migration:join()].name)
      stop = true
    end)
  end)

  it("gives up after its patience, with nothing kept", function()
    local path = project { ["V1__a.sql"] = "CREATE TABLE half (n INTEGER); ALTER TABLE busy ADD COLUMN n INTEGER" }
    local long <close> = reader()
    local _, err = nebula.try(up, path, { lock_timeout = 1, patience = 1.5 })
    assert.equal("migration", err.kind)
    assert.equal("55P03", err.code)
    assert.is_true(err.retryable)
    assert.matches("V1__a%.sql, step 1 of 1.*long reader.*given up after 1.5 s", err.message)
    assert.is_nil(db:value "SELECT to_regclass('half')::text")
    long:exec "COMMIT"
    up(path)
  end)

  it("says whom it waits for", function()
    local key = "hashtextextended('nebula migrate ' || current_database(), 0)"
    local other <close> = db:acquire()
    other:exec "SET application_name = 'the other one'"
    other:query("SELECT pg_advisory_lock(" .. key .. ")")
    local task = nebula.task.spawn(up)
    child.await("the line", 60, function() return #lines > 0 end)
    assert.matches("another migrator works: process %d+ %(the other one, nebula from this machine, since 20", lines[1])
    other:query("SELECT pg_advisory_unlock(" .. key .. ")")
    task:join()
  end)

  it("ends the statement that a killed migrator left running, and repeats its step", function()
    local where = program.scratch()
    program.write(where, { ["migrations/V1__a.lua"] = [[
      return { transaction = false, up = { "CREATE TABLE a (n INTEGER)", "CREATE INDEX CONCURRENTLY i ON busy (id)" } }
    ]] })
    up()
    local long <close> = reader()
    long:exec "INSERT INTO busy VALUES (2)"
    local migrator = program.spawn { args = { "migrate", "up" }, env = { DATABASE_URL = url }, cwd = where,
      stdout = "null", stderr = "stdout" }
    child.await("the invalid index", 60, function()
      return db:value "SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass('i')"
    end)
    migrator:kill(9)
    migrator:wait()
    local task = nebula.task.spawn(up, where .. "/migrations")
    child.await("the end of the leftover", 60, function() return logged "dropping the invalid index i" end)
    long:exec "COMMIT"
    assert.equal("a", task:join()[1].name)
    assert.truthy(logged "ending what an interrupted migrator left running: process %d+ %(nebula migrate")
    assert.is_true(db:value "SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass")
  end)

  it("builds the index of an empty table at once, whoever has a transaction open, and that of others beside writes",
    function()
      local path = project { ["V1__a.lua"] = [[
        return { transaction = false, up = {
          "CREATE TABLE empty (n INTEGER)", "CREATE INDEX CONCURRENTLY on_empty ON empty (n)",
          "CREATE INDEX CONCURRENTLY on_busy ON busy (id)",
        } }
      ]] }
      local long <close> = reader()
      long:exec "INSERT INTO busy VALUES (2)"
      local task = nebula.task.spawn(up, path)
      child.await("the index of busy waiting for the transaction", 60, function()
        return db:value "SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass('on_busy')"
      end)
      assert.is_true(db:value "SELECT indisvalid FROM pg_index WHERE indexrelid = 'on_empty'::regclass")
      db:exec "INSERT INTO busy VALUES (3)"
      long:exec "COMMIT"
      task:join()
      assert.is_true(db:value "SELECT indisvalid FROM pg_index WHERE indexrelid = 'on_busy'::regclass")
    end)

  it("is what the host's own migrations are made for", function()
    local lint = require "nebula.migrate.lint"
    for _, found in ipairs(lint.directory "migrations") do
      error(("%s:%d: %s"):format(found.path, found.line, found.rule))
    end
  end)

  it("takes an index as built where only its record is missing", function()
    local path = project { ["V1__a.lua"] = [[
      return { transaction = false, up = { "CREATE INDEX CONCURRENTLY i ON busy (id)", "SELECT 1 / 0" } }
    ]] }
    nebula.try(up, path)
    db:exec "UPDATE nebula_schema_history SET steps = 0, running = 1 WHERE series = 'project'"
    local _, err = nebula.try(up, path)
    assert.matches("step 2 of 2", err.message)
  end)
end)
