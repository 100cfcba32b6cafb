-- executions.lua: the runs of workflows, their state and its checked changes. The functions are
-- methods of a Storage.
--
-- A status changes along TRANSITIONS only, compared and set in one statement, and each change leaves
-- a row in execution_history.
local check = require "nebula.check"
local filter = require "nebula.filter"
local nebula = require "nebula"
local raise = require "nebula.raise"

local executions = {}

local STATUSES = { "created", "running", "paused", "cancelling", "completed", "failed", "cancelled", "timed_out" }

local TRANSITIONS = {
  created = { "running", "cancelling", "cancelled", "failed", "timed_out" },
  running = { "paused", "cancelling", "completed", "failed", "cancelled", "timed_out" },
  paused = { "running", "cancelling", "failed", "cancelled", "timed_out" },
  cancelling = { "cancelled", "completed", "failed", "timed_out" },
  completed = {},
  failed = {},
  cancelled = {},
  timed_out = {},
}

local ENDED = { completed = true, failed = true, cancelled = true, timed_out = true }

-- "from>to" of every legal change, and by target the statuses it may come from.
local LEGAL, SOURCES = {}, {}
for _, from in ipairs(STATUSES) do
  for _, to in ipairs(TRANSITIONS[from]) do
    LEGAL[#LEGAL + 1] = from .. ">" .. to
    SOURCES[to] = SOURCES[to] or {}
    table.insert(SOURCES[to], from)
  end
end

local FILTERS = {
  id = { column = "id" },
  workflow_id = { column = "workflow_id" },
  status = { column = "status", choices = STATUSES },
  idempotency_key = { column = "idempotency_key" },
}

local CREATE_FIELDS = { id = true, workflow_id = true, state = true, idempotency_key = true }
local CHANGE_FIELDS = { id = true, status = true, state = true, error = true }

---@class nebula.Execution
---@field id string
---@field workflow_id string
---@field status "created"|"running"|"paused"|"cancelling"|"completed"|"failed"|"cancelled"|"timed_out"
---@field started_at string
---@field completed_at? string
---@field state table
---@field error? string
---@field created_at string
---@field updated_at string

-- ---- creating ----

local CREATE = [[
  INSERT INTO executions (id, workflow_id, state, idempotency_key, fingerprint)
  SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::jsonb[], $4::text[], $5::text[])
  ON CONFLICT DO NOTHING
  RETURNING *
]]

local function arguments(what, list)
  local ids, workflow_ids, states, keys, prints = {}, {}, {}, {}, {}
  for i, given in ipairs(list) do
    check.fields(what, given, CREATE_FIELDS)
    local state = check.object(what .. ": state", given.state or {})
    ids[i] = given.id and check.uuid(what .. ": id", given.id) or nebula.crypto.uuid_v7()
    workflow_ids[i] = check.uuid(what .. ": workflow_id", given.workflow_id)
    states[i] = state
    if given.idempotency_key then
      local sorted = nebula.json.encode({ given.workflow_id:lower(), given.state or {} }, { sort_keys = true })
      keys[i] = check.text(what .. ": idempotency_key", given.idempotency_key, 500)
      prints[i] = nebula.crypto.sha256(sorted)
    else
      keys[i], prints[i] = nebula.null, nebula.null
    end
  end
  return ids, workflow_ids, states, keys, prints
end

local function insert(db, what, ...)
  local rows, err = nebula.try(db.query, db, CREATE, ...)
  if not err then return rows end
  if err.code == "23503" then raise("not_found", "%s: there is no such workflow", what) end
  error(err, 0)
end

-- The execution that an earlier request with the same key has made.
local function find_same(db, what, key, print_of_this)
  local row = db:one("SELECT * FROM executions WHERE idempotency_key = $1", key)
  if not row then raise("conflict", "%s: an execution with this id exists", what) end
  if row.fingerprint ~= print_of_this then
    raise("conflict", "%s: idempotency_key %q was used for another request (execution %s)", what, key, row.id)
  end
  return row
end

--- Creates an execution in status `created`. With an `idempotency_key` the same request gives the
--- same execution again, and another request under that key is a `conflict`.
--- Raises `validation`, `not_found` (the workflow), `conflict`.
---@param execution {workflow_id: string, state?: table, id?: string, idempotency_key?: string}
---@param db? nebula.pg.Transaction the caller's transaction
---@return nebula.Execution
function executions.create_execution(self, execution, db)
  local what = "create_execution"
  db = db or self.db
  local ids, workflow_ids, states, keys, prints = arguments(what, { execution })
  local row = insert(db, what, ids, workflow_ids, states, keys, prints)[1]
  if row then return row end
  if keys[1] == nebula.null then raise("conflict", "%s: execution %s exists", what, ids[1]) end
  return find_same(db, what, keys[1], prints[1])
end

--- Creates many in one round trip; those whose idempotency_key is taken are left out.
---@param list {workflow_id: string, state?: table, id?: string, idempotency_key?: string}[]
---@param db? nebula.pg.Transaction the caller's transaction
---@return nebula.Execution[] created
function executions.create_executions(self, list, db)
  if #list == 0 then return {} end
  return insert(db or self.db, "create_executions", arguments("create_executions", list))
end

-- ---- reading ----

---@param id string
---@return nebula.Execution?
function executions.get_execution(self, id)
  return self.db:one("SELECT * FROM executions WHERE id = $1", check.id("get_execution", id))
end

--- A page of executions, the newest ids first; `after` is the last row of the page before, or its id.
---@param given? {status?: string|string[], workflow_id?: string, id?: string|string[], limit?: integer, after?: any}
---@return nebula.Execution[]
function executions.list_executions(self, given)
  return filter.page(self.db, "list_executions", "executions", given, FILTERS)
end

--- Every change of status so far, the oldest first.
---@param id string
---@return {at: string, from_status?: string, to_status: string, error?: string}[]
function executions.execution_history(self, id)
  return self.db:query([[
    SELECT at, from_status, to_status, error
    FROM execution_history
    WHERE execution_id = $1
    ORDER BY seq
  ]], check.id("execution_history", id))
end

-- ---- changing ----

-- One statement: locks the rows in the order of their ids (two batches never deadlock), finds what is
-- missing or illegal, and changes all or nothing. clear marks rows whose error becomes NULL.
local CHANGE = [[
  WITH given AS (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::jsonb[], $4::text[], $5::boolean[])
      AS g (id, status, state, error, clear)
  ), old AS (
    SELECT id, status FROM executions WHERE id = ANY ($1) ORDER BY id FOR UPDATE
  ), bad AS (
    SELECT g.id, old.status AS from_status, g.status AS to_status
    FROM given g LEFT JOIN old USING (id)
    WHERE old.id IS NULL
    OR g.status IS NOT NULL AND g.status <> old.status AND NOT old.status || '>' || g.status = ANY ($6::text[])
  ), changed AS (
    UPDATE executions e
    SET status = coalesce(g.status, e.status),
      state = coalesce(g.state, e.state),
      error = CASE WHEN g.clear THEN NULL ELSE coalesce(g.error, e.error) END,
      started_at = CASE WHEN g.status = 'running' AND old.status = 'created' THEN clock_timestamp()
        ELSE e.started_at END,
      completed_at = CASE WHEN g.status = ANY ($7::text[]) THEN coalesce(e.completed_at, clock_timestamp())
        ELSE e.completed_at END,
      updated_at = clock_timestamp()
    FROM given g JOIN old USING (id)
    WHERE e.id = g.id
    AND NOT EXISTS (SELECT FROM bad)
    RETURNING e.id, old.status AS from_status, e.status AS to_status, g.error
  ), logged AS (
    INSERT INTO execution_history (execution_id, from_status, to_status, error)
    SELECT id, from_status, to_status, error
    FROM changed
    WHERE from_status <> to_status
  )
  SELECT (SELECT count(*) FROM changed) AS changed, bad.id, bad.from_status, bad.to_status
  FROM (SELECT) one LEFT JOIN (SELECT * FROM bad LIMIT 1) bad ON true
]]

local ENDED_LIST = {}
for status in pairs(ENDED) do ENDED_LIST[#ENDED_LIST + 1] = status end
table.sort(ENDED_LIST)

local function change(db, what, list)
  local ids, statuses, states, errors, clears, seen = {}, {}, {}, {}, {}, {}
  local null = nebula.null
  for i, given in ipairs(list) do
    check.fields(what, given, CHANGE_FIELDS)
    ids[i] = check.uuid(what .. ": id", given.id)
    if seen[given.id] then raise("validation", "%s: execution %s is there twice", what, given.id) end
    seen[given.id] = true
    statuses[i] = given.status and check.choice(what .. ": status", given.status, STATUSES) or null
    states[i] = given.state and check.object(what .. ": state", given.state) or null
    clears[i] = given.error == null
    errors[i] = given.error and given.error ~= null and check.text(what .. ": error", given.error) or null
  end
  local result = db:one(CHANGE, ids, statuses, states, errors, clears, LEGAL, ENDED_LIST)
  if not result.id then return result.changed end
  if not result.from_status then
    raise("not_found", "%s: there is no execution %s; nothing was changed", what, result.id)
  end
  raise("conflict", "%s: execution %s is %s and cannot become %s; nothing was changed", what, result.id,
    result.from_status, result.to_status)
end

--- Changes the named fields of many executions in one statement: all or nothing. A field that is
--- absent stays; `error = nebula.null` clears it. A new status must be a legal transition.
--- Raises `validation`, `not_found`, `conflict`.
---@param list {id: string, status?: string, state?: table, error?: string}[]
---@param db? nebula.pg.Transaction the caller's transaction
---@return integer count
function executions.update_executions(self, list, db)
  if #list == 0 then return 0 end
  return change(db or self.db, "update_executions", list)
end

--- The same for one.
---@param execution {id: string, status?: string, state?: table, error?: string}
---@param db? nebula.pg.Transaction
---@return integer count 1
function executions.update_execution(self, execution, db)
  return change(db or self.db, "update_execution", { execution })
end

local TRANSITION = [[
  WITH old AS (
    SELECT id, status FROM executions WHERE id = $1 FOR UPDATE
  ), changed AS (
    UPDATE executions e
    SET status = $2::text,
      state = coalesce($4::jsonb, e.state),
      error = coalesce($5::text, e.error),
      started_at = CASE WHEN $2::text = 'running' AND old.status = 'created' THEN clock_timestamp()
        ELSE e.started_at END,
      completed_at = CASE WHEN $6::boolean THEN clock_timestamp() ELSE e.completed_at END,
      updated_at = clock_timestamp()
    FROM old
    WHERE e.id = old.id
    AND old.status = ANY ($3::text[])
    RETURNING e.*
  ), logged AS (
    INSERT INTO execution_history (execution_id, from_status, to_status, error)
    SELECT changed.id, old.status, changed.status, $5::text
    FROM changed JOIN old USING (id)
  )
  SELECT old.status AS old_status, changed.*
  FROM old LEFT JOIN changed USING (id)
]]

--- Moves an execution to another status, compared and set: `from` (one or several) narrows what it
--- may come from; it is always a legal transition.
--- Raises `not_found`, and `conflict` where its status does not allow it.
---@param id string
---@param to string
---@param changes? {from?: string|string[], state?: table, error?: string}
---@param db? nebula.pg.Transaction the caller's transaction
---@return nebula.Execution
function executions.transition_execution(self, id, to, changes, db)
  local what = "transition_execution"
  id = check.id(what, id)
  check.choice(what .. ": status", to, STATUSES)
  changes = check.fields(what, changes or {}, { from = true, state = true, error = true })
  local sources = {}
  local asked = type(changes.from) == "table" and changes.from or { changes.from }
  for _, source in ipairs(asked) do check.choice(what .. ": from", source, STATUSES) end
  for _, source in ipairs(SOURCES[to] or {}) do
    local wanted = #asked == 0
    for _, name in ipairs(asked) do wanted = wanted or name == source end
    if wanted then sources[#sources + 1] = source end
  end
  local state = changes.state and check.object(what .. ": state", changes.state)
  local row = (db or self.db):one(TRANSITION, id, to, sources, state, changes.error, ENDED[to] or false)
  if not row then raise("not_found", "%s: there is no execution %s", what, id) end
  if not row.status then
    raise("conflict", "%s: execution %s is %s and cannot become %s%s", what, id, row.old_status, to,
      #asked > 0 and " from " .. table.concat(asked, ", ") or "")
  end
  row.old_status = nil
  return row
end

return executions
