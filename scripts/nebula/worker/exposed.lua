-- worker/exposed.lua: a worker over HTTP: /metrics for Prometheus, /healthz (this process turns its loop),
-- /readyz (it takes jobs, and its database answers).
local httpd = require "nebula.httpd"
local metrics = require "nebula.metrics"
local nebula = require "nebula"
local raise = require "nebula.raise"

local exposed = {}

local STATS_SECONDS = 10 -- how old the queue's counts may be
local READY_SECONDS = 2 -- for the database's answer
local TEXT = "text/plain; version=0.0.4; charset=utf-8"

local JOBS = metrics.counter { name = "nebula_jobs_total", labels = { "outcome" },
  help = "Jobs of this worker by what became of them" }
local CLAIMED = metrics.counter { name = "nebula_jobs_claimed_total", help = "Jobs that this worker took" }
local RUNNING = metrics.gauge { name = "nebula_worker_running", help = "Handlers that run now" }
local SLOTS = metrics.gauge { name = "nebula_worker_concurrency", help = "Handlers that may run at once" }
local LEASED = metrics.gauge { name = "nebula_worker_leased", help = "Jobs that are held by a lease" }
local MEMORY = metrics.gauge { name = "nebula_lua_memory_bytes", help = "Memory of the Lua state" }
local QUEUE = metrics.gauge { name = "nebula_queue_jobs", labels = { "state" },
  help = "Jobs in the whole queue; counts stop at 100,000" }
local OLDEST = metrics.gauge { name = "nebula_queue_oldest_wait_seconds", help = "How long the oldest due job waits" }
local PAUSED = metrics.gauge { name = "nebula_queue_paused", help = "1 where the whole queue is paused" }
local STATES = { "due", "scheduled", "running", "dead", "failed", "cancelled" }

--- Reads "[HOST:]PORT", the address in numbers; without one, this machine alone is answered.
--- Raises `config`.
---@param text string
---@return string? host, integer port
function exposed.address(text)
  local host, port = text:match "^%[?(.-)%]?:?(%d+)$"
  port = math.tointeger(tonumber(port))
  if not port or port > 65535 then raise("config", 'metrics wants [HOST:]PORT such as 9090, not "%s"', text) end
  return host ~= "" and host or nil, port
end

-- Counts are added up by the worker; a counter here takes what is new.
local function advance(counter, seen, name, total, labels)
  counter:add(total - (seen[name] or 0), labels)
  seen[name] = total
end

local function collect(self)
  local worker, seen = self.worker, self.seen
  for name, total in pairs(worker.counts) do
    if name == "claimed" then
      advance(CLAIMED, seen, name, total)
    else
      advance(JOBS, seen, name, total, { outcome = name })
    end
  end
  local leased = 0
  for _ in pairs(worker.leased) do leased = leased + 1 end
  RUNNING:set(worker.running)
  SLOTS:set(worker.concurrency)
  LEASED:set(leased)
  MEMORY:set(math.floor(collectgarbage "count" * 1024))
  local now = nebula.time.monotonic()
  if now < self.stats_at then return end
  local stats = nebula.try(nebula.task.deadline, READY_SECONDS, worker.storage.queue_stats, worker.storage)
  if not stats then return end
  self.stats_at = now + STATS_SECONDS
  for _, state in ipairs(STATES) do QUEUE:set(stats[state], { state = state }) end
  OLDEST:set(stats.oldest_wait or 0)
  PAUSED:set(stats.paused and 1 or 0)
end

local ANSWERS = {
  ["/metrics"] = function() return 200, metrics.text() end,
  ["/healthz"] = function() return 200, "ok\n" end,
  ["/readyz"] = function(worker)
    if worker.stopping then return 503, "stopping\n" end
    local _, err = nebula.try(nebula.task.deadline, READY_SECONDS, worker.db.value, worker.db, "SELECT 1")
    if err then return 503, "the database does not answer: " .. (err.message or tostring(err)) .. "\n" end
    return 200, "ready\n"
  end,
}

local function answer(worker, request)
  local made = ANSWERS[request.path]
  local status, body = 404, "there are /metrics, /healthz and /readyz\n"
  if made and request.method ~= "GET" and request.method ~= "HEAD" then
    status, body = 405, "GET\n"
  elseif made then
    status, body = made(worker)
  end
  request:answer { status = status, body = body, headers = { ["Content-Type"] = TEXT } }
end

--- Serves until the returned value is closed.
--- Raises `io` where the address cannot be listened on.
---@param worker nebula.Worker
---@param address string [HOST:]PORT
---@return {port: integer} server to be closed
function exposed.serve(worker, address)
  local host, port = exposed.address(address)
  local server = httpd.listen { host = host, port = port, max_body = 0 }
  local self = { worker = worker, seen = {}, stats_at = 0 }
  local forget = metrics.collect(function() collect(self) end)
  worker.durations = metrics.histogram { name = "nebula_job_duration_seconds", labels = { "handler" },
    help = "How long handlers run" }
  worker.log.info("metrics are served", { host = host or "127.0.0.1", port = server:port() })
  local task = nebula.task.spawn(function()
    while true do
      local request = server:accept()
      if not request then return end
      nebula.task.spawn(answer, worker, request)
    end
  end)
  return setmetatable({ port = server:port() }, { __close = function()
    worker.durations = nil
    forget()
    server:close()
    nebula.try(task.join, task)
  end })
end

return exposed
