-- health, reindex, stats, requeue-dead, cancel-executions: each finds or changes what is really there.
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local storages = require "nebula.storage"
local tasks = require "nebula.tasks"

local PROGRAM = directory.build .. "/nebula"

describe("maintenance", function()
  local storage, db, url

  local function run(task, options) return tasks.run(storage, task, options) end

  setup(function()
    url = postgres.database()
    storage = storages.with_pool_config(url, { max_size = 8 })
    db = storage.db
    storage:run_migrations { log = function() end }
  end)
  teardown(function() storage:close() end)
  before_each(function()
    db:exec "TRUNCATE workflows, executions, execution_history, workflow_jobs, task_checkpoints"
  end)

  local function findings()
    local by_check = {}
    for _, row in ipairs(run("health").sections[1].rows) do
      by_check[row.check] = by_check[row.check] or {}
      table.insert(by_check[row.check], row)
    end
    return by_check
  end

  it("finds nothing in a database that is well", function() assert.same({}, findings()) end)

  it("finds what an old transaction, a bad index and a standing queue are", function()
    db:exec [[
      CREATE TABLE ill (a INTEGER, b INTEGER) WITH (autovacuum_enabled = off);
      INSERT INTO ill SELECT i, 1 FROM generate_series(1, 30000) AS i;
      CREATE INDEX ill_a ON ill (a);
      CREATE INDEX ill_a_again ON ill (a);
      DELETE FROM ill WHERE a > 10000
    ]]
    local _, err = nebula.try(db.exec, db, "CREATE UNIQUE INDEX CONCURRENTLY ill_b ON ill (b)")
    assert.equal("23505", err.code)
    db:exec "INSERT INTO workflow_jobs (payload, scheduled_at) VALUES ('{}', now() - interval '1 hour')"
    db:exec [[
      INSERT INTO workflow_jobs (payload, status, lease_until) VALUES ('{}', 'running', now() - interval '1 hour')
    ]]
    child.await("the statistics", 60, function()
      return db:value "SELECT n_dead_tup > 15000 FROM pg_stat_user_tables WHERE relname = 'ill'"
    end)
    local found = findings()
    assert.equal("ill_b", found["invalid indexes"][1].object)
    assert.equal("ill_a_again", found["duplicate indexes"][1].object)
    assert.matches("autovacuum is switched off", found["dead rows"][1].finding)
    assert.equal("ALTER TABLE ill RESET (autovacuum_enabled)", found["dead rows"][1].remedy)
    assert.equal(2, #found.queue)

    local planned = tasks.preview(storage, tasks.load "reindex", {}).rows
    assert.same({ { index = "ill_b", table = "ill", bytes = planned[1].bytes, action = "rebuild" } }, planned)
    db:exec "UPDATE ill SET b = a"
    assert.same({ rebuilt = 1, dropped = 0, skipped = 0 }, run "reindex")
    assert.is_true(db:value "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ill_b'::regclass")
    db:exec "DROP TABLE ill"
  end)

  it("cleans up behind a rebuild that was interrupted, and waits for no lock", function()
    db:exec "CREATE TABLE rebuilt (a INTEGER) WITH (autovacuum_enabled = off)"
    db:exec "INSERT INTO rebuilt SELECT generate_series(1, 1000)"
    db:exec "CREATE INDEX rebuilt_a ON rebuilt (a)"
    local _, err = db:transaction(function(tx)
      tx:exec "SELECT FROM rebuilt LIMIT 1"
      return nebula.try(function()
        local other <close> = db:acquire()
        other:exec "SET lock_timeout = '100ms'"
        local _ <close> = setmetatable({}, { __close = function() other:exec "RESET lock_timeout" end })
        other:exec "REINDEX INDEX CONCURRENTLY rebuilt_a"
      end)
    end)
    assert.equal("55P03", err.code)
    assert.equal(2, db:value "SELECT count(*) FROM pg_class WHERE relname LIKE 'rebuilt_a%'")
    local done = run("reindex", { index = { "rebuilt_a" } })
    assert.same({ rebuilt = 1, dropped = 1, skipped = 0 }, done)
    assert.equal(1, db:value "SELECT count(*) FROM pg_class WHERE relname LIKE 'rebuilt_a%'")
    db:exec "DROP TABLE rebuilt"
    assert.equal("config", select(2, nebula.try(run, "reindex", { index = { "nowhere" } })).kind)
  end)

  it("tells what grew since the last look", function()
    run "health"
    db:exec "UPDATE task_checkpoints SET value = jsonb_set(value, '{at}', to_jsonb(extract(epoch FROM now()) - 86400))"
    run("seed", { executions = 2000 })
    local grown
    for _, row in ipairs(run("health").sections[2].rows) do
      if row.table == "executions" then grown = row.growth end
    end
    assert.matches("^[%d.]+ [KM]iB a day$", grown)
  end)

  it("tells usage by workflow and day, as tables, JSON and a chart", function()
    run("seed", { executions = 500, workflows = 2, days = 3 })
    local out = child.run { file = PROGRAM, args = { "task", "stats", "--since", "30d", "--json" },
      env = { DATABASE_URL = url } }
    assert.equal(0, out.status, out.stderr)
    local stats, total, jobs = nebula.json.decode(out.stdout), 0, 0
    for _, row in ipairs(stats.executions) do total = total + row.executions end
    for _, row in ipairs(stats.jobs) do jobs = jobs + row.jobs end
    assert.same({ 500, 500 }, { total, jobs })
    local picture = directory.make "stats" .. "/days.svg"
    out = child.run { file = PROGRAM, args = { "task", "stats", "--since", "30d", "--plot", "--svg", picture },
      env = { DATABASE_URL = url } }
    local days = db:value "SELECT count(DISTINCT date_trunc('day', created_at, 'UTC')) FROM executions"
    assert.equal(days + 1, select(2, child.read_file(picture):gsub("<rect ", "")))
    assert.matches("Executions a day\n%d%d%d%d%-%d%d%-%d%d", out.stdout)
  end)

  it("puts dead jobs back, those of the filter alone", function()
    run("seed", { executions = 400, failures = 0.5 })
    local dead = db:value "SELECT count(*) FROM workflow_jobs WHERE status = 'dead'"
    local some = db:value "SELECT count(*) FROM workflow_jobs WHERE status = 'dead' AND error LIKE '%503'"
    assert.is_true(some > 0 and some < dead)
    assert.equal(some, tasks.preview(storage, tasks.load "requeue-dead", { error = "%503" }).would_requeue)
    assert.equal(some, run("requeue-dead", { error = "%503" }).requeued)
    assert.equal(some, db:value "SELECT count(*) FROM workflow_jobs WHERE status = 'pending' AND retry_count = 0")
    assert.equal(dead - some, run("requeue-dead", {}).requeued)
  end)

  it("rescues the jobs of vanished workers, and another engine's where that is asked for", function()
    local function row(ended, taken, tries)
      return db:value([[
        INSERT INTO workflow_jobs (payload, status, locked_by, locked_at, lease_until, retry_count)
        VALUES ('{}', 'running', gen_random_uuid(), now() - make_interval(secs => $2),
          now() - make_interval(secs => $1), $3)
        RETURNING id
      ]], ended, taken, tries)
    end
    local expired, spent, held = row(60, 120, 0), row(60, 120, 3), row(-60, 120, 0)
    local old, new = row(nil, 7200, 0), row(nil, 60, 0)
    local function state(id)
      local job = storage:get_job(id)
      return job.status, job.retry_count
    end
    local task = tasks.load "rescue-stuck"
    assert.same({ would_rescue = 2 }, tasks.preview(storage, task, {}))
    assert.same({ would_rescue = 2, without_lease = 1 }, tasks.preview(storage, task, { without_lease = "1h" }))
    assert.same({ rescued = 2, dead = 1 }, run("rescue-stuck", {}))
    assert.same({ "pending", 1 }, { state(expired) })
    assert.same({ "dead", 4 }, { state(spent) })
    assert.equal("running", (state(old)))
    assert.same({ rescued = 1, dead = 0 }, run("rescue-stuck", { without_lease = "1h" }))
    assert.same({ "pending", 1 }, { state(old) })
    assert.same({ "running", "running" }, { (state(held)), (state(new)) })
  end)

  it("seeds the same rows for the same seed, once", function()
    local ROWS = [[
      SELECT md5(string_agg(t.row, '|' ORDER BY t.row)) FROM (
        SELECT e::text FROM executions e UNION ALL SELECT j::text FROM workflow_jobs j UNION ALL
        SELECT w::text FROM workflows w UNION ALL
        SELECT concat(execution_id, at, from_status, to_status, error) FROM execution_history
      ) AS t (row)
    ]]
    local function seeded(seed)
      local options = { executions = 300, pending = 20, ["until"] = "2026-01-01T00:00:00Z", seed = seed }
      assert.same({ executions = 300, pending = 20 }, (run("seed", options)))
      local rows = db:value(ROWS)
      assert.same({ executions = 0, pending = 0 }, (run("seed", options)))
      assert.equal(rows, db:value(ROWS))
      db:exec "TRUNCATE workflows, executions, execution_history, workflow_jobs"
      return rows
    end
    local first = seeded(1)
    assert.equal(first, seeded(1))
    assert.not_equal(first, seeded(2))
  end)

  it("takes a date that is none for a mistake", function()
    local _, err = nebula.try(run, "seed", { ["until"] = "yesterday" })
    assert.equal('config: seed: --until is a time such as 2026-11-22T17:58:03Z, not "yesterday"', tostring(err))
    assert.equal(0, db:value "SELECT count(*) FROM executions")
  end)

  it("takes the name of no workflow for a mistake", function()
    storage:save_workflow { name = "billing", definition = {} }
    for task, options in pairs {
      ["archive-executions"] = { workflow = { "billing", "biling" } }, stats = { workflow = "biling" },
      ["execution-stats"] = { workflow = "biling" }, ["cancel-executions"] = { workflow = "biling", older_than = 0 },
    } do
      local _, err = nebula.try(run, task, options)
      assert.equal(task .. ': there is no workflow "biling"; did you mean billing?', err.message)
    end
  end)

  it("cancels executions that have not ended, and their jobs", function()
    local workflow = storage:save_workflow { name = "long", definition = {} }
    local other = storage:save_workflow { name = "other", definition = {} }
    local list = {}
    for i = 1, 250 do list[i] = { workflow_id = workflow.id } end
    local made = storage:create_executions(list)
    storage:create_executions { { workflow_id = other.id } }
    for i = 1, 10 do storage:push_job { execution_id = made[i].id, payload = { handler = "x" } } end
    storage:update_executions { { id = made[250].id, status = "failed" } }
    local options = { workflow = "long", older_than = 0 }
    assert.equal(249, tasks.preview(storage, tasks.load "cancel-executions", options).would_cancel)
    assert.same({ executions = 249, jobs = 10 }, (run("cancel-executions", options)))
    assert.same({ executions = 0, jobs = 0 }, (run("cancel-executions", options)))
    assert.equal(1, db:value "SELECT count(*) FROM executions WHERE status = 'created'")
    assert.equal("cancelled", db:value("SELECT to_status FROM execution_history WHERE execution_id = $1", made[1].id))
  end)
end)
