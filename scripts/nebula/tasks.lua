-- tasks.lua: admin tasks: Lua files that look after a live system, by hand or on a schedule.
--
-- A file tasks/NAME.lua returns `{summary=, destructive=, read_only=, options=, preview=, run=}`. The
-- frame gives every task the same manners: declared options, a lock so that one runs at a time, a
-- preview that cannot write, a confirmation where something is destroyed, batches that leave room for
-- others (tasks/context.lua).
local advisory = require "nebula.advisory"
local context = require "nebula.tasks.context"
local nebula = require "nebula"
local options = require "nebula.options"
local project = require "nebula.project"
local raise = require "nebula.raise"

local tasks = {}

local FIELDS = {
  summary = "string", description = "string", destructive = "boolean", read_only = "boolean", options = "table",
  preview = "function", run = "function",
}
---@class nebula.AdminTask
---@field name string
---@field path string
---@field summary? string
---@field destructive? boolean asks first
---@field read_only? boolean changes nothing: a dry run is a run
---@field options table<string, nebula.Option>
---@field preview? fun(ctx: nebula.TaskContext, opts: table): table
---@field run fun(ctx: nebula.TaskContext, opts: table): any

-- ---- finding ----

local function find(name)
  if name:find "/" or name:find "%.lua$" then return name end
  for _, found in ipairs(project.scripts "tasks") do
    if found.name == name then return found.path end
  end
  raise("config", "there is no task %q%s (`nebula task` lists them)", name,
    options.did_you_mean(name, project.names "tasks"))
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

-- ---- running ----

-- Takes the task's lock until the returned value is closed, or the connection ends. `check` raises where
-- it has ended: somebody else may run the task by now.
local function lock(connection, task)
  local key = advisory.key("nebula task " .. task.name)
  if not advisory.try(connection, key) then
    local holder = advisory.holder(connection, key)
    raise("conflict", "task %s is running already%s; one runs at a time, over all hosts", task.name,
      holder and ": " .. advisory.described(holder) or "")
  end
  local function check()
    local _, err = nebula.try(connection.exec, connection, "SELECT")
    if not err then return end
    raise(err.kind, "task %s lost its lock with the connection that held it (%s); run it again to go on", task.name,
      err.message)
  end
  return setmetatable({ check = check }, { __close = function() advisory.unlock(connection, key) end })
end

--- What the task would do, by its `preview`, in a read-only transaction; a task that only reads is
--- run. nil where nothing can tell.
---@param storage nebula.Storage
---@param task nebula.AdminTask
---@param given? table its options
---@return table?
function tasks.preview(storage, task, given)
  local look = task.preview or task.read_only and task.run
  if not look then return nil end
  local opts = options.coerce(task.options, given, task.name)
  return storage.db:transaction(function(tx)
    return look(context.new(storage, task, tx, {}), opts)
  end, { read_only = true })
end

--- Runs a task, under its lock. Raises `conflict` where it runs already, and names who runs it;
--- `cancelled` where `stop_asked` answered true between two batches; and what the task raises.
---@param storage nebula.Storage
---@param task nebula.AdminTask|string
---@param given? table its options
---@param settings? {progress?: boolean|"json", stop_asked?: fun(): boolean}
---@return any result what the task returned
---@return boolean? fine false where it found something wrong: the exit status is 1 then
function tasks.run(storage, task, given, settings)
  if type(task) == "string" then task = tasks.load(task) end
  local opts = options.coerce(task.options, given, task.name)
  local connection <close> = storage.db:acquire { name = "task " .. task.name }
  local held <close> = lock(connection, task)
  local ctx, finish = context.new(storage, task, storage.db, settings or {}, held.check)
  local _ <close> = setmetatable({}, { __close = finish })
  return task.run(ctx, opts)
end

return tasks
