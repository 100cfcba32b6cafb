-- top.lua: the queue at a glance: counts, lanes, workers; as a table of values, and as lines of text.
local ui = require "nebula.ui"

local top = {}

local MOST_COUNTED = 20000 -- jobs of a state that are counted by lane
local MOST_LANES = 10

-- The lanes with the most jobs that wait or run. Bounded: of a longer backlog a part is counted.
local LANES = [[
  SELECT lane, sum(waiting)::int8 AS waiting, sum(running)::int8 AS running,
    extract(epoch FROM clock_timestamp() - min(since))::float8 AS oldest_wait
  FROM (
    (SELECT coalesce(lane, workflow_id::text) AS lane, 1 AS waiting, 0 AS running, scheduled_at AS since
      FROM workflow_jobs WHERE status = 'pending' AND scheduled_at <= now() ORDER BY scheduled_at LIMIT $1)
    UNION ALL
    (SELECT coalesce(lane, workflow_id::text), 0, 1, NULL
      FROM workflow_jobs WHERE status = 'running' AND lease_until IS NOT NULL LIMIT $1)
  ) j
  GROUP BY lane
  ORDER BY sum(waiting + running) DESC, lane
  LIMIT $2
]]

---@class nebula.Top
---@field at string
---@field queue nebula.QueueStats
---@field lanes {lane: string, waiting: integer, running: integer, oldest_wait?: number}[]
---@field workers table[] as list_workers
---@field rate number jobs that end a second, of all workers, over their last 10 s

-- Rows that are an array also where there are none.
local function array(rows) return require("nebula").json.array(table.move(rows, 1, #rows, 1, {})) end

--- Looks once.
---@param storage nebula.Storage
---@return nebula.Top
function top.look(storage)
  local nebula = require "nebula"
  local workers, rate = storage:list_workers(), 0
  for _, worker in ipairs(workers) do rate = rate + (worker.silent < 10 and worker.state.rate or 0) end
  return {
    at = nebula.time.format(nebula.time.now()), queue = storage:queue_stats(),
    workers = array(workers), rate = rate,
    lanes = array(storage.db:query(LANES, MOST_COUNTED, MOST_LANES)),
  }
end

local function seconds(value) return value and ui.duration(value) or "" end

local function summary(seen)
  local queue = seen.queue
  local line = ("%d due  %d scheduled  %d leased  %d dead    %.1f jobs/s    oldest waits %s"):format(queue.due,
    queue.scheduled, queue.running, queue.dead, seen.rate, queue.oldest_wait and seconds(queue.oldest_wait) or "-")
  local policy = "policy " .. queue.policy .. (queue.policy_version and " version " .. queue.policy_version or "")
  if queue.paused then policy = policy .. "    THE QUEUE IS PAUSED" end
  if #queue.paused_lanes > 0 then policy = policy .. "    paused: " .. table.concat(queue.paused_lanes, ", ") end
  return line, ui.printable(policy)
end

--- The same as lines for the terminal.
---@param seen nebula.Top
---@return string[]
function top.lines(seen)
  local line, policy = summary(seen)
  local lines = { ui.paint("bold", line), seen.queue.paused and ui.paint("yellow", policy) or policy, "" }
  local rows = {}
  for i, lane in ipairs(seen.lanes) do
    rows[i] = { lane = lane.lane, waiting = lane.waiting, running = lane.running, oldest = seconds(lane.oldest_wait) }
  end
  local function add(text)
    for each in (text .. "\n"):gmatch "(.-)\n" do lines[#lines + 1] = each end
    lines[#lines + 1] = ""
  end
  add(ui.table(rows, { columns = { "lane", "waiting", "running", "oldest" } }))
  rows = {}
  for i, worker in ipairs(seen.workers) do
    local state = worker.state
    rows[i] = {
      worker = worker.host .. " " .. worker.pid, running = ("%d/%d"):format(state.running, state.concurrency),
      per_second = ("%.1f"):format(state.rate or 0), completed = state.completed, failed = state.failed,
      dead = state.dead, policy = state.policy .. (state.policy_version and " " .. state.policy_version or ""),
      memory = ui.bytes(state.memory), seen = worker.silent < 5 and (state.stopping and "draining" or "now")
        or seconds(worker.silent) .. " ago",
    }
  end
  add(ui.table(rows, { columns = { "worker", "running", "per_second", "completed", "failed", "dead", "policy", "memory",
    "seen" } }))
  return lines
end

-- ---- the live view ----

local ENTER, LEAVE = "\27[?1049h\27[?25l", "\27[?25h\27[?1049l"
local HELP = "q quit   space hold   p pause or resume the queue"

local function draw(lines, bottom)
  local height, width = require("nebula.system").window()
  height, width = height or 24, width or 80
  local out = { "\27[H" }
  for i = 1, math.min(#lines, height - 1) do
    local text = lines[i]
    out[#out + 1] = (text:find("\27", 1, true) and text or ui.fit(text, width)) .. "\27[K\r\n"
  end
  out[#out + 1] = "\27[J" .. ("\27[%d;1H"):format(height) .. ui.fit(bottom, width) .. "\27[K"
  io.stdout:write(table.concat(out))
  io.stdout:flush()
end

--- Redraws until q or Ctrl-C.
---@param storage nebula.Storage
---@param interval number seconds
function top.live(storage, interval)
  local nebula = require "nebula"
  local keys <close> = require("nebula.terminal").open()
  io.stdout:write(ENTER)
  local _ <close> = setmetatable({}, { __close = function()
    io.stdout:write(LEAVE)
    io.stdout:flush()
  end })
  local held, asking, seen, lines = false, false, nil, {}
  while true do
    if not held or not seen then
      local fresh, err = nebula.try(top.look, storage)
      seen = fresh or seen
      lines = seen and top.lines(seen) or {}
      if err then table.insert(lines, 1, ui.paint("red", ui.printable(err.message or tostring(err)))) end
    end
    local paused = seen and seen.queue.paused
    draw(lines, asking and (paused and "Resume the queue? y/n" or "Pause the whole queue? y/n")
      or held and "held: space goes on   q quit" or HELP)
    local typed = keys:read(interval) or ""
    if typed:find "[q\3\4]" then return end
    if asking then
      if typed:find "[yY]" then
        if paused then storage:resume_queue() else storage:pause_queue(nil, "by queue top") end
        held = false
      end
      asking = typed == ""
    elseif typed:find "p" then
      asking = seen ~= nil
    elseif typed:find " " then
      held = not held
    end
  end
end

return top
