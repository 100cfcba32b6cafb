-- How a worker learns that there are jobs: from a push in its own process, by NOTIFY from others, and by
-- polling where neither comes through.
local child = require "spec.support.child"
local nebula = require "nebula"
local news = require "nebula.jobs.news"
local pooler = require "spec.support.pooler"
local postgres = require "spec.support.postgres"
local storages = require "nebula.storage"
local workers = require "nebula.worker"

local LONG = 60 -- seconds that nothing here should take
local NEVER = 600 -- between two polls, once it is idle for long

describe("a worker", function()
  local server, storage, other

  setup(function()
    server = postgres.server()
    storage = storages.with_pool_config(server:url(), { max_size = 8 })
    other = storages.with_pool_config(server:url(), { max_size = 4 }) -- as another process
    storage:run_migrations { log = function() end }
  end)
  teardown(function()
    other:close()
    storage:close()
    server:close()
  end)

  local function await(what, ready) return child.await(what, LONG, ready) end

  local function with_worker(of, poll, fn)
    local worker = workers.new(of, { handler = function() end, connections = 1, poll = poll })
    local running = nebula.task.spawn(worker.run, worker)
    local _ <close> = setmetatable({}, { __close = function()
      worker:stop()
      running:join()
    end })
    await("the first look", function() return worker.sessions[1] and worker.sessions[1].resting end)
    fn(worker)
  end

  local function done(worker, count)
    await(count .. " jobs", function() return worker.counts.completed >= count end)
  end

  it("is woken by pushes of its own process and of others, also after its listener was cut off", function()
    with_worker(storage, NEVER, function(worker)
      local LISTENER = "SELECT pid FROM pg_stat_activity WHERE query ~ '^LISTEN' AND datname = current_database()"
      -- the wait has grown so long that no poll comes to help
      await("a long rest", function() return worker.sessions[1].idle_wait > 2 end)
      storage:push_job { payload = { handler = "x" } }
      done(worker, 1)
      await("a long rest", function() return worker.sessions[1].idle_wait > 2 end)
      other:push_job { payload = { handler = "x" } }
      done(worker, 2)
      local pid = other.db:value(LISTENER)
      other.db:value("SELECT pg_terminate_backend($1)", pid)
      other:push_job { payload = { handler = "x" } } -- perhaps while nobody listens
      done(worker, 3)
      await("a listener", function()
        local now = other.db:value(LISTENER)
        return now and now ~= pid
      end)
      other:push_job { payload = { handler = "x" } }
      done(worker, 4)
    end)
  end)

  it("is told in one notification of the pushes that come within a few milliseconds", function()
    local told = 0
    local _ <close> = storage.db:listen(news.CHANNEL, function() told = told + 1 end)
    local began, count = nebula.time.monotonic(), 300
    for _ = 1, count do other:wake() end
    storage.db:exec "SELECT 1"
    local most = (nebula.time.monotonic() - began) / 0.003 + 3
    other.teller:flush()
    storage.db:notify(news.CHANNEL, "the end")
    await("the first", function() return told > 1 end)
    assert.is_true(told <= most and told < count, told .. " notifications")
  end)

  it("polls behind a pooler in transaction mode, and leaves no setting in its sessions", function()
    local between <close> = pooler.start(server, 3)
    local pooled <close> = storages.with_pool_config(between.url, { max_size = 6, statement_cache = false })
    with_worker(pooled, 0.2, function(worker)
      pooled:push_job { payload = { handler = "x" } }
      done(worker, 1)
      for _ = 1, 50 do other:push_job { payload = { handler = "x" } } end
      done(worker, 51)
      nebula.task.map({ 1, 2, 3 }, function()
        pooled.db:transaction(function(tx)
          assert.equal("on", tx:value "SELECT current_setting('enable_sort') FROM pg_sleep(0.01)")
          assert.equal("0", tx:value "SELECT current_setting('idle_in_transaction_session_timeout')")
        end)
      end)
      assert.equal(0, other.db:value [[
        SELECT count(*) FROM pg_stat_activity WHERE query ~ '^LISTEN' AND datname = current_database()
      ]])
    end)
  end)
end)
