-- migrate/run.lua: runs one migration's steps, up or down, so that whatever ends it can be followed
-- by another run.
--
-- A migration runs in one transaction with its row of the history. One with `transaction=false` goes
-- step by step: SQL in a transaction with the row that says it is done, unless the server refuses
-- that (CREATE INDEX CONCURRENTLY, VACUUM); such a step is marked before it begins, and what its
-- interruption left, an invalid index, is dropped before it begins again.
--
-- No lock is waited for longer than `lock_timeout`: who waits for a table's lock holds up everybody
-- behind. The migration, or the step, is then tried again after a pause, which grows and is random.
-- CONCURRENTLY waits for others without holding anybody up, and so as long as it takes. The index of
-- an empty table is built at once instead, in the step's transaction: there is nothing to wait for.
local backfill = require "nebula.migrate.backfill"
local history = require "nebula.migrate.history"
local lock = require "nebula.migrate.lock"
local nebula = require "nebula"
local sql = require "nebula.migrate.sql"

local run = {}

local NO_TRANSACTION = { ["25001"] = true, ["2D000"] = true }
local TRIED_AGAIN = { ["55P03"] = true, ["40P01"] = true } -- a lock not had in time, a deadlock
local LONGEST_PAUSE = 10

---@class nebula.MigrationWork
---@field held nebula.MigrationLock
---@field log fun(line: string)
---@field progress? fun(label: string, total: integer): nebula.ui.Bar
---@field lock_timeout number seconds; 0: none
---@field patience number seconds in which a lock is tried for again
---@field api table what function steps get as `migrate`
---@field trial? boolean nothing is kept

--- What a person calls a migration.
function run.label(migration) return ("V%d__%s"):format(migration.version, migration.name) end

local function set_lock_timeout(connection, seconds)
  connection:exec(("SET lock_timeout = %d"):format(math.floor(seconds * 1000)))
end

-- The second argument of a function step: the module, with a backfill that knows where it runs.
local function context(work, migration, index, held)
  local count = 0
  return setmetatable({
    backfill = function(db, opts)
      count = count + 1
      return backfill.run(db, opts, {
        name = ("%s/V%d/%d/%d"):format(migration.series, migration.version, index, count),
        log = work.log, progress = work.progress, held = held, trial = work.trial,
      })
    end,
  }, { __index = work.api })
end

local function raise_failed(err, migration, index, count, direction, kept)
  if err.kind == "cancelled" then error(err, 0) end
  error(nebula.error {
    kind = "migration", code = err.code, source = err.source, detail = err.detail, retryable = err.retryable,
    message = ("%s, step %d of %d%s: %s; nothing of this %s was kept"):format(migration.path, index, count,
      direction == "down" and " down" or "", tostring(err.message or err), kept),
  }, 0)
end

-- The step as it may run in a transaction: an index that is asked for CONCURRENTLY on an empty table.
local function at_once(connection, step)
  local statements = type(step) == "string" and sql.statements(step) or {}
  local made = #statements == 1 and sql.index(statements[1])
  if not made or not made.concurrently then return nil end
  if connection:value("SELECT pg_relation_size(to_regclass($1))", made.table) ~= 0 then return nil end
  local head, rest = statements[1].text:match "^(%a+%s+[%a%s]-)[Cc][Oo][Nn][Cc][Uu][Rr][Rr][Ee][Nn][Tt][Ll][Yy]%s+(.*)$"
  return head and head .. rest
end

local function run_step(work, connection, migration, index, direction, held, text)
  local step = text or migration[direction][index]
  local _, err = nebula.try(function()
    if type(step) == "function" then
      step(connection, context(work, migration, index, held))
    else
      connection:exec(step)
    end
  end)
  if err then
    raise_failed(err, migration, index, #migration[direction], direction,
      migration.transaction and "migration" or "step")
  end
end

-- ---- waiting for locks ----

-- Calls fn; meanwhile looks once who holds it up. Returns nil or the error, and those words.
local function watched(work, fn)
  local blockers
  local _, err = nebula.try(nebula.task.scope, function(scope)
    scope:spawn(function()
      nebula.task.sleep(work.lock_timeout / 2)
      blockers = nebula.try(lock.blockers, work.held.connection, work.held.pid)
    end)
    fn()
    scope:cancel()
  end)
  return err, blockers
end

-- Calls fn, and again for as long as a lock cannot be had in time.
local function patiently(work, what, fn)
  if work.lock_timeout == 0 then return fn() end
  local last = nebula.time.monotonic() + work.patience
  local pause = work.lock_timeout / 2
  while true do
    local err, blockers = watched(work, fn)
    if not err then return end
    if not TRIED_AGAIN[err.code] then error(err, 0) end
    local seconds = pause * (0.5 + math.random())
    local waits = ("%s waited %g s for a lock%s"):format(what, work.lock_timeout,
      blockers and " that is held by " .. blockers or "")
    if nebula.time.monotonic() + seconds > last then
      error(nebula.error { kind = "migration", code = err.code, source = err.source, retryable = true,
        message = ("%s: %s; given up after %g s"):format(err.message, waits, work.patience) }, 0)
    end
    work.log(("%s; lets the others pass, again in %.1f s"):format(waits, seconds))
    nebula.task.sleep(seconds)
    pause = math.min(pause * 2, LONGEST_PAUSE)
  end
end

-- ---- steps outside of a transaction ----

local INDEXES = [[
  SELECT i.indexrelid::regclass::text AS name, i.indisvalid AS valid
  FROM pg_index i
  JOIN pg_class c ON c.oid = i.indexrelid
  WHERE i.indrelid = to_regclass($1) AND c.relname = $2
]]

-- Before an index is built (again): drops an invalid one of its name. True where an interrupted run
-- had finished it already.
local function prepare_index(work, migration, index, interrupted)
  local connection, there = work.held.work, false
  for _, statement in ipairs(sql.statements(migration.up[index])) do
    local made = sql.index(statement)
    local row = made and made.concurrently and made.name and connection:one(INDEXES, made.table, made.name)
    if row and not row.valid then
      work.log(("%s: dropping the invalid index %s that an interruption left"):format(run.label(migration), row.name))
      connection:exec("DROP INDEX CONCURRENTLY " .. row.name)
    elseif row and interrupted then
      there = true
    end
  end
  return there
end

local function is_concurrent(step)
  for _, statement in ipairs(sql.statements(step)) do
    if statement.plain:find "%f[%w_]CONCURRENTLY%f[^%w_]" then return true end
  end
  return false
end

local function finish_step(connection, migration, index, started)
  history.record(connection, migration, index, nebula.time.monotonic() - started)
end

-- SQL that the server refuses to run in a transaction.
local function apply_alone(work, migration, index, interrupted, started)
  local connection = work.held.work
  if not prepare_index(work, migration, index, interrupted) then
    history.mark(connection, migration, index)
    local concurrent = is_concurrent(migration.up[index])
    if concurrent then set_lock_timeout(connection, 0) end
    local _, err = nebula.try(run_step, work, connection, migration, index, "up")
    if concurrent then set_lock_timeout(connection, work.lock_timeout) end
    if err then
      -- where the connection is lost, the next run does this
      nebula.try(prepare_index, work, migration, index, false)
      nebula.try(history.mark, connection, migration, 0)
      error(err, 0)
    end
  end
  finish_step(connection, migration, index, started)
end

local function apply_step(work, migration, index, interrupted)
  local connection, step = work.held.work, migration.up[index]
  local started = nebula.time.monotonic()
  local function record(tx) finish_step(tx, migration, index, started) end
  if type(step) == "function" then
    run_step(work, connection, migration, index, "up", false)
    return connection:transaction(function(tx)
      record(tx)
      if tx:value "SELECT to_regclass('nebula_schema_backfills')::text" then
        backfill.forget(tx, ("%s/V%d/%d/"):format(migration.series, migration.version, index))
      end
    end)
  end
  local plain = not is_concurrent(step) and step or not interrupted and at_once(connection, step)
  if plain then
    local _, err = nebula.try(connection.transaction, connection, function(tx)
      run_step(work, tx, migration, index, "up", true, plain)
      record(tx)
    end)
    if not err then return end
    if not NO_TRANSACTION[err.code] then error(err, 0) end
  end
  apply_alone(work, migration, index, interrupted, started)
end

-- ---- whole migrations ----

local function undo_steps(work, migration, row)
  local connection = work.held.work
  for i = (row.undone or 0) + 1, #migration.down do
    patiently(work, run.label(migration), function()
      local step = migration.down[i]
      local function undone(tx)
        if i == #migration.down then history.remove(tx, migration) else history.undo(tx, migration, i) end
      end
      if type(step) == "string" and not is_concurrent(step) then
        local _, err = nebula.try(connection.transaction, connection, function(tx)
          run_step(work, tx, migration, i, "down", true)
          undone(tx)
        end)
        if not err then return end
        if not NO_TRANSACTION[err.code] then error(err, 0) end
      end
      if type(step) == "string" then set_lock_timeout(connection, 0) end
      local _, err = nebula.try(run_step, work, connection, migration, i, "down", false)
      set_lock_timeout(connection, work.lock_timeout)
      if err then error(err, 0) end
      undone(connection)
    end)
  end
end

-- All in one transaction. What the first steps have locked stays locked while the later ones wait: so
-- they share one lock_timeout, of which a tenth is left to each that begins late.
local function all_steps(work, tx, migration, direction)
  local started = nebula.time.monotonic()
  for i = 1, #migration[direction] do
    if i > 1 and work.lock_timeout > 0 then
      local left = work.lock_timeout - (nebula.time.monotonic() - started)
      tx:exec(("SET LOCAL lock_timeout = %d"):format(math.ceil(math.max(left, work.lock_timeout / 10) * 1000)))
    end
    run_step(work, tx, migration, i, direction, true)
  end
end

--- Prepares the connection that works.
---@param work nebula.MigrationWork
function run.begin(work)
  local connection = work.held.work
  set_lock_timeout(connection, work.lock_timeout)
  connection:exec "SET statement_timeout = 0"
end

--- Applies a migration, or what is left of it.
---@param work nebula.MigrationWork
---@param migration nebula.Migration
---@param row? nebula.MigrationRow
---@return number seconds
function run.apply(work, migration, row)
  local connection, started = work.held.work, nebula.time.monotonic()
  if row and (row.undone or 0) > 0 then
    work.log(run.label(migration) .. " was being undone: that is finished first")
    undo_steps(work, migration, row)
    row = nil
  end
  if migration.transaction then
    patiently(work, run.label(migration), function()
      connection:transaction(function(tx)
        all_steps(work, tx, migration, "up")
        history.record(tx, migration, #migration.up, nebula.time.monotonic() - started)
      end)
    end)
  else
    if not row then history.record(connection, migration, 0, 0) end
    for i = (row and row.steps or 0) + 1, #migration.up do
      local interrupted = row ~= nil and row.running == i
      patiently(work, run.label(migration), function() apply_step(work, migration, i, interrupted) end)
    end
  end
  return nebula.time.monotonic() - started
end

--- Undoes a migration.
---@param work nebula.MigrationWork
---@param migration nebula.Migration
---@param row nebula.MigrationRow
---@return number seconds
function run.undo(work, migration, row)
  local started = nebula.time.monotonic()
  if migration.transaction then
    patiently(work, run.label(migration), function()
      work.held.work:transaction(function(tx)
        all_steps(work, tx, migration, "down")
        history.remove(tx, migration)
      end)
    end)
  else
    undo_steps(work, migration, row)
  end
  return nebula.time.monotonic() - started
end

--- Runs a migration's steps inside a transaction that somebody rolls back. Steps that no transaction
--- takes are passed over, and named.
---@param work nebula.MigrationWork
---@param tx nebula.pg.Connection
---@param migration nebula.Migration
---@param direction "up"|"down"
---@param from integer the first step
---@return number seconds
function run.try(work, tx, migration, direction, from)
  local started, steps = nebula.time.monotonic(), migration[direction]
  for i = from, #steps do
    local _, err = nebula.try(tx.transaction, tx, function(savepoint)
      run_step(work, savepoint, migration, i, direction, true, at_once(savepoint, steps[i]))
    end)
    if err and not (NO_TRANSACTION[err.code] and not migration.transaction) then error(err, 0) end
    if err then work.log(("%s, step %d: not tried, it runs in no transaction"):format(run.label(migration), i)) end
  end
  return nebula.time.monotonic() - started
end

return run
