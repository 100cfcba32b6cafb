-- pg_pool.lua: what the pool itself costs, in CPU time of this process, so that a busy machine does not
-- show: taking and returning an idle connection, and a query while many others wait.
local nebula = require "nebula"
local task = nebula.task

local TURNS, QUERIES, WAITING, FEW = 200000, 10000, 1000, 32
local ALLOWED = 2e-6 -- seconds for an acquire and its release

local function per_second(count, fn)
  local began = os.clock()
  fn()
  return count / (os.clock() - began)
end

return function(bench)
  local url = bench.postgres():database "bench_pool"
  local db <close> = nebula.pg.connect { url = url, max_connections = 8 }
  task.map({ 1, 2, 3, 4, 5, 6, 7, 8 }, function() db:value "SELECT pg_sleep(0.05)" end) -- all of them are open

  bench.compare {
    name = "acquire and release of an idle connection, CPU", peer = "the 2 us that it may cost", unit = "/s",
    ours = function()
      return per_second(TURNS, function()
        for _ = 1, TURNS do
          local _held <close> = db:acquire()
        end
      end)
    end,
    theirs = function() return 1 / ALLOWED end,
  }

  local function on_held(connection)
    for i = 1, 1000 do connection:value("SELECT $1::int", i) end
    return per_second(QUERIES, function()
      for i = 1, QUERIES do connection:value("SELECT $1::int", i) end
    end)
  end

  bench.compare {
    name = ("a query while %d tasks wait for a connection, CPU"):format(WAITING), peer = "the same, alone", unit = "/s",
    ours = function()
      local small <close> = nebula.pg.connect { url = url, max_connections = 1 }
      local held = small:acquire()
      local waiting = {}
      for i = 1, WAITING do
        waiting[i] = task.spawn(function()
          local _held <close> = small:acquire()
        end)
      end
      task.yield()
      local rate = on_held(held)
      held:close()
      for i = 1, WAITING do waiting[i]:join() end
      return rate
    end,
    theirs = function()
      local small <close> = nebula.pg.connect { url = url, max_connections = 1 }
      local held <close> = small:acquire()
      return on_held(held)
    end,
  }

  local function shared(tasks)
    local list = {}
    for i = 1, tasks do list[i] = i end
    local each = QUERIES * 5 // tasks
    return per_second(each * tasks, function()
      task.map(list, function()
        for i = 1, each do db:value("SELECT $1::int", i) end
      end, { concurrency = tasks })
    end)
  end
  shared(WAITING)

  bench.compare {
    name = ("a query of %d tasks on 8 connections, CPU"):format(WAITING), peer = ("%d tasks"):format(FEW), unit = "/s",
    ours = function() return shared(WAITING) end,
    theirs = function() return shared(FEW) end,
  }
end
