-- Periodic jobs: one firing over all hosts, what was missed, and what is refused at the start.
local nebula = require "nebula"
local periodic = require "nebula.periodic"
local postgres = require "spec.support.postgres"
local program = require "spec.support.nebula"
local storages = require "nebula.storage"
local workers = require "nebula.worker"

describe("periodic jobs", function()
  local storage, url

  setup(function()
    url = postgres.database()
    storage = storages.with_pool_config(url, { max_size = 16 })
    storage:run_migrations { log = function() end }
  end)
  teardown(function() storage:close() end)
  before_each(function() storage.db:exec "TRUNCATE workflow_jobs, job_periodic" end)

  local function entry(fields)
    fields[1] = fields[1] or "*/5 * * * *"
    fields.handler = fields.handler or not fields.task and "poll" or nil
    return periodic.entries({ fields })[1]
  end

  -- As though it had fired last so many seconds ago.
  local function fired(one, seconds)
    storage.db:exec([[
      INSERT INTO job_periodic VALUES ($1, clock_timestamp() - make_interval(secs => $2))
      ON CONFLICT (name) DO UPDATE SET fired_at = excluded.fired_at
    ]], one.name, seconds)
  end

  -- A time of the day that is not now, nor soon.
  local function far()
    local now = nebula.time.date "UTC"
    return ("%d %d * * *"):format((now.min + 30) % 60, (now.hour + (now.min >= 30 and 13 or 12)) % 24)
  end

  local function count() return storage.db:value "SELECT count(*) FROM workflow_jobs" end

  it("count from when they were first seen", function()
    local one = entry { "* * * * *", missed = "all" }
    local ids, wait = periodic.fire(storage, one)
    assert.equal(0, #ids)
    assert.is_true(wait > 0 and wait <= 60)
  end)

  it("fire once, however many hosts watch the clock", function()
    local one = entry { far(), payload = { source = "billing" }, missed = "once", priority = 7 }
    fired(one, 2 * 86400)
    local list = {}
    for i = 1, 12 do list[i] = i end
    nebula.task.map(list, function() periodic.fire(storage, one) end, { concurrency = 12 })
    assert.equal(1, count())
    local job = storage:list_jobs()[1]
    assert.same({ handler = "poll", source = "billing" }, job.payload)
    assert.equal(7, job.priority)
    assert.matches(":00%.000000Z$", job.scheduled_at)
  end)

  it("leave out what was missed, make it up once, or make all of it up, as each entry says", function()
    for missed, expected in pairs { skip = 0, once = 1, all = 3 } do
      storage.db:exec "TRUNCATE workflow_jobs, job_periodic"
      local one = entry { far(), missed = missed }
      fired(one, 3 * 86400)
      local ids = periodic.fire(storage, one)
      assert.equal(expected, #ids)
      assert.equal(expected, count())
      assert.equal(0, #(periodic.fire(storage, one)))
    end
  end)

  it("make up at most the newest thousand", function()
    local one = entry { "* * * * *", missed = "all" }
    fired(one, 200 * 86400)
    assert.equal(1000, #(periodic.fire(storage, one)))
    assert.is_true(storage.db:value "SELECT min(scheduled_at) > now() - interval '1010 minutes' FROM workflow_jobs")
  end)

  it("are pushed and worked by a worker, handlers and admin tasks alike", function()
    local given = {
      { far(), handler = "poll", missed = "once" },
      { far(), task = "purge-jobs", options = { keep = { completed = "9d" } }, missed = "once" },
    }
    for _, one in ipairs(periodic.entries(given)) do fired(one, 2 * 86400) end
    local seen = {}
    local worker = workers.new(storage, { periodic = given, poll = 0.05, handler = function(ctx, job)
      seen[job.payload.handler] = true
      if job.payload.handler == "task" then require("handlers.task").run(ctx, job) end
    end })
    local running = nebula.task.spawn(worker.run, worker)
    local last = nebula.time.monotonic() + 60
    while worker.counts.completed < 2 and nebula.time.monotonic() < last do nebula.task.sleep(0.01) end
    worker:stop()
    running:join()
    assert.same({ poll = true, task = true }, seen)
    assert.equal(2, storage.db:value "SELECT count(*) FROM workflow_jobs WHERE status = 'completed'")
  end)

  it("are refused at the start by their place and what is wrong", function()
    local function refused(...)
      local _, err = nebula.try(periodic.entries, { { "@daily", handler = "fine" }, ... })
      assert.equal("config", err.kind)
      return err.message
    end
    assert.matches('periodic%[2%] "61 %* %* %* %*": the minute is from 0 to 59',
      refused { "61 * * * *", handler = "x" })
    assert.matches("there is no task \"archive%-exections\"; did you mean archive%-executions",
      refused { "@daily", task = "archive-exections" })
    assert.matches("target wants a duration",
      refused { "@daily", task = "purge-jobs", options = { target = "x" } })
    assert.matches("unknown field hander; did you mean handler", refused { "@daily", hander = "x" })
    assert.matches("handler wants text", refused { "@daily" })
    assert.matches("declared as periodic%[1%] already", refused { "@daily", handler = "fine" })
    assert.matches('missed: "never" is none of skip', refused { "@daily", handler = "x", missed = "never" })
    assert.matches("zone", refused { "@daily", handler = "x", zone = "Mars/Base" })
    assert.matches("options belong to a task", refused { "@daily", handler = "x", options = {} })
    assert.matches("an entry is a table", refused "@daily")
  end)

  it("are shown with their firings, and a wrong one ends the worker's start with status 2", function()
    local directory = program.scratch()
    program.write(directory, { ["nebula.conf.lua"] = [[
      return { periodic = { { "0 3 * * *", zone = "Europe/Berlin", task = "purge-jobs" } } }
    ]] })
    local env = { DATABASE_URL = url }
    local shown = program.run { args = { "queue", "periodic", "--json" }, env = env, cwd = directory }
    assert.equal("", shown.stderr)
    local row = nebula.json.decode(shown.stdout)
    assert.equal("task purge-jobs", row.what)
    assert.matches("T03:00:00", row.next)
    program.write(directory, { ["nebula.conf.lua"] = [[
      return { periodic = { { "0 25 * * *", handler = "x" } } }
    ]] })
    local refused = program.run { args = { "worker", "--drain" }, env = env, cwd = directory }
    assert.equal(2, refused.status)
    assert.matches('periodic%[1%] "0 25 %* %* %*": the hour is from 0 to 23, not 25', refused.stderr)
  end)
end)
