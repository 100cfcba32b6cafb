-- tasks/context.lua: what a running admin task is given: `ctx`.
local nebula = require "nebula"
local raise = require "nebula.raise"
local throttle = require "nebula.throttle"

local FIRST_BATCH, LARGEST_BATCH = 100, 100000
local TARGET_SECONDS = 0.1
local REST = 0.1 -- of a batch's time, left to others after it
local LOCK_SECONDS = 1 -- between two looks whether the task's lock is still held
local MOST_LAG, MOST_ACTIVE = 5, 64 -- seconds of a replica, statements at the server

---@class nebula.TaskContext
---@field db nebula.pg.Pool in a preview: a read-only transaction
---@field storage nebula.Storage
---@field blobs nebula.Blobs
---@field log nebula.log.logger
---@field progress fun(done: number, total?: number, unit?: string)
---@field checkpoint nebula.Checkpoint
local Context = {}

-- ---- checkpoints ----

---@class nebula.Checkpoint
local Checkpoint = {}
Checkpoint.__index = Checkpoint

--- What was saved last, or nil. Waits for a transaction that holds it: that of a killed run may still
--- be about to commit.
---@return any
function Checkpoint:load()
  return self.db:value("SELECT value FROM task_checkpoints WHERE task = $1 FOR UPDATE", self.task)
end

--- Keeps the next run from loading it until this transaction has ended.
---@param tx nebula.pg.Connection
function Checkpoint:hold(tx) tx:exec("SELECT FROM task_checkpoints WHERE task = $1 FOR UPDATE", self.task) end

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

--- Another one of this task, for work that runs beside the first.
---@param name string
---@return nebula.Checkpoint
function Checkpoint:slot(name) return setmetatable({ db = self.db, task = self.task .. " " .. name }, Checkpoint) end

-- ---- batches ----

--- The place between two batches: ends the task where somebody asked for that (Ctrl-C), and waits
--- while replicas fall behind, the server is busy, or the table named is vacuumed. A task that has lost
--- its lock ends here.
--- Raises `cancelled`, and `database` where the connection with the lock has ended.
---@param took? number seconds of the last batch, of which a tenth is left to others
---@param table_name? string
function Context:pause(took, table_name)
  if self.stop_asked() then
    raise("cancelled", "task %s was interrupted between two batches; run it again to go on", self.task_name)
  end
  took = took or TARGET_SECONDS
  local known = self.throttles[table_name or ""]
  if not known then
    known = throttle.new { table = table_name, max_lag = MOST_LAG, max_active = MOST_ACTIVE,
      log = self.log.info, label = "task " .. self.task_name }
    self.throttles[table_name or ""] = known
  end
  known:rest(self.db, took)
  self:check_lock()
  nebula.task.sleep(took * REST)
end

-- Asks the connection that holds the lock, now and then.
function Context:check_lock()
  local now = nebula.time.monotonic()
  if not self.lock_held or now - self.lock_seen < LOCK_SECONDS then return end
  self.lock_held()
  self.lock_seen = now
end

--- Calls fn(limit) until it returns 0: how many rows it did. The limit moves so that a call takes about
--- `target` seconds (0.1). Between two calls: progress, throttle, Ctrl-C.
---@param fn fun(limit: integer): integer
---@param opts? {target?: number, total?: integer, table?: string, unit?: string} table: its vacuum slows it down
---@return integer rows
function Context:batch_all(fn, opts)
  opts = opts or {}
  local target = opts.target or TARGET_SECONDS
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
    self.progress(total, opts.total, opts.unit)
    local factor = math.max(0.5, math.min(2, target / math.max(elapsed, 1e-4)))
    limit = math.max(1, math.min(LARGEST_BATCH, math.floor(limit * factor)))
    self:pause(elapsed, opts.table)
  end
end

local BLOCKS = "SELECT pg_relation_size($1::regclass) / current_setting('block_size')::int"
local FIRST_BLOCKS = 64

--- Goes once over a table as it lies on the disk: fn(from, to) is given a range of its ctids, does what
--- there is to do (`WHERE ctid >= $1::tid AND ctid < $2::tid`) and returns how many rows it did. So each
--- batch costs what it reads, whatever the conditions. What is added meanwhile is left.
---@param table_name string
---@param fn fun(from: string, to: string): integer
---@param opts? {target?: number}
---@return integer rows
function Context:walk_all(table_name, fn, opts)
  local target = opts and opts.target or TARGET_SECONDS
  local last = self.db:value(BLOCKS, table_name)
  local at, size, total = 0, FIRST_BLOCKS, 0
  while at < last do
    local to = math.min(at + size, last)
    local started = nebula.time.monotonic()
    total = total + fn(("(%d,0)"):format(at), ("(%d,0)"):format(to))
    local elapsed = nebula.time.monotonic() - started
    at = to
    self.progress(at, last, "blocks")
    size = math.max(1, math.floor(size * math.max(0.5, math.min(2, target / math.max(elapsed, 1e-4)))))
    self:pause(elapsed, table_name)
  end
  return total
end

-- ---- making one ----

local context = {}

--- A task's context, and what ends its progress bar.
---@param storage nebula.Storage
---@param task nebula.AdminTask
---@param db nebula.pg.Pool|nebula.pg.Transaction
---@param settings {progress?: boolean|"json", stop_asked?: fun(): boolean}
---@param lock_held? fun() raises where the task's lock has ended
---@return nebula.TaskContext
---@return fun() finish
function context.new(storage, task, db, settings, lock_held)
  local bar, bar_unit
  local self = {
    db = db, storage = storage, task_name = task.name, log = nebula.log.with { task = task.name }, throttles = {},
    checkpoint = setmetatable({ db = db, task = task.name }, Checkpoint),
    stop_asked = settings.stop_asked or function() return false end,
    lock_held = lock_held, lock_seen = nebula.time.monotonic(),
  }
  function self.progress(done, total, unit)
    if not settings.progress then return end
    unit = unit or "rows"
    if bar and bar_unit ~= unit then -- another part of the work begins
      bar:finish()
      bar = nil
    end
    bar = bar or require("nebula.ui").progress { label = task.name, total = total, unit = unit,
      json = settings.progress == "json" }
    bar_unit = unit
    bar:update(done, total)
  end
  function self.batches(fn, opts) return Context.batch_all(self, fn, opts) end
  function self.walk(table_name, fn, opts) return Context.walk_all(self, table_name, fn, opts) end
  function self.throttle(took, table_name) return Context.pause(self, took, table_name) end
  setmetatable(self, { __index = function(_, name)
    if name == "blobs" then return storage.blobs end
    return Context[name]
  end })
  return self, function() if bar then bar:finish() end end
end

return context
