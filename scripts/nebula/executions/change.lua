-- executions/change.lua: the checked changes of executions. Methods of a Storage.
--
-- A status changes along the state machine only, compared and set in one statement, and each change
-- leaves a row in execution_history.
local check = require "nebula.check"
local machine = require "nebula.executions.machine"
local nebula = require "nebula"
local raise = require "nebula.raise"
local states = require "nebula.executions.state"

local change = {}

local FIELDS = { id = true, status = true, state = true, error = true, updated_at = true }

-- One statement: locks the rows in the order of their ids (two batches never deadlock), finds what is
-- missing, changed meanwhile or illegal, and changes all or nothing. clear marks rows whose error
-- becomes NULL.
local CHANGE = [[
  WITH given AS (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::jsonb[], $4::text[], $5::boolean[], $6::timestamptz[])
      AS g (id, status, state, error, clear, seen)
  ), old AS (
    SELECT id, status, updated_at, ]] .. states.KEY .. [[ AS blob
    FROM executions
    WHERE id = ANY ($1)
    ORDER BY id
    FOR UPDATE
  ), bad AS (
    SELECT g.id, old.status AS from_status, g.status AS to_status, g.seen IS DISTINCT FROM old.updated_at
      AND g.seen IS NOT NULL AS stale
    FROM given g LEFT JOIN old USING (id)
    WHERE old.id IS NULL
    OR g.seen <> old.updated_at
    OR g.status IS NOT NULL AND g.status <> old.status AND NOT old.status || '>' || g.status = ANY ($7::text[])
  ), changed AS (
    UPDATE executions e
    SET status = coalesce(g.status, e.status),
      state = coalesce(g.state, e.state),
      error = CASE WHEN g.clear THEN NULL ELSE coalesce(g.error, e.error) END,
      started_at = CASE WHEN g.status = 'running' AND old.status = 'created' THEN clock_timestamp()
        ELSE e.started_at END,
      completed_at = CASE WHEN g.status = ANY ($8::text[]) THEN coalesce(e.completed_at, clock_timestamp())
        ELSE e.completed_at END,
      updated_at = clock_timestamp()
    FROM given g JOIN old USING (id)
    WHERE e.id = g.id
    AND NOT EXISTS (SELECT FROM bad)
    RETURNING e.id, old.status AS from_status, e.status AS to_status, g.error,
      CASE WHEN g.state IS NOT NULL THEN old.blob END AS blob
  ), logged AS (
    INSERT INTO execution_history (execution_id, from_status, to_status, error)
    SELECT id, from_status, to_status, error
    FROM changed
    WHERE from_status <> to_status
  )
  SELECT (SELECT count(*) FROM changed) AS changed,
    (SELECT array_agg(blob) FROM changed WHERE blob IS NOT NULL) AS blobs,
    bad.id, bad.from_status, bad.to_status, bad.stale
  FROM (SELECT) one LEFT JOIN (SELECT * FROM bad LIMIT 1) bad ON true
]]

local function refuse(what, row)
  if not row.from_status then
    raise("not_found", "%s: there is no execution %s; nothing was changed", what, row.id)
  elseif row.stale then
    raise("conflict", "%s: execution %s was changed by another since it was read; read it again and repeat", what,
      row.id)
  end
  raise("conflict", "%s: execution %s is %s and cannot become %s; nothing was changed", what, row.id, row.from_status,
    row.to_status)
end

local function columns(what, list)
  local c, seen, null = { {}, {}, {}, {}, {}, {} }, {}, nebula.null
  local ids, statuses, texts, errors, clears, times = table.unpack(c)
  local label = what .. ": id"
  for i, given in ipairs(list) do
    check.fields(what, given, FIELDS)
    local id = check.uuid(label, given.id):lower()
    if seen[id] then raise("validation", "%s: execution %s is there twice", what, id) end
    seen[id], ids[i] = true, id
    statuses[i] = given.status and check.choice(what .. ": status", given.status, machine.STATUSES) or null
    texts[i] = given.state and states.encode(what .. ": state", given.state) or null
    clears[i] = given.error == null
    errors[i] = given.error and given.error ~= null and check.text(what .. ": error", given.error) or null
    times[i] = given.updated_at and check.time(what .. ": updated_at", given.updated_at) or null
  end
  return c
end

local function change_all(self, what, list, db)
  local c = columns(what, list)
  local stored = states.spill(self, c[1], c[3])
  local result = states.keeping(self, stored, function()
    local row = (db or self.db):one(CHANGE, c[1], c[2], c[3], c[4], c[5], c[6], machine.LEGAL, machine.ENDED)
    return row.id and refuse(what, row) or row
  end)
  if result.blobs and not db then states.drop(self, result.blobs) end
  return result.changed
end

--- Changes the named fields of many executions in one statement: all or nothing. A field that is
--- absent stays; `error = nebula.null` clears it. A new status must be a legal transition. With
--- `updated_at`, as it was read, a row is changed only if nobody has changed it since.
--- Raises `validation`, `not_found`, `conflict`.
---@param list {id: string, status?: string, state?: table, error?: string, updated_at?: string}[]
---@param db? nebula.pg.Transaction the caller's transaction
---@return integer count
function change.update_executions(self, list, db)
  if #check.list("update_executions", list) == 0 then return 0 end
  return change_all(self, "update_executions", list, db)
end

--- The same for one.
---@param execution {id: string, status?: string, state?: table, error?: string}
---@param db? nebula.pg.Transaction
---@return integer count 1
function change.update_execution(self, execution, db)
  return change_all(self, "update_execution", { execution }, db)
end

local ONE = "SELECT * FROM executions WHERE id = $1"
local ENDED = {}
for _, status in ipairs(machine.ENDED) do ENDED[status] = true end

local TRANSITION = [[
  WITH old AS (
    SELECT id, status, ]] .. states.KEY .. [[ AS blob FROM executions WHERE id = $1 FOR UPDATE
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
  SELECT old.status AS old_status, old.blob AS old_blob, changed.*
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
function change.transition_execution(self, id, to, changes, db)
  local what = "transition_execution"
  id = check.id(what, id)
  check.choice(what .. ": status", to, machine.STATUSES)
  changes = check.fields(what, changes or {}, { from = true, state = true, error = true })
  local sources = {}
  local asked = type(changes.from) == "table" and changes.from or { changes.from }
  for _, source in ipairs(asked) do check.choice(what .. ": from", source, machine.STATUSES) end
  for _, source in ipairs(machine.SOURCES[to] or {}) do
    local wanted = #asked == 0
    for _, name in ipairs(asked) do wanted = wanted or name == source end
    if wanted then sources[#sources + 1] = source end
  end
  local reason = changes.error and check.text(what .. ": error", changes.error)
  local whole = changes.state and states.encode(what .. ": state", changes.state)
  local texts = { whole }
  local stored = states.spill(self, { id }, texts)
  local row = states.keeping(self, stored, function()
    local row = (db or self.db):one(TRANSITION, id, to, sources, texts[1], reason, ENDED[to] or false)
    if not row then raise("not_found", "%s: there is no execution %s", what, id) end
    if row.status then return row end
    raise("conflict", "%s: execution %s is %s and cannot become %s%s", what, id, row.old_status, to,
      #asked > 0 and " from " .. table.concat(asked, ", ") or "")
  end)
  if whole then
    row.state = nebula.json.decode(whole)
    if row.old_blob and not db then states.drop(self, { row.old_blob }) end
  end
  row.old_status, row.old_blob = nil, nil
  return states.resolve(self, row, function() return (db or self.db):one(ONE, id) end)
end

return change
