-- The worker inside this process: claims, outcomes, contexts. Its life as a process is in shutdown_spec.
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local program = require "spec.support.nebula"
local rescue = require "nebula.jobs.rescue"
local storages = require "nebula.storage"
local workers = require "nebula.worker"

describe("the worker", function()
  local storage, url

  setup(function()
    url = postgres.database()
    storage = storages.with_pool_config(url, { max_size = 20 })
    storage:run_migrations { log = function() end }
    storage.db:exec "CREATE TABLE effects (job UUID, n INTEGER)"
  end)
  teardown(function() storage:close() end)
  before_each(function() storage.db:exec "TRUNCATE workflow_jobs, effects" end)

  local function push(count, fields)
    local list = {}
    for i = 1, count do
      list[i] = { payload = { handler = "x", n = i } }
      for name, value in pairs(fields or {}) do list[i][name] = value end
    end
    return storage:push_jobs(list)
  end

  local function work(handler, opts)
    opts = opts or {}
    opts.handler, opts.drain = handler, true
    return workers.new(storage, opts):run()
  end

  local function statuses()
    local counts = {}
    for _, row in ipairs(storage.db:query "SELECT status, count(*) AS n FROM workflow_jobs GROUP BY 1") do
      counts[row.status] = row.n
    end
    return counts
  end

  it("completes every job once, each with its result", function()
    push(2000)
    local seen = {}
    local counts = work(function(_, job)
      assert(not seen[job.id], "twice")
      seen[job.id] = true
      return { n = job.payload.n * 2 }
    end)
    assert.equal(2000, counts.completed)
    assert.same({ completed = 2000 }, statuses())
    assert.equal(2000,
      storage.db:value "SELECT count(*) FROM workflow_jobs WHERE (result ->> 'n')::int = 2 * (payload ->> 'n')::int")
  end)

  it("takes first what the policy's select ranks first, and leaves what it leaves out", function()
    push(6)
    local path = directory.make "select-policy" .. "/latest.lua"
    nebula.fs.write(path, [[return { select = function(candidates)
      local out = {}
      for _, job in ipairs(candidates) do
        if job.payload.n > 2 then out[#out + 1] = job end
      end
      table.sort(out, function(a, b) return a.payload.n > b.payload.n end)
      return out
    end }]])
    local order = {}
    local own <close> = storages.with_pool_config(url, { max_size = 5 }) -- which keeps the policy
    workers.new(own, { handler = function(_, job) order[#order + 1] = job.payload.n end, drain = true, policy = path,
      concurrency = 1, connections = 1 }):run()
    assert.same({ 6, 5, 4, 3 }, order)
    assert.same({ completed = 4, pending = 2 }, statuses())
  end)

  it("writes one row version for a short job", function()
    push(100)
    work(function() end)
    local row = storage.db:one "SELECT max(token) AS token, count(lease_until) AS leases FROM workflow_jobs"
    assert.equal(0, row.token)
    assert.equal(0, row.leases)
  end)

  it("runs no more handlers at once than it may", function()
    push(60)
    local running, most = 0, 0
    work(function()
      running = running + 1
      most = math.max(most, running)
      nebula.task.sleep(0.002)
      running = running - 1
    end, { concurrency = 7 })
    assert.equal(7, most)
    assert.same({ completed = 60 }, statuses())
  end)

  it("turns the row lock of a longer job into a lease, and lets its neighbours end", function()
    local ids = push(3)
    local gate = nebula.task.channel()
    local watch = nebula.task.spawn(function()
      local row
      repeat
        nebula.task.sleep(0.01)
        row = storage:get_job(ids[2])
      until row.status == "running"
      local others = storage.db:value "SELECT count(*) FROM workflow_jobs WHERE status = 'completed'"
      gate:send(true)
      return row, others
    end)
    work(function(_, job)
      if job.id == ids[2] then gate:receive() end
    end)
    local row, others = watch:join()
    assert.equal(1, row.token)
    assert.is_string(row.lease_until)
    assert.equal(2, others)
    assert.same({ completed = 3 }, statuses())
  end)

  it("leases what takes much longer than half of its batch soon, so that no slot waits for it", function()
    local ids = push(40)
    storage.db:exec("UPDATE workflow_jobs SET priority = array_position($1::uuid[], id)", ids)
    local soonest = math.huge
    work(function(_, job)
      if job.payload.n % 4 ~= 0 then return end
      local began = nebula.time.monotonic()
      while storage:get_job(job.id).status ~= "running" do nebula.task.sleep(0.002) end
      soonest = math.min(soonest, nebula.time.monotonic() - began)
    end, { concurrency = 4, connections = 1, batch = 4 })
    assert.same({ completed = 40 }, statuses())
    assert.is_true(soonest < 0.19, ("the soonest of ten after %.3f s"):format(soonest)) -- where all are slow: 0.2
  end)

  it("fails what throws, keeps it with the reason, and gives up after its retries", function()
    local ids = push(2, { max_retries = 0 })
    local counts = work(function(_, job)
      if job.payload.n == 1 then error "no good" end
      error(nebula.error { kind = "validation", message = "bad input" })
    end)
    assert.equal(2, counts.dead)
    assert.matches("no good %(after 1 attempts%)", storage:get_job(ids[1]).error)
    assert.equal("validation", storage:get_job(ids[2]).failures[1].kind)
  end)

  it("keeps a job whose handler is missing, broken or silent about itself", function()
    local handlers = directory.make "handlers"
    nebula.fs.write(handlers .. "/broken.lua", "return function(\n = end")
    nebula.fs.write(handlers .. "/raises.lua", "error 'at load'")
    nebula.fs.write(handlers .. "/nothing.lua", "return 7")
    local wanted = {
      missing = "there is no handler \"missing\"", broken = "broken%.lua:2:", raises = "at load",
      nothing = "returns a function or a table", ["../etc"] = "no name of a handler",
    }
    local ids = {}
    for name in pairs(wanted) do ids[name] = storage:push_job { payload = { handler = name } }.id end
    local nameless = storage:push_job { payload = { handler = 7 } }.id
    workers.new(storage, { handlers = handlers, drain = true }):run()
    for name, id in pairs(ids) do
      local row = storage:get_job(id)
      assert.equal("pending", row.status)
      assert.is_true(row.retry_count >= 1) -- again, where the machine is slow
      assert.matches(wanted[name], row.error)
    end
    assert.matches("names no `handler`", storage:get_job(nameless).error)
  end)

  it("runs handlers from files, in both their shapes", function()
    local handlers = directory.make "shapes"
    nebula.fs.write(handlers .. "/bare.lua", "return function(ctx, job) return { got = job.payload.n } end")
    nebula.fs.write(handlers .. "/full.lua",
      [[return { summary = "s", deadline = "1m", run = function(ctx)
        ctx.progress(1, 2, "x")
        return ctx.db:value "SELECT 7"
      end }]])
    local bare = storage:push_job { payload = { handler = "bare", n = 5 } }.id
    local full = storage:push_job { payload = { handler = "full" } }.id
    workers.new(storage, { handlers = handlers, drain = true }):run()
    assert.equal(5, storage:get_job(bare).result.got)
    assert.equal(7, storage:get_job(full).result)
  end)

  it("ends a handler at its deadline", function()
    local handlers = directory.make "deadline"
    nebula.fs.write(handlers .. "/slow.lua",
      "return { deadline = 0.05, run = function() require('nebula').task.sleep(600) end }")
    local id = storage:push_job { payload = { handler = "slow" }, max_retries = 0 }.id
    workers.new(storage, { handlers = handlers, drain = true }):run()
    assert.equal("timeout", storage:get_job(id).failures[1].kind)
  end)

  it("commits a handler's writes and the job's completion together, or neither", function()
    local ids = push(20, { max_retries = 0 })
    local counts = work(function(ctx, job)
      return ctx.tx(function(tx)
        tx:exec("INSERT INTO effects VALUES ($1, $2)", job.id, job.payload.n)
        if job.payload.n % 2 == 0 then error "no" end
        return { n = job.payload.n }
      end)
    end)
    assert.equal(10, counts.completed)
    assert.equal(10, counts.dead)
    assert.equal(10,
      storage.db:value "SELECT count(*) FROM effects e JOIN workflow_jobs j ON j.id = e.job AND j.status = 'completed'")
    assert.equal(10, storage.db:value "SELECT count(*) FROM effects")
    assert.equal(1, storage:get_job(ids[1]).result.n)
  end)

  it("writes nothing for a job that was cancelled or taken away meanwhile", function()
    local ids = push(1)
    local kind
    local counts = work(function(ctx, job)
      storage.db:exec("SELECT 1")
      local _, err = nebula.try(ctx.tx, function(tx)
        tx:exec("INSERT INTO effects VALUES ($1, 1)", job.id)
        storage:cancel_job(job.id)
      end)
      kind = err and err.kind
      error(err, 0)
    end)
    assert.equal("fenced", kind)
    assert.equal(1, counts.lost)
    assert.equal("cancelled", storage:get_job(ids[1]).status)
    assert.equal(0, storage.db:value "SELECT count(*) FROM effects")
  end)

  it("brings a snoozed job back later, without counting a failure", function()
    local ids = push(1)
    work(function(ctx) return ctx.snooze(3600) end)
    local row = storage:get_job(ids[1])
    assert.equal("pending", row.status)
    assert.equal(0, row.retry_count)
    assert.is_true(storage.db:value "SELECT min(scheduled_at) > now() + interval '59 minutes' FROM workflow_jobs")
  end)

  it("fails a job alone whose result the database cannot hold", function()
    local ids = push(5, { max_retries = 0 })
    local counts = work(function(_, job)
      if job.payload.n == 3 then return nebula.json.number "1e200000" end
      if job.payload.n == 4 then return "\0" end
      return { n = job.payload.n }
    end)
    assert.equal(3, storage.db:value "SELECT count(*) FROM workflow_jobs WHERE status = 'completed'")
    assert.equal("dead", storage:get_job(ids[3]).status)
    assert.equal("dead", storage:get_job(ids[4]).status)
    assert.equal(0, counts.lost)
  end)

  it("rescues the jobs of a vanished worker once their leases have ended", function()
    push(3)
    storage:claim_jobs("vanished", 2)
    storage.db:exec "UPDATE workflow_jobs SET lease_until = now() - interval '1 s' WHERE status = 'running'"
    local seen = 0
    work(function() seen = seen + 1 end)
    local rescued = storage.db:query "SELECT * FROM workflow_jobs WHERE failures IS NOT NULL"
    assert.equal(2, #rescued)
    assert.equal("lost", rescued[1].failures[1].kind)
    assert.equal(1, rescued[1].retry_count)
    workers.new(storage, { handler = function() end, drain = true }):run()
    assert.same({ completed = 3 }, statuses())
  end)

  it("rescues them also where a process was stopped in the middle of their rescue", function()
    local id = storage:push_job({ payload = { handler = "count" } }).id
    storage:claim_job("gone")
    storage.db:exec("UPDATE workflow_jobs SET lease_until = now() - interval '1 s' WHERE id = $1", id)
    local stopped = program.spawn {
      args = { "-e", [[
        local rescue, system = require "nebula.jobs.rescue", require "nebula.system"
        local policy = { time = function() return 0 end, rescue = function()
          print "locked"
          io.stdout:flush()
          system.kill(system.ids().pid, "STOP")
          return 0
        end }
        rescue.all(require("nebula.storage").from_env(), policy, rescue.EXPIRED)
      ]] }, env = { DATABASE_URL = url },
    }
    assert.equal("locked\n", stopped:read())
    child.await("the rescue by another", 60, function()
      rescue.all(storage, storage:policy(), rescue.EXPIRED)
      return storage:get_job(id).status == "pending"
    end)
    stopped:kill(9)
    stopped:wait()
  end)

  it("rescues them also where one of their payloads is beyond what can be read", function()
    push(2)
    storage:claim_jobs("vanished", 2)
    storage.db:exec "UPDATE workflow_jobs SET lease_until = now() - interval '1 s'"
    storage.db:exec [[
      UPDATE workflow_jobs SET payload = (repeat('[', 5000) || repeat(']', 5000))::jsonb
      WHERE id = (SELECT id FROM workflow_jobs LIMIT 1)
    ]]
    work(function() end)
    assert.equal(2, storage.db:value "SELECT count(*) FROM workflow_jobs WHERE failures -> 0 ->> 'kind' = 'lost'")
    assert.equal(0, storage.db:value "SELECT count(*) FROM workflow_jobs WHERE status = 'running'")
  end)

  it("goes on when its claim connections are ended under it", function()
    push(400)
    local killer = nebula.task.spawn(function()
      for _ = 1, 10 do
        nebula.task.sleep(0.02)
        storage.db:query [[
          SELECT pg_terminate_backend(pid) FROM pg_stat_activity
          WHERE pid <> pg_backend_pid() AND datname = current_database() AND state = 'idle in transaction'
        ]]
      end
    end)
    work(function() nebula.task.sleep(0.005) end, { concurrency = 10 })
    killer:join()
    workers.new(storage, { handler = function() end, drain = true }):run()
    assert.same({ completed = 400 }, statuses())
  end)

  it("says what is missing where the schema is", function()
    local empty <close> = storages.with_pool_config(postgres.database(), { max_size = 2 })
    local _, err = nebula.try(function() workers.new(empty, { handler = print }):run() end)
    assert.equal("config", err.kind)
    assert.matches("nebula migrate up", err.message)
  end)

  it("refuses unknown options and directories by name", function()
    local _, err = nebula.try(workers.new, storage, { concurency = 5 })
    assert.matches("did you mean concurrency", err.message)
    _, err = nebula.try(workers.new, storage, { handlers = "/nonexistent" })
    assert.matches("/nonexistent: no such directory", err.message)
  end)
end)
