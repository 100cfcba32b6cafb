-- tasks.lua: admin tasks: Lua files that look after a live system, by hand or on a schedule.
--
-- A file tasks/NAME.lua returns `{summary=, destructive=, options=, preview=, run=}`. The frame gives
-- every task the same manners: declared options, a lock so that one runs at a time, a preview that
-- cannot write, a confirmation where something is destroyed, batches that leave room for others.
local nebula = require "nebula"
local options = require "nebula.options"
local raise = require "nebula.raise"

local tasks = {}

local FIELDS = {
  summary = "string", description = "string", destructive = "boolean", options = "table", preview = "function",
  run = "function",
}
local FIRST_BATCH, LARGEST_BATCH = 100, 100000
local TARGET_SECONDS = 0.1
local REST = 0.1 -- of a batch's time, left to others after it

---@class nebula.AdminTask
---@field name string
---@field path string
---@field summary? string
---@field destructive? boolean
---@field options table<string, nebula.Option>
---@field preview? fun(ctx: nebula.TaskContext, opts: table): table
---@field run fun(ctx: nebula.TaskContext, opts: table): any

---@class nebula.TaskContext
---@field db nebula.pg.Pool in a preview: a read-only transaction
---@field storage nebula.Storage
---@field blobs nebula.Blobs
---@field log nebula.log.logger
---@field progress fun(done: number, total?: number, unit?: string)
---@field batches fun(fn: (fun(limit: integer): integer), opts?: {target: number}): integer
---@field throttle fun()
---@field checkpoint nebula.Checkpoint

-- ---- finding ----

local function directories()
  local list = {}
  for template in package.path:gmatch "[^;]+" do
    local directory = template:match "^(.*)/%?%.lua$"
    if directory then list[#list + 1] = directory .. "/tasks" end
  end
  return list
end

--- The names of every task, sorted.
---@return string[]
function tasks.names()
  local system = require "nebula.system"
  local names, seen = {}, {}
  for _, directory in ipairs(directories()) do
    for _, file in ipairs(system.list(directory) or {}) do
      local name = file:match "^([%w_-]+)%.lua$"
      if name and not seen[name] then
        seen[name], names[#names + 1] = true, name
      end
    end
  end
  table.sort(names)
  return names
end

local function find(name)
  if name:find "/" or name:find "%.lua$" then return name end
  for _, directory in ipairs(directories()) do
    local path = ("%s/%s.lua"):format(directory, name)
    local file = io.open(path, "rb")
    if file then
      file:close()
      return path
    end
  end
  raise("config", "there is no task %q%s; `nebula task` lists them", name, options.did_you_mean(name, tasks.names()))
end

--- Loads a task by name or path. Raises `config` (no such task), `script` (it is broken).
---@param name string
---@return nebula.AdminTask
function tasks.load(name)
  local path = find(name)
  local chunk, message = loadfile(path, "t")
  if not chunk then raise("script", "%s", message) end
  local task, err = nebula.try(chunk)
  if err then raise("script", "%s: it failed while it was loaded: %s", path, err.message or tostring(err)) end
  if type(task) ~= "table" or type(task.run) ~= "function" then
    raise("script", "%s: a task returns a table with `run`", path)
  end
  for field, value in pairs(task) do
    if not FIELDS[field] then
      local names = {}
      for known in pairs(FIELDS) do names[#names + 1] = known end
      raise("script", "%s: unknown field %s%s", path, tostring(field), options.did_you_mean(tostring(field), names))
    elseif type(value) ~= FIELDS[field] then
      raise("script", "%s: %s is a %s, not %s", path, field, FIELDS[field], type(value))
    end
  end
  task.name, task.path, task.options = path:match "([^/]+)%.lua$" or name, path, task.options or {}
  return task
end

-- ---- the context ----

---@class nebula.Checkpoint
local Checkpoint = {}
Checkpoint.__index = Checkpoint

--- What was saved last, or nil.
---@return any
function Checkpoint:load() return self.db:value("SELECT value FROM task_checkpoints WHERE task = $1", self.task) end

--- Saves where the task is, in a transaction of its work where one is given. nil forgets it.
---@param value any
---@param tx? nebula.pg.Connection
function Checkpoint:save(value, tx)
  if value == nil then
    (tx or self.db):exec("DELETE FROM task_checkpoints WHERE task = $1", self.task)
    return
  end
  (tx or self.db):exec([[
    INSERT INTO task_checkpoints (task, value)
    VALUES ($1, $2)
    ON CONFLICT (task)
    DO UPDATE SET value = excluded.value, updated_at = now()
  ]], self.task, nebula.pg.json(value))
end

-- Calls fn(limit) until it returns 0; the limit moves so that a call takes about `target` seconds.
local function batches(progress, fn, opts)
  local target = opts and opts.target or TARGET_SECONDS
  local limit, total = FIRST_BATCH, 0
  while true do
    local started = nebula.time.monotonic()
    local count = fn(limit)
    if math.type(count) ~= "integer" then
      raise("script", "ctx.batches: the function returns how many rows it did, not %s", tostring(count))
    end
    if count == 0 then return total end
    local elapsed = nebula.time.monotonic() - started
    total = total + count
    progress(total)
    local factor = math.max(0.5, math.min(2, target / math.max(elapsed, 1e-4)))
    limit = math.max(1, math.min(LARGEST_BATCH, math.floor(limit * factor)))
    nebula.task.sleep(elapsed * REST)
  end
end

local function context(storage, task, db, quiet)
  local bar
  local function progress(done, total, unit)
    if quiet then return end
    bar = bar or require("nebula.ui").progress { label = task.name, total = total, unit = unit or "rows" }
    bar:update(done, total)
  end
  local ctx = {
    db = db, storage = storage, log = nebula.log.with { task = task.name }, progress = progress,
    batches = function(fn, opts) return batches(progress, fn, opts) end,
    throttle = function() nebula.task.sleep(TARGET_SECONDS * REST) end,
    checkpoint = setmetatable({ db = db, task = task.name }, Checkpoint),
  }
  setmetatable(ctx, { __index = function(_, name)
    if name == "blobs" then return storage.blobs end
  end })
  return ctx, function() if bar then bar:finish() end end
end

-- ---- running ----

-- Takes the task's lock until the returned value is closed, or the connection ends.
local function try_lock(connection, task)
  if not connection:value("SELECT pg_try_advisory_lock(hashtextextended('nebula task ' || $1, 0))", task.name) then
    raise("conflict", "task %s is running already; one runs at a time", task.name)
  end
  return setmetatable({}, { __close = function()
    nebula.try(connection.value, connection, "SELECT pg_advisory_unlock(hashtextextended('nebula task ' || $1, 0))",
      task.name)
  end })
end

--- What the task would do, by its `preview`, in a read-only transaction. nil where it has none.
---@param storage nebula.Storage
---@param task nebula.AdminTask
---@param opts table
---@return table?
function tasks.preview(storage, task, opts)
  if not task.preview then return nil end
  return storage.db:transaction(function(tx)
    return task.preview(context(storage, task, tx, true), opts)
  end, { read_only = true })
end

--- Runs a task, under its lock. Raises `conflict` where it runs already, and what it raises.
---@param storage nebula.Storage
---@param task nebula.AdminTask|string
---@param given? table its options
---@param settings? {progress: boolean}
---@return any result what the task returned
function tasks.run(storage, task, given, settings)
  if type(task) == "string" then task = tasks.load(task) end
  local opts = options.coerce(task.options, given, task.name)
  local connection <close> = storage.db:acquire()
  local _ <close> = try_lock(connection, task)
  local ctx, finish = context(storage, task, storage.db, not (settings and settings.progress))
  local _ <close> = setmetatable({}, { __close = finish })
  return task.run(ctx, opts)
end

return tasks
