-- periodic.lua: jobs that come by the clock, as nebula.conf.lua declares them:
--
--   periodic = {
--     { "0 3 * * *", zone = "Europe/Berlin", task = "archive-executions", options = { older_than = "30d" } },
--     { "*/5 * * * *", handler = "poll", payload = { source = "billing" }, missed = "once" },
--   }
--
-- Every worker of every host watches the clock; the row of job_periodic, locked while it is moved on,
-- makes it one firing. Time is the database's. An entry counts from when it was first seen.
local check = require "nebula.check"
local cron = require "nebula.cron"
local nebula = require "nebula"
local options = require "nebula.options"
local raise = require "nebula.raise"

local periodic = {}

local FIELDS = {
  zone = true, task = true, options = true, handler = true, payload = true, missed = true, name = true,
  priority = true, lane = true, max_retries = true,
}
local MISSED = { "skip", "once", "all" }
local GRACE = 60 -- seconds after its time in which a firing is late, not missed
local MOST_AT_ONCE = 1000 -- firings of an entry in one transaction
local WINDOWS = { 3600, 86400, 40 * 86400, math.huge } -- seconds in which missed firings are looked for
local LOOK_SECONDS = 60 -- at least so often the row is looked at, whatever this process expects
local RETRY_SECONDS = 1

---@class nebula.PeriodicEntry
---@field name string what its row is called: its own, or what it does and when
---@field cron nebula.Cron
---@field missed "skip"|"once"|"all"
---@field job table what is pushed

-- ---- declarations ----

local function task_payload(given)
  if given.handler or given.payload then
    raise("validation", "it has either a task with options or a handler with a payload")
  end
  local task = require("nebula.tasks").load(given.task)
  options.coerce(task.options, given.options, "task " .. given.task)
  return { handler = "task", task = given.task, options = given.options }
end

local function handler_payload(given)
  if given.options then
    raise("validation", "options belong to a task; a handler has a payload")
  end
  local payload = { handler = check.text("handler", given.handler) }
  if given.payload ~= nil then check.object("payload", given.payload) end
  for name, value in pairs(given.payload or {}) do payload[name] = payload[name] or value end
  return payload
end

local function entry_of(given)
  if type(given) ~= "table" then raise("validation", "an entry is a table, not %s", type(given)) end
  local named = {}
  for name, value in pairs(given) do
    if name ~= 1 then named[name] = value end
  end
  check.fields("it", named, FIELDS)
  local parsed = cron.parse(given[1], given.zone)
  local payload = given.task and task_payload(given) or handler_payload(given)
  local what = given.task and "task " .. given.task or given.handler
  return {
    cron = parsed, missed = check.choice("missed", given.missed or "skip", MISSED),
    name = check.text("name", given.name or ("%s at %s %s"):format(what, given[1], parsed.zone), 500), what = what,
    job = { payload = payload, priority = given.priority, lane = given.lane, max_retries = given.max_retries },
  }
end

--- Checks the declarations. Raises `config`, which names the entry and what is wrong with it.
---@param declared table[]|nil
---@return nebula.PeriodicEntry[]
function periodic.entries(declared)
  local entries, places = {}, {}
  if declared ~= nil and type(declared) ~= "table" then
    raise("config", "nebula.conf.lua: periodic is a list of entries")
  end
  for i, given in ipairs(declared or {}) do
    local entry, err = nebula.try(entry_of, given)
    local message = err and (err.message or tostring(err))
      or places[entry.name] and ("it is declared as periodic[%d] already; give one a `name`"):format(places[entry.name])
    if message then
      local expression = type(given) == "table" and given[1] ~= nil and (" %q"):format(tostring(given[1])) or ""
      raise("config", "nebula.conf.lua: periodic[%d]%s: %s", i, expression, message)
    end
    entries[i], places[entry.name] = entry, i
  end
  return entries
end

-- ---- firing ----

-- When it was to fire after one time and until another, the newest `most` of them.
local function between(entry, after, now, most)
  local times, count = {}, 0
  local at = entry.cron:next(after)
  while at and at <= now do
    count = count + 1
    times[(count - 1) % most + 1] = at
    at = entry.cron:next(at)
  end
  table.sort(times)
  return times, count
end

-- The same after a time that may be long ago: the near past is looked at first.
local function firings(entry, after, now)
  local most = entry.missed == "all" and MOST_AT_ONCE or 1
  local times, count
  for _, window in ipairs(WINDOWS) do
    local from = math.max(after, now - window)
    times, count = between(entry, from, now, most)
    if count >= most or from == after then break end
  end
  return times
end

local SEEN = [[
  INSERT INTO job_periodic (name, fired_at)
  VALUES ($1, clock_timestamp())
  ON CONFLICT DO NOTHING
]]

local LOCK = [[
  SELECT extract(epoch FROM fired_at)::float8 AS fired_at, extract(epoch FROM clock_timestamp())::float8 AS now
  FROM job_periodic
  WHERE name = $1
  FOR UPDATE SKIP LOCKED
]]

--- Fires an entry, where it is due and no other process does at this moment.
---@param storage nebula.Storage
---@param entry nebula.PeriodicEntry
---@return string[] ids of the jobs pushed
---@return number? wait seconds until it is due next; nil where another process had it
function periodic.fire(storage, entry)
  return storage.db:transaction(function(tx)
    tx:exec "SET LOCAL idle_in_transaction_session_timeout = '5s'" -- a stopped process holds up no other
    tx:exec(SEEN, entry.name)
    local row = tx:one(LOCK, entry.name)
    if not row then return {}, nil end
    local times = firings(entry, row.fired_at, row.now)
    local wait = entry.cron:next(row.now) - row.now
    local last = times[#times]
    if not last then return {}, wait end
    if entry.missed == "skip" and row.now - last > GRACE then times = {} end
    local jobs = {}
    for i, at in ipairs(times) do
      jobs[i] = { scheduled_at = at }
      for name, value in pairs(entry.job) do jobs[i][name] = value end
    end
    local ids = storage:push_jobs(jobs, tx)
    tx:exec("UPDATE job_periodic SET fired_at = $2, job = coalesce($3, job) WHERE name = $1", entry.name,
      nebula.time.format(last), ids[#ids])
    return ids, wait
  end)
end

-- ---- a worker's part ----

local function fire_and_tell(storage, entry, log)
  local fired, err = nebula.try(function() return { periodic.fire(storage, entry) } end)
  if err then
    log.warn("a periodic job could not be pushed", { periodic = entry.name, error = err.message or tostring(err) })
    return err.kind == "policy" and LOOK_SECONDS or RETRY_SECONDS -- a refusal stands until somebody changes something
  end
  local ids, wait = fired[1], fired[2]
  if #ids > 0 then
    log.info("periodic job pushed", { periodic = entry.name, job = ids[#ids], jobs = #ids })
    storage:wake()
  end
  return wait or RETRY_SECONDS
end

--- Body of a task: fires the entries when they are due, until it is cancelled.
---@param storage nebula.Storage
---@param entries fun(): nebula.PeriodicEntry[] asked again each time, as they may be read anew
---@param log nebula.log.logger
function periodic.follow(storage, entries, log)
  local due = {} -- when each entry's row is looked at next, by the clock of this process
  while true do
    local now, wait = nebula.time.monotonic(), RETRY_SECONDS
    for _, entry in ipairs(entries()) do
      if now >= (due[entry] or 0) then
        due[entry] = now + math.min(fire_and_tell(storage, entry, log), LOOK_SECONDS)
      end
      wait = math.min(wait, due[entry] - now)
    end
    nebula.task.sleep(math.max(wait, 0.01))
  end
end

--- The entries with their last and next firings.
---@param db nebula.pg.Pool
---@param entries nebula.PeriodicEntry[]
---@return {name: string, what: string, cron: string, zone: string, missed: string, fired_at?: string,
---  next: string, job?: string}[]
function periodic.list(db, entries)
  local rows, known = {}, {}
  for _, row in ipairs(db:query "SELECT * FROM job_periodic") do known[row.name] = row end
  local now = db:value "SELECT extract(epoch FROM clock_timestamp())::float8"
  for i, entry in ipairs(entries) do
    local row = known[entry.name] or {}
    rows[i] = {
      name = entry.name, what = entry.what, cron = entry.cron.text, zone = entry.cron.zone, missed = entry.missed,
      fired_at = row.job and row.fired_at, job = row.job,
      next = nebula.time.format(entry.cron:next(now), entry.cron.zone),
    }
  end
  return rows
end

return periodic
