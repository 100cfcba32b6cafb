-- The storage layer: jobs pushed in batches against a C program that inserts the same rows, with and
-- without a policy's admit; executions changed in one statement against one by one; a workflow read
-- against the bare prepared statement; a fresh database migrated against psql running the same SQL.
local directory = require "spec.support.directory"
local nebula = require "nebula"
local policies = require "nebula.policy"
local storages = require "nebula.storage"

local JOBS, BATCH = 50000, 1000
local EXECUTIONS, SINGLE = 10000, 1000
local READS, READERS = 40000, 16

local ADMIT = [[
  return { admit = function(job) if job.priority > 5 then return false, "too urgent" end return { priority = 1 } end }
]]

local function quiet() end

local function push(bench, url, storage)
  local batches = {}
  for b = 1, JOBS // BATCH do
    batches[b] = {}
    for i = 1, BATCH do batches[b][i] = { payload = { handler = "noop", n = i } } end
  end
  local function ours()
    storage.db:exec "TRUNCATE workflow_jobs; CHECKPOINT"
    return bench.rate(JOBS, function()
      for _, batch in ipairs(batches) do storage:push_jobs(batch) end
    end)
  end
  local function theirs()
    storage.db:exec "TRUNCATE workflow_jobs; CHECKPOINT"
    local said = bench.child.must {
      file = directory.build .. "/bench/unnest_insert", args = { url, tostring(JOBS), tostring(BATCH) },
    }
    return tonumber(said)
  end
  local peer = "a C loop that inserts the same rows by unnest"
  bench.compare { name = ("push_jobs, batches of %d"):format(BATCH), peer = peer, unit = "jobs/s", ours = ours,
    theirs = theirs }
  local path = os.tmpname()
  nebula.fs.write(path, ADMIT)
  storage:use_policy(policies.load(path))
  os.remove(path)
  bench.compare { name = "the same with a policy's admit", peer = peer, unit = "jobs/s", ours = ours, theirs = theirs }
end

local function update(bench, storage)
  local workflow = storage:save_workflow { name = "bench", definition = { steps = { "a", "b" } } }
  local list = {}
  for i = 1, EXECUTIONS do list[i] = { workflow_id = workflow.id } end
  local ids = {}
  for i, run in ipairs(storage:create_executions(list)) do ids[i] = run.id end
  local round = 0
  local function changes(count)
    local rows = {}
    round = round + 1
    for i = 1, count do rows[i] = { id = ids[i], state = { round = round, n = i } } end
    return rows
  end
  bench.compare {
    name = ("update_executions, %d rows"):format(EXECUTIONS), peer = "update_execution one by one", unit = "rows/s",
    rounds = 3,
    ours = function()
      local rows = changes(EXECUTIONS)
      return bench.rate(EXECUTIONS, function() storage:update_executions(rows) end)
    end,
    theirs = function()
      local rows = changes(SINGLE)
      return bench.rate(SINGLE, function()
        for _, row in ipairs(rows) do storage:update_execution(row) end
      end)
    end,
  }
  return workflow.id
end

local function read(bench, storage, id)
  local function reading(fn)
    return bench.rate(READS, function()
      nebula.task.scope(function(scope)
        for _ = 1, READERS do
          scope:spawn(function()
            for _ = 1, READS // READERS do fn() end
          end)
        end
      end)
    end)
  end
  local db = storage.db
  bench.compare {
    name = ("get_workflow, %d tasks"):format(READERS), peer = "the prepared statement alone", unit = "reads/s",
    ours = function() return reading(function() storage:get_workflow(id) end) end,
    theirs = function() return reading(function() db:one("SELECT * FROM workflows WHERE id = $1", id) end) end,
  }
end

local function migrate(bench, server)
  local plan = {}
  do
    local storage <close> = storages.with_pool_config(server:database(), { max_size = 2 })
    for _, migration in ipairs(require("nebula.migrate").plan(storage.db, {})) do
      for _, step in ipairs(migration.steps) do plan[#plan + 1] = step .. ";\n" end
    end
  end
  local path <const> = os.tmpname()
  nebula.fs.write(path, table.concat(plan))
  bench.compare {
    name = "a fresh database to the newest version", peer = "psql running the same SQL", unit = "databases/s",
    ours = function()
      local storage <close> = storages.with_pool_config(server:database(), { max_size = 2 })
      return bench.rate(1, function() storage:run_migrations { log = quiet } end)
    end,
    theirs = function()
      local url = server:database()
      return bench.rate(1, function()
        bench.child.must { file = "psql", args = { "-qX", "-v", "ON_ERROR_STOP=1", "-f", path, url } }
      end)
    end,
  }
  os.remove(path)
end

return function(bench)
  local server = bench.postgres()
  local url = server:database()
  local storage <close> = storages.with_pool_config(url, { max_size = 4 })
  storage:run_migrations { log = quiet }
  push(bench, url, storage)
  local id = update(bench, storage)
  read(bench, storage, id)
  migrate(bench, server)
end
