-- executions.lua: the runs of workflows: made, read and listed here; joined with their changes of
-- state and status (executions/change.lua) and with what is asked of a whole run: cancel, pause,
-- resume, retry (executions/control.lua). The functions are methods of a Storage.
local check = require "nebula.check"
local filter = require "nebula.filter"
local machine = require "nebula.executions.machine"
local nebula = require "nebula"
local raise = require "nebula.raise"
local states = require "nebula.executions.state"

local executions = {}

for _, part in ipairs { "change", "control" } do
  for name, method in pairs(require("nebula.executions." .. part)) do executions[name] = method end
end

local FILTERS = {
  id = { column = "id", type = "uuid" },
  workflow_id = { column = "workflow_id", type = "uuid" },
  status = { column = "status", choices = machine.STATUSES },
  idempotency_key = { column = "idempotency_key" },
}

local CREATE_FIELDS = { id = true, workflow_id = true, state = true, idempotency_key = true }

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

-- In the order of the keys: two batches that share some wait for each other, and never both.
local CREATE = [[
  INSERT INTO executions (id, workflow_id, state, idempotency_key, fingerprint)
  SELECT id, workflow_id, state, key, fingerprint
  FROM unnest($1::uuid[], $2::uuid[], $3::jsonb[], $4::text[], $5::text[]) WITH ORDINALITY
    AS g (id, workflow_id, state, key, fingerprint, place)
  ORDER BY key, place
  ON CONFLICT DO NOTHING
  RETURNING *
]]

local function arguments(what, list)
  local ids, workflow_ids, texts, keys, prints = {}, {}, {}, {}, {}
  for i, given in ipairs(list) do
    check.fields(what, given, CREATE_FIELDS)
    local state = states.encode(what .. ": state", given.state or {})
    ids[i] = given.id and check.uuid(what .. ": id", given.id) or nebula.crypto.uuid_v7()
    workflow_ids[i] = check.uuid(what .. ": workflow_id", given.workflow_id)
    texts[i] = state
    if given.idempotency_key then
      local sorted = nebula.json.encode({ given.workflow_id:lower(), given.state or {} }, { sort_keys = true })
      keys[i] = check.text(what .. ": idempotency_key", given.idempotency_key, 500)
      prints[i] = nebula.crypto.sha256(sorted)
    else
      keys[i], prints[i] = nebula.null, nebula.null
    end
  end
  return ids, workflow_ids, texts, keys, prints
end

local function insert(self, db, what, ids, workflow_ids, state_texts, keys, prints)
  local whole = table.move(state_texts, 1, #state_texts, 1, {})
  local stored = states.spill(self, ids, state_texts)
  local rows = states.keeping(self, stored, function()
    local rows, err = nebula.try(db.query, db, CREATE, ids, workflow_ids, state_texts, keys, prints)
    if not err then return rows end
    if err.code == "23503" then raise("not_found", "%s: there is no such workflow", what) end
    error(err, 0)
  end)
  if #stored == 0 then return rows end
  -- what was stored for rows that were there already belongs to nobody
  local by_id, unused = {}, {}
  for _, row in ipairs(rows) do by_id[row.id] = row end
  for i, id in ipairs(ids) do
    local row = by_id[id:lower()]
    if row then row.state = nebula.json.decode(whole[i]) end
    if not row and state_texts[i] ~= whole[i] then unused[#unused + 1] = states.key_of(state_texts[i]) end
  end
  states.drop(self, unused)
  return rows
end

local ONE = "SELECT * FROM executions WHERE id = $1"

-- The execution that an earlier request with the same key has made.
local function find_same(self, db, what, key, print_of_this)
  local row = db:one("SELECT * FROM executions WHERE idempotency_key = $1", key)
  if not row then raise("conflict", "%s: an execution with this id exists", what) end
  if row.fingerprint ~= print_of_this then
    raise("conflict", "%s: idempotency_key %q was used for another request (execution %s)", what, key, row.id)
  end
  return states.resolve(self, row, function() return db:one(ONE, row.id) end)
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
  local ids, workflow_ids, texts, keys, prints = arguments(what, { execution })
  local row = insert(self, db, what, ids, workflow_ids, texts, keys, prints)[1]
  if row then return row end
  if keys[1] == nebula.null then raise("conflict", "%s: execution %s exists", what, ids[1]) end
  return find_same(self, db, what, keys[1], prints[1])
end

local function in_order_of(ids, rows)
  local by_id, ordered = {}, {}
  for _, row in ipairs(rows) do by_id[row.id] = row end
  for _, id in ipairs(ids) do ordered[#ordered + 1] = by_id[id:lower()] end
  return ordered
end

--- Creates many in one round trip; those whose idempotency_key is taken are left out.
---@param list {workflow_id: string, state?: table, id?: string, idempotency_key?: string}[]
---@param db? nebula.pg.Transaction the caller's transaction
---@return nebula.Execution[] created
function executions.create_executions(self, list, db)
  if #check.list("create_executions", list) == 0 then return {} end
  local ids, workflow_ids, texts, keys, prints = arguments("create_executions", list)
  return in_order_of(ids, insert(self, db or self.db, "create_executions", ids, workflow_ids, texts, keys, prints))
end

-- ---- reading ----

---@param id string
---@return nebula.Execution?
function executions.get_execution(self, id)
  id = check.id("get_execution", id)
  local function read() return self.reads:one(ONE, id) end
  return states.resolve(self, read(), read)
end

--- A page of executions, the newest ids first; `after` is the last row of the page before, or its id.
---@param given? {status?: string|string[], workflow_id?: string, id?: string|string[], limit?: integer, after?: any}
---@return nebula.Execution[]
function executions.list_executions(self, given)
  return states.resolve_all(self, filter.page(self.reads, "list_executions", "executions", given, FILTERS),
    function(row) return self.reads:one(ONE, row.id) end)
end

--- Every change of status so far, the oldest first.
---@param id string
---@return {at: string, from_status?: string, to_status: string, error?: string}[]
function executions.execution_history(self, id)
  return self.reads:query([[
    SELECT at, from_status, to_status, error
    FROM execution_history
    WHERE execution_id = $1
    ORDER BY seq
  ]], check.id("execution_history", id))
end

return executions
