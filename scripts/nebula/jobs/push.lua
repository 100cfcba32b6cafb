-- jobs/push.lua: jobs into the queue, past the policy's admission. Methods of a Storage.
--
-- A batch goes in one statement, all or nothing. Ids are made here (UUIDv7, so that they sort by
-- time), which is why the answer needs no second look.
local check = require "nebula.check"
local insert = require "nebula.jobs.insert"
local nebula = require "nebula"
local news = require "nebula.jobs.news"
local raise = require "nebula.raise"

local push = {}

local NOTHING = {}
local null, uuid_v7 = nebula.null, nebula.crypto.uuid_v7

-- The workflow nebula.adhoc, of jobs that belong to none (V11); also the default of the column (V4).
local ADHOC_ID = "6ecd2b0f-6009-5a60-a575-ee6236849e14"
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

local FIRST_DUE = [[
  SELECT priority, min(scheduled_at) AS at
  FROM workflow_jobs
  WHERE id = ANY ($1)
  AND status = 'pending'
  GROUP BY priority
]]

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

-- The job as the policy lets it in: with its overrides.
local function admitted(policy, what, given)
  local job = { workflow_id = ADHOC_ID, priority = 0, max_retries = 3 }
  for name, value in pairs(given) do job[name] = value end
  local answer, reason = policy:admit(job)
  if answer == false then
    raise("policy", "%s: policy %s refuses the job: %s", what, policy.name, reason or "no reason given")
  end
  for name, value in pairs(answer or NOTHING) do job[name] = value end
  return job, answer
end

-- What goes into each column, of a job or where it says nothing. The label is for messages.
local FILL = {
  id = function(label, job) return job.id and check.uuid(label, job.id) or uuid_v7() end,
  workflow_id = function(label, job) return job.workflow_id and check.uuid(label, job.workflow_id) or ADHOC_ID end,
  execution_id = function(label, job) return job.execution_id and check.uuid(label, job.execution_id) or uuid_v7() end,
  payload = function(label, job) return check.object(label, job.payload) end,
  priority = function(label, job)
    return job.priority and check.integer(label, job.priority, -MOST_PRIORITY, MOST_PRIORITY) or 0
  end,
  max_retries = function(label, job) return job.max_retries and check.integer(label, job.max_retries, 0, 1000) or 3 end,
  scheduled_at = function(label, job) return job.scheduled_at and check.time(label, job.scheduled_at) or null end,
  delay = function(label, job, storage)
    local delay = storage.duration(label, job.delay, 0)
    if delay >= 0 and delay <= MOST_DELAY then return delay end
    raise("validation", "%s wants 0 to 1,000 years, not %s", label, tostring(job.delay))
  end,
  lane = function(label, job) return job.lane and check.text(label, job.lane, 500) or null end,
  unique_key = function(label, job)
    if job.unique_key ~= nil then return check.text(label, job.unique_key, 500) end
    for _, name in ipairs { "unique_while", "unique_for" } do
      if job[name] ~= nil then
        raise("validation", "%s wants a unique_key beside it", (label:gsub("unique_key$", name)))
      end
    end
    return null
  end,
  unique_while = function(label, job)
    local scope = job.unique_while and check.choice(label, job.unique_while, SCOPES)
    return scope == "pending" and scope or null
  end,
  unique_for = function(label, job, storage)
    return job.unique_for and storage.duration(label, job.unique_for) or null
  end,
}

-- The jobs as the policy lets them in, and what the batch has.
local function admit_all(what, list, policy)
  local jobs, used, admits = list, {}, policy:has "admit"
  if admits then jobs = {} end
  for i = 1, #list do
    local job = list[i]
    if type(job) ~= "table" then check.fields(what, job, FIELDS) end
    for name in pairs(job) do
      if not used[name] then
        check.fields(what, job, FIELDS)
        used[name] = true
      end
    end
    if admits then
      local entered, answer = admitted(policy, what, job)
      for name in pairs(answer or NOTHING) do used[name] = true end
      jobs[i] = entered
    end
  end
  used.unique_key = used.unique_key or used.unique_while or used.unique_for
  return jobs, used
end

-- The columns by name and in the statement's order, and the statement that pushes them.
local function columns(self, what, list, db)
  local policy = self:policy(db)
  local jobs, used = admit_all(what, list, policy)
  local declaration = (policy.lane or policy:by_lanes()) and policy:declaration() or nil
  local statement, by_name, arrays = insert.statement(used, declaration), {}, {}
  for k, name in ipairs(statement.names) do
    local column, fill, label = {}, FILL[name], ("%s: %s"):format(what, name)
    for i = 1, #jobs do column[i] = fill(label, jobs[i], self) end
    by_name[name], arrays[k] = column, column
  end
  return by_name, arrays, statement
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

-- Tells the workers of jobs that may be due since longer than a moment.
local function tell_since(self, ids)
  local rows = nebula.try(self.db.query, self.db, FIRST_DUE, ids)
  local since = rows and {} or news.ALL
  for _, row in ipairs(rows or {}) do since[row.priority] = row.at end
  self:wake(since)
end

local function push_list(self, what, list, db)
  if #check.list(what, list) == 0 then return {} end
  db = db or self.db
  local by_name, arrays, statement = columns(self, what, list, db)
  local began = nebula.time.monotonic()
  local rows, err = nebula.try(db.query, db, statement.sql, table.unpack(arrays))
  if err then
    if err.code == "23505" then raise("conflict", "%s: a job with this id exists", what) end
    error(err, 0)
  end
  if db ~= self.db then -- none can be told of one that was begun by hand
    nebula.try(db.on_commit, db, function() tell_since(self, by_name.id) end)
  elseif by_name.scheduled_at or nebula.time.monotonic() - began > news.SLOW then
    tell_since(self, by_name.id)
  else
    self:wake()
  end
  return by_name.unique_key and with_taken(db, by_name.id, by_name.unique_key, rows) or by_name.id
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
