-- cli/queue.lua: `nebula queue stats|list|show|push|requeue|cancel|pause|resume|workers|periodic`.
local JSON = { default = false, help = "print JSON" }
local LISTED = { "id", "status", "priority", "scheduled_at", "retry_count", "handler", "error" }
local STATUSES = { "pending", "running", "completed", "failed", "cancelled", "dead" }

local function with_storage(fn)
  local storage <close> = require("nebula.storage").from_env { max_connections = 2 }
  return fn(storage, require "nebula")
end

local function pairs_table(values)
  local rows = {}
  for name, value in pairs(values) do rows[#rows + 1] = { what = name, value = value } end
  table.sort(rows, function(a, b) return a.what < b.what end)
  print(require("nebula.ui").table(rows, { columns = { "what", "value" } }))
end

local function show(nebula, value, json)
  if json then
    print(nebula.json.encode(value))
  else
    pairs_table(value)
  end
end

local function filters(opts)
  return {
    status = opts.status, handler = opts.handler, error = opts.error, lane = opts.lane, limit = opts.limit,
    after = opts.after,
  }
end

local function list(opts)
  return with_storage(function(storage, nebula)
    local rows = storage:list_jobs(filters(opts))
    if opts.json then
      for _, row in ipairs(rows) do print(nebula.json.encode(row)) end
      return
    end
    for _, row in ipairs(rows) do row.handler = type(row.payload) == "table" and row.payload.handler or nil end
    print(require("nebula.ui").table(rows, { columns = LISTED }))
  end)
end

local function payload_of(nebula, text)
  if not text then return {} end
  local payload, err = nebula.try(nebula.json.decode, text)
  if err then error(nebula.error { kind = "config", message = "the payload is not JSON: " .. err.message }, 0) end
  if not text:find "^%s*{" then
    error(nebula.error { kind = "config", message = "the payload is a JSON object, such as '{\"invoice_id\": 7}'" }, 0)
  end
  return payload
end

local function push(opts, args)
  return with_storage(function(storage, nebula)
    local payload = payload_of(nebula, args.payload)
    payload.handler = args.handler
    local job = storage:push_job {
      payload = payload, priority = opts.priority, delay = opts.delay, unique_key = opts.unique_key,
      unique_while = opts.unique_while, unique_for = opts.unique_for, lane = opts.lane,
    }
    show(nebula, { id = job.id, duplicate = job.duplicate or false }, opts.json)
  end)
end

local function workers(opts)
  return with_storage(function(storage, nebula)
    local rows = storage:list_workers()
    if opts.json then
      for _, row in ipairs(rows) do print(nebula.json.encode(row)) end
      return
    end
    for _, row in ipairs(rows) do
      for name, value in pairs(row.state) do row[name] = value end
      row.silent = ("%.1f"):format(row.silent)
    end
    print(require("nebula.ui").table(rows, { columns = { "host", "pid", "running", "concurrency", "completed", "failed",
      "dead", "policy", "silent", "started_at" } }))
  end)
end

local function list_periodic(opts)
  return with_storage(function(storage, nebula)
    local periodic = require "nebula.periodic"
    local rows = periodic.list(storage.db, periodic.entries(require("nebula.config").settings().file.periodic))
    if opts.json then
      for _, row in ipairs(rows) do print(nebula.json.encode(row)) end
      return
    end
    print(require("nebula.ui").table(rows, { columns = { "what", "cron", "zone", "missed", "fired_at", "next" } }))
  end)
end

local function view(opts)
  return with_storage(function(storage, nebula)
    local top, ui = require "nebula.top", require "nebula.ui"
    if not opts.json and not opts.once and ui.terminal() then return top.live(storage, opts.interval) end
    while true do
      local seen = top.look(storage)
      print(opts.json and nebula.json.encode(seen) or table.concat(top.lines(seen), "\n"))
      if opts.once or not opts.json then return end
      io.stdout:flush()
      nebula.task.sleep(opts.interval)
    end
  end)
end

local LANE = { type = "string", help = "a lane's name, or the id of a workflow; without it the whole queue" }

local FILTER_OPTIONS = {
  status = { type = "list", choices = STATUSES, help = "only these" },
  handler = { type = "string", help = "only jobs for this handler" },
  error = { type = "string", help = "only errors like this (a LIKE pattern)" },
  lane = { type = "string", help = "only this lane" },
  limit = { type = "integer", min = 1, max = 10000, help = "at most so many" },
}

local function extended(more)
  local out = {}
  for name, option in pairs(FILTER_OPTIONS) do out[name] = option end
  for name, option in pairs(more) do out[name] = option end
  return out
end

local ID = { { name = "id", type = "uuid", required = true, help = "the job's id" } }

return {
  summary = "Look into the job queue, push, requeue, cancel, pause",
  commands = {
    stats = {
      summary = "What is in the queue",
      options = { json = JSON },
      run = function(opts)
        return with_storage(function(storage, nebula) show(nebula, storage:queue_stats(), opts.json) end)
      end,
    },
    list = {
      summary = "List jobs, the newest first",
      options = extended { json = JSON, after = { type = "uuid", help = "the id that ended the page before" } },
      run = list,
    },
    show = {
      summary = "Everything about one job",
      options = { json = JSON },
      arguments = ID,
      run = function(opts, args)
        return with_storage(function(storage, nebula)
          local job = storage:get_job(args.id)
          if not job then error(nebula.error { kind = "not_found", message = "there is no job " .. args.id }, 0) end
          show(nebula, job, opts.json)
        end)
      end,
    },
    push = {
      summary = "Push a job",
      options = {
        json = JSON,
        priority = { default = 0, help = "the higher, the sooner" },
        delay = { type = "duration", help = "due so much later" },
        lane = { type = "string", help = "default: as the policy declares" },
        unique_key = { type = "string", help = "one job of a key may be pending or running" },
        unique_while = { type = "string", choices = { "active", "pending" },
          help = "until when it has its key: until it ends, or only until it begins" },
        unique_for = { type = "duration", help = "it has its key at least for so long" },
      },
      arguments = {
        { name = "handler", required = true, help = "who works it: handlers/NAME.lua" },
        { name = "payload", help = "a JSON object" },
      },
      names = "handlers",
      run = push,
    },
    requeue = {
      summary = "Put dead, failed and cancelled jobs back, due now",
      options = extended { json = JSON },
      run = function(opts)
        return with_storage(function(storage, nebula)
          local given = filters(opts)
          given.after = nil
          show(nebula, { requeued = storage:requeue_jobs(given) }, opts.json)
        end)
      end,
    },
    pause = {
      summary = "Let workers take no more jobs, of a lane or at all; what runs goes on",
      options = { json = JSON, lane = LANE, reason = { type = "string", help = "shown with the pause" } },
      run = function(opts)
        return with_storage(function(storage, nebula)
          local changed = storage:pause_queue(opts.lane, opts.reason)
          show(nebula, { paused = opts.lane or "the whole queue", changed = changed }, opts.json)
        end)
      end,
    },
    resume = {
      summary = "End a pause",
      options = { json = JSON, lane = LANE },
      run = function(opts)
        return with_storage(function(storage, nebula)
          local changed = storage:resume_queue(opts.lane)
          show(nebula, { resumed = opts.lane or "the whole queue", changed = changed }, opts.json)
        end)
      end,
    },
    periodic = {
      summary = "The periodic jobs of nebula.conf.lua, when they fired and when they will",
      options = { json = JSON },
      run = list_periodic,
    },
    top = {
      summary = "A live view: rates, lanes, workers, the oldest that waits, the policy",
      description = "Keys: q quits, space holds the view, p pauses or resumes the queue. Without a terminal, one look.",
      options = {
        json = { default = false, help = "a JSON object a look" },
        once = { default = false, help = "look once" },
        interval = { type = "duration", default = "2s", min = 0.1, help = "between two looks" },
      },
      run = view,
    },
    workers = {
      summary = "The worker processes of all hosts",
      options = { json = JSON },
      run = workers,
    },
    cancel = {
      summary = "Cancel a pending or running job",
      options = { json = JSON },
      arguments = ID,
      run = function(opts, args)
        return with_storage(function(storage, nebula)
          local cancelled = storage:cancel_job(args.id)
          show(nebula, { cancelled = cancelled }, opts.json)
          if not cancelled then return 1 end
        end)
      end,
    },
  },
}
