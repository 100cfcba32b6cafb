-- jobs/push.lua: jobs into the queue, past the policy's admission. Methods of a Storage.
--
-- A batch goes in one statement, all or nothing. Ids are made here (UUIDv7, so that they sort by
-- time), which is why the answer needs no second look.
local check = require "nebula.check"
local lanes = require "nebula.jobs.lanes"
local nebula = require "nebula"
local raise = require "nebula.raise"

local push = {}

-- The workflow of jobs that belong to none; also the default of the column (V4).
local ADHOC_ID, ADHOC_NAME = "6ecd2b0f-6009-5a60-a575-ee6236849e14", "nebula.adhoc"
local MOST_PRIORITY = 2147483647
local MOST_DELAY = 1000 * 366 * 86400 -- seconds

local FIELDS = {
  id = true, workflow_id = true, execution_id = true, priority = true, scheduled_at = true, delay = true,
  max_retries = true, payload = true, unique_key = true, unique_while = true, unique_for = true, lane = true,
}
local SCOPES = { "active", "pending" }

---@class nebula.JobToPush
---@field payload table a JSON object; `payload.handler` names the handler
---@field workflow_id? string default: the workflow nebula.adhoc
---@field execution_id? string default: a fresh id
---@field priority? integer the higher, the sooner; default 0
---@field scheduled_at? string|number when it is due; epoch seconds or ISO 8601; default now
---@field delay? number|string due so much later
---@field max_retries? integer default 3
---@field unique_key? string one job of a key may be pending or running
---@field unique_while? "active"|"pending" it has its key until it ends (active, the default), or only until it begins
---@field unique_for? number|string and at least for so long after this push, whatever becomes of the job
---@field lane? string default: as the policy declares
---@field id? string

local PUSH = [[
  WITH %s pushed AS (
    INSERT INTO workflow_jobs (id, workflow_id, execution_id, priority, scheduled_at, max_retries, payload, lane,
      lane_by, unique_key, unique_while)
    SELECT d.id, d.workflow_id, d.execution_id, d.priority,
      coalesce(d.at, now()) + make_interval(secs => d.delay), d.max_retries, d.payload, %s, d.unique_key,
      d.unique_while
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::int[], $5::timestamptz[], $6::float8[], $7::int[], $8::jsonb[],
      $9::text[], $10::text[], $11::text[])
      AS d (id, workflow_id, execution_id, priority, at, delay, max_retries, payload, lane, unique_key, unique_while)
    %s
    ON CONFLICT (unique_key) WHERE unique_key IS NOT NULL AND status IN ('pending', 'running') DO NOTHING
    RETURNING id
  )
  SELECT %s FROM pushed
]]

-- Keys that are to be held for a time are taken first, each once. One that a pending or running job has
-- is left alone: it would be held for a job that is never pushed.
local HOLD = [[
  held AS (
    INSERT INTO job_keys AS k (key, job, held_until)
    SELECT DISTINCT ON (d.key) d.key, d.id, now() + make_interval(secs => d.seconds)
    FROM unnest($1::uuid[], $10::text[], $12::float8[]) WITH ORDINALITY AS d (id, key, seconds, place)
    WHERE d.seconds IS NOT NULL
    AND NOT EXISTS (SELECT FROM workflow_jobs j WHERE j.unique_key = d.key AND j.status IN ('pending', 'running'))
    ORDER BY d.key, d.place
    ON CONFLICT (key) DO UPDATE SET job = excluded.job, held_until = excluded.held_until WHERE k.held_until <= now()
    RETURNING job
  ),
]]

local OF_HOLDERS = [[
    JOIN unnest($1::uuid[], $12::float8[]) AS h (id, seconds) ON h.id = d.id
    WHERE h.seconds IS NULL OR d.id IN (SELECT job FROM held)
]]

local known = {} -- statements, by the lane's declaration

-- The statements for a policy. The lane is the one given, or by the policy's declaration.
local function statements(policy)
  local declaration = (policy.lane or policy:by_lanes()) and policy:declaration() or false
  if not known[declaration] then
    local lane = "d.lane, NULL"
    if declaration then
      lane = ("coalesce(d.lane, %s), CASE WHEN d.lane IS NULL THEN %s END"):format(
        lanes.expression(declaration, "d"), nebula.pg.literal(declaration))
    end
    known[declaration] = {
      all = PUSH:format("", lane, "", "count(*) AS count"),
      unique = PUSH:format("", lane, "", "id"),
      holding = PUSH:format(HOLD, lane, OF_HOLDERS, "id"),
    }
  end
  return known[declaration]
end

-- The jobs whose keys are taken: who has them.
local TAKEN = [[
  SELECT unique_key AS key, id
  FROM workflow_jobs
  WHERE unique_key = ANY ($1)
  AND status IN ('pending', 'running')
  UNION ALL
  SELECT key, job
  FROM job_keys
  WHERE key = ANY ($1)
  AND held_until > now()
]]

local function due(what, given, storage)
  local at = given.scheduled_at and check.time(what .. ": scheduled_at", given.scheduled_at) or nebula.null
  local delay = given.delay and storage.duration(what .. ": delay", given.delay, 0) or 0
  if not (delay >= 0 and delay <= MOST_DELAY) then
    raise("validation", "%s: delay wants 0 to 1,000 years, not %s", what, tostring(given.delay))
  end
  return at, delay
end

-- What the policy says to a job: the job with its overrides, or a refusal.
local function admitted(policy, what, job)
  if not policy:has "admit" then return job end
  local answer, reason = policy:admit {
    workflow_id = job.workflow_id or ADHOC_ID, execution_id = job.execution_id, payload = job.payload,
    priority = job.priority or 0, unique_key = job.unique_key, max_retries = job.max_retries or 3, lane = job.lane,
  }
  if answer == false then
    raise("policy", "%s: policy %s refuses the job: %s", what, policy.name, reason or "no reason given")
  end
  if answer == nil then return job end
  local changed = {}
  for name, value in pairs(job) do changed[name] = value end
  for name, value in pairs(answer) do changed[name] = value end
  return changed
end

-- How a job's key is held: the key, its scope, and for how long at least.
local function key_of(self, what, job)
  local null = nebula.null
  if job.unique_key == nil then
    for _, name in ipairs { "unique_while", "unique_for" } do
      if job[name] ~= nil then raise("validation", "%s: %s wants a unique_key beside it", what, name) end
    end
    return null, null, null
  end
  local scope = job.unique_while and check.choice(what .. ": unique_while", job.unique_while, SCOPES)
  return check.text(what .. ": unique_key", job.unique_key, 500), scope == "pending" and scope or null,
    job.unique_for and self.duration(what .. ": unique_for", job.unique_for) or null
end

-- Returns the columns, whether a job is of the workflow nebula.adhoc, whether one has a key, and the
-- statement that pushes them.
local function columns(self, what, list, db)
  local null, policy = nebula.null, self:policy(db)
  local uuid_v7 = nebula.crypto.uuid_v7
  local c = { {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {} }
  local seconds, adhoc, keyed, holding = {}, false, false, false
  for i, given in ipairs(list) do
    check.fields(what, given, FIELDS)
    local job = admitted(policy, what, given)
    c[1][i] = job.id and check.uuid(what .. ": id", job.id) or uuid_v7()
    c[2][i] = job.workflow_id and check.uuid(what .. ": workflow_id", job.workflow_id) or ADHOC_ID
    c[3][i] = job.execution_id and check.uuid(what .. ": execution_id", job.execution_id) or uuid_v7()
    c[4][i] = job.priority and check.integer(what .. ": priority", job.priority, -MOST_PRIORITY, MOST_PRIORITY) or 0
    c[5][i], c[6][i] = due(what, job, self)
    c[7][i] = job.max_retries and check.integer(what .. ": max_retries", job.max_retries, 0, 1000) or 3
    c[8][i] = check.object(what .. ": payload", job.payload)
    c[9][i] = job.lane and check.text(what .. ": lane", job.lane, 500) or null
    c[10][i], c[11][i], seconds[i] = key_of(self, what, job)
    adhoc = adhoc or job.workflow_id == nil
    keyed = keyed or job.unique_key ~= nil
    holding = holding or job.unique_for ~= nil
  end
  if holding then c[12] = seconds end
  local sql = statements(policy)
  return c, adhoc, keyed, holding and sql.holding or keyed and sql.unique or sql.all
end

-- The adhoc workflow's row, once for each storage object.
local function ensure_adhoc(self, db)
  if self.adhoc_exists then return end
  db:exec([[
    INSERT INTO workflows (id, name, version, definition, status)
    VALUES ($1, $2, 1, '{}', 'active')
    ON CONFLICT DO NOTHING
  ]], ADHOC_ID, ADHOC_NAME)
  self.adhoc_exists = db == self.db
end

-- The ids in the order of the list; where a key was taken, the id of the job that has it.
local function with_taken(db, ids, keys, rows)
  local pushed, wanted = {}, {}
  for _, row in ipairs(rows) do pushed[row.id] = true end
  for i, id in ipairs(ids) do
    if not pushed[id] then wanted[#wanted + 1] = keys[i] end
  end
  if #wanted == 0 then return ids end
  local taken = {}
  for _, row in ipairs(db:query(TAKEN, wanted)) do taken[row.key] = taken[row.key] or row.id end
  local out = {}
  for i, id in ipairs(ids) do out[i] = pushed[id] and id or taken[keys[i]] or false end
  return out
end

local function push_list(self, what, list, db)
  if #check.list(what, list) == 0 then return {} end
  db = db or self.db
  local c, adhoc, keyed, sql = columns(self, what, list, db)
  if adhoc then ensure_adhoc(self, db) end
  local rows, err = nebula.try(db.query, db, sql, table.unpack(c))
  if err then
    if err.code == "23505" then raise("conflict", "%s: a job with this id exists", what) end
    error(err, 0)
  end
  if db == self.db then self:wake() end
  return keyed and with_taken(db, c[1], c[10], rows) or c[1]
end

--- Pushes many jobs in one statement: all or none.
--- Raises `validation`, `policy` (refused by its admit), `conflict` (an id that exists).
---@param list nebula.JobToPush[]
---@param db? nebula.pg.Transaction the caller's transaction
---@return string[] ids in the order of the list; where a unique_key was taken, the id of its job
function push.push_jobs(self, list, db)
  return push_list(self, "push_jobs", list, db)
end

--- Pushes one job.
---@param job nebula.JobToPush
---@param db? nebula.pg.Transaction the caller's transaction
---@return {id: string, duplicate?: boolean} job with `duplicate` where its unique_key was taken
function push.push_job(self, job, db)
  local copy = { id = nebula.crypto.uuid_v7() }
  for name, value in pairs(check.fields("push_job", job, FIELDS)) do copy[name] = value end
  local id = push_list(self, "push_job", { copy }, db)[1]
  local pushed = { id = id or nil, payload = job.payload }
  if id ~= copy.id then pushed.duplicate = true end
  return pushed
end

return push
