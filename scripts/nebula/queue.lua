-- queue.lua: the job queue as scripts and the prompt use it: the storage that the process shares,
-- with the shortest names. For a storage of your own call its methods.
local check = require "nebula.check"
local storage = require "nebula.storage"

local queue = {}

local OPTIONS = {
  delay = true, at = true, priority = true, unique_key = true, unique_while = true, unique_for = true,
  workflow_id = true, execution_id = true,
  max_retries = true, lane = true, tx = true,
}

--- Pushes a job for a handler. Without ids it belongs to the workflow `nebula.adhoc` and to a fresh
--- execution id. `tx` is the caller's transaction: the job then is there when it commits.
---@param handler string
---@param payload? table
---@param opts? {delay?: number|string, at?: number|string, priority?: integer, unique_key?: string,
---  unique_while?: "active"|"pending", unique_for?: number|string,
---  workflow_id?: string, execution_id?: string, max_retries?: integer, lane?: string, tx?: nebula.pg.Connection}
---@return {id: string, duplicate?: boolean}
function queue.push(handler, payload, opts)
  check.text("queue.push: handler", handler)
  opts = check.fields("queue.push", opts or {}, OPTIONS)
  if opts.at ~= nil then check.time("queue.push: at", opts.at) end
  local copy = {}
  if payload ~= nil then
    check.object("queue.push: payload", payload)
    for name, value in pairs(payload) do copy[name] = value end
  end
  copy.handler = handler
  return storage.shared():push_job({
    payload = copy, delay = opts.delay, scheduled_at = opts.at, priority = opts.priority, unique_key = opts.unique_key,
    unique_while = opts.unique_while, unique_for = opts.unique_for,
    workflow_id = opts.workflow_id, execution_id = opts.execution_id, max_retries = opts.max_retries, lane = opts.lane,
  }, opts.tx)
end

-- The operations of storage.shared(), under short names.
local SAME = {
  push_jobs = "push_jobs", claim_jobs = "claim_jobs", complete_jobs = "complete_jobs", fail_job = "fail_job",
  heartbeat = "heartbeat_jobs", release = "release_jobs", cancel = "cancel_job", get = "get_job", list = "list_jobs",
  requeue = "requeue_jobs", stats = "queue_stats", snooze = "snooze_job", pause = "pause_queue",
  resume = "resume_queue", paused = "paused_lanes", workers = "list_workers",
}

for name, method in pairs(SAME) do
  queue[name] = function(...)
    local shared = storage.shared()
    return shared[method](shared, ...)
  end
end

return queue
