-- jobs/insert.lua: the statement that pushes a batch of jobs. It speaks of the columns that the batch has
-- something for, and of keys and lanes where there are some, so that a plain batch costs what a plain
-- INSERT costs.
local lanes = require "nebula.jobs.lanes"
local nebula = require "nebula"

local insert = {}

-- What a batch may have, in the order of the parameters; the first three always.
local PARTS = {
  { "id", "uuid" }, { "execution_id", "uuid" }, { "payload", "jsonb" }, { "workflow_id", "uuid" },
  { "priority", "int" }, { "max_retries", "int" }, { "scheduled_at", "timestamptz" }, { "delay", "float8" },
  { "lane", "text" }, { "unique_key", "text" }, { "unique_while", "text" }, { "unique_for", "float8" },
}
local ALWAYS = 3

-- Those of them that are columns of the table, and are taken as they are.
local PLAIN = { id = true, execution_id = true, payload = true, workflow_id = true, priority = true,
  max_retries = true, unique_key = true, unique_while = true }

-- Keys that are to be held for a time are taken first, each once. One that a pending or running job has
-- is left alone: it would be held for a job that is never pushed.
local HOLD = [[
  held AS (
    INSERT INTO job_keys AS k (key, job, held_until)
    SELECT DISTINCT ON (d.unique_key) d.unique_key, d.id, now() + make_interval(secs => d.unique_for)
    FROM given d
    WHERE d.unique_for IS NOT NULL
    AND NOT EXISTS (
      SELECT FROM workflow_jobs j WHERE j.unique_key = d.unique_key AND j.status IN ('pending', 'running')
    )
    ORDER BY d.unique_key, d.place
    ON CONFLICT (key) DO UPDATE SET job = excluded.job, held_until = excluded.held_until WHERE k.held_until <= now()
    RETURNING job
  )
]]

-- The lane is the one given, or by the policy's declaration; without one it is left to others.
local function add_lane(columns, values, used, declaration)
  if not declaration and not used.lane then return end
  local n = #columns
  columns[n + 1], values[n + 1] = "lane", "d.lane"
  if not declaration then return end
  local lane, by = lanes.expression(declaration, "d"), nebula.pg.literal(declaration)
  columns[n + 2] = "lane_by"
  values[n + 1] = used.lane and ("coalesce(d.lane, %s)"):format(lane) or lane
  values[n + 2] = used.lane and ("CASE WHEN d.lane IS NULL THEN %s END"):format(by) or by
end

local function compose(names, types, used, declaration)
  local given, columns, values = {}, {}, {}
  for i, name in ipairs(names) do
    given[i] = ("$%d::%s[]"):format(i, types[i])
    if PLAIN[name] then
      columns[#columns + 1], values[#values + 1] = name, "d." .. name
    end
  end
  columns[#columns + 1] = "scheduled_at"
  values[#values + 1] = (used.scheduled_at and "coalesce(d.scheduled_at, clock_timestamp())" or "clock_timestamp()")
    .. (used.delay and " + make_interval(secs => d.delay)" or "")
  add_lane(columns, values, used, declaration)
  local rows, alias = ("unnest(%s)"):format(table.concat(given, ", ")), table.concat(names, ", ")
  local from, before, after = ("%s AS d (%s)"):format(rows, alias), "", ""
  if used.unique_for then
    from = "given d WHERE d.unique_for IS NULL OR d.id IN (SELECT job FROM held)"
    before = ("WITH given AS (SELECT * FROM %s WITH ORDINALITY AS g (%s, place)), %s"):format(rows, alias, HOLD)
  end
  if used.unique_key then
    after = [[
      ON CONFLICT (unique_key) WHERE unique_key IS NOT NULL AND status IN ('pending', 'running') DO NOTHING
      RETURNING id
    ]]
  end
  return ("%sINSERT INTO workflow_jobs (%s) SELECT %s FROM %s %s"):format(before, table.concat(columns, ", "),
    table.concat(values, ", "), from, after)
end

---@class nebula.JobInsert
---@field sql string its rows are the ids that were pushed, where there are keys
---@field names string[] of the parameters, each a list

local made = {}

--- The statement for a batch.
---@param used table<string, boolean> what the batch has
---@param declaration? string where the policy has the lane stand
---@return nebula.JobInsert
function insert.statement(used, declaration)
  if declaration then
    used.workflow_id = true
    if lanes.COLUMNS[declaration] then used[declaration] = true end
  end
  local names, types = {}, {}
  for i, part in ipairs(PARTS) do
    if i <= ALWAYS or used[part[1]] then names[#names + 1], types[#types + 1] = part[1], part[2] end
  end
  local key = ("%s %s"):format(declaration, table.concat(names, " "))
  made[key] = made[key] or { names = names, sql = compose(names, types, used, declaration) }
  return made[key]
end

return insert
