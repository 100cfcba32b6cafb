-- Jobs a second through the worker with a handler that does nothing, claimed, run as a task and
-- completed, history kept; against the same protocol without a client's work: pgbench claiming and
-- completing batches of the same size in one statement, on as many connections.
local storages = require "nebula.storage"
local workers = require "nebula.worker"

local JOBS, BATCH, CONNECTIONS = 100000, 500, 2
local PGBENCH = (os.getenv "NEBULA_SPEC_POSTGRES_BIN" or "/usr/lib/postgresql/15/bin") .. "/pgbench"

local FILL = [[
  INSERT INTO workflow_jobs (payload) SELECT '{"handler": "noop"}' FROM generate_series(1, $1)
]]

local RAW = [[
  UPDATE workflow_jobs SET status = 'completed', finished_at = clock_timestamp()
  WHERE ctid = ANY (ARRAY (
    SELECT ctid FROM workflow_jobs
    WHERE status = 'pending' AND scheduled_at <= now()
    ORDER BY priority DESC, scheduled_at LIMIT %d FOR UPDATE SKIP LOCKED))
]]

local function fill(storage)
  storage.db:exec "TRUNCATE workflow_jobs"
  storage.db:exec(FILL, JOBS)
  storage.db:exec "ANALYZE workflow_jobs"
  storage.db:exec "CHECKPOINT"
end

return function(bench)
  local url = bench.postgres():database()
  local storage <close> = storages.with_pool_config(url, { max_size = 8 })
  storage:run_migrations { log = function() end }
  local script = os.tmpname()
  local file <close> = assert(io.open(script, "w"))
  file:write((RAW:format(BATCH):gsub("%s*\n%s*", " ")), ";\n")
  file:flush()

  bench.compare {
    name = ("worker, no-op handler, %d jobs"):format(JOBS), peer = "the same claims and completions by pgbench",
    unit = "jobs/s", rounds = 3,
    ours = function()
      fill(storage)
      return bench.rate(JOBS, function()
        workers.new(storage, { concurrency = 100, batch = BATCH, drain = true, connections = CONNECTIONS,
          handler = function() end }):run()
      end)
    end,
    theirs = function()
      fill(storage)
      return bench.rate(JOBS, function()
        bench.child.must { file = PGBENCH, args = { "-n", "-M", "prepared", "-c", tostring(CONNECTIONS), "-t",
          tostring(JOBS // BATCH // CONNECTIONS), "-f", script, url } }
      end)
    end,
  }
  os.remove(script)
end
