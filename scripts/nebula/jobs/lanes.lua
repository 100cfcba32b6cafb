-- jobs/lanes.lua: which lane a job is in, as SQL, and writing it where it is not written yet.
--
-- A policy declares where a job's lane stands: a field of its payload ("payload.tenant"), or a column;
-- without a word, the workflow. It is written into the column `lane` by a push; by one throttled walk
-- through the table when the declaration changes; and by a look for pending jobs without a lane,
-- which other programs inserted. `lane_by` keeps the declaration, so that a claim knows a lane that is
-- by another one (it writes it anew), and a lane that was given at the push (it stays).
local nebula = require "nebula"

local lanes = {}

lanes.DEFAULT = "workflow_id"

--- The columns that a declaration may name.
lanes.COLUMNS = { workflow_id = true, execution_id = true, priority = true, unique_key = true }
local LONGEST = 500 -- bytes of a lane's name: of a longer value its MD5 is the lane
local BLOCKS = 256 -- of the table, in one step of the walk
local FOUND_MOST = 1000 -- jobs without a lane, in one step
local LOOK_SECONDS, LOOK_PART = 2, 0.05 -- between two looks, or more: no more than this part of the time

-- The path of a payload's field as an array's literal, or nil.
local function path_of(declaration)
  local rest = declaration:match "^payload%.(.+)$"
  local parts = {}
  for part in ((rest or "") .. "."):gmatch "([^.]*)%." do
    if not part:find "^[%w_-]+$" then return nil end
    parts[#parts + 1] = part
  end
  return ("'{%s}'"):format(table.concat(parts, ","))
end

--- Whether a declaration is one, and what is wrong with it.
---@param declaration string
---@return string? problem
function lanes.problem(declaration)
  if lanes.COLUMNS[declaration] or path_of(declaration) then return nil end
  return ('lane is a field of the payload such as "payload.tenant", or a column (workflow_id, execution_id, '
    .. "priority, unique_key), not %q"):format(declaration)
end

--- A job's lane by a declaration, as an SQL expression over a row with the columns of a job. Where the
--- field is missing, or no text, number or boolean, it is the workflow.
---@param declaration string
---@param row string the row's name
---@return string
function lanes.expression(declaration, row)
  local path = path_of(declaration)
  local value
  if path then
    value = ("CASE WHEN jsonb_typeof(%s.payload #> %s) IN ('string', 'number', 'boolean') THEN %s.payload #>> %s END")
      :format(row, path, row, path)
  else
    value = ("%s.%s::text"):format(row, declaration)
  end
  return ("(SELECT CASE WHEN octet_length(s.v) > %d THEN md5(s.v) ELSE s.v END FROM (SELECT coalesce(nullif(%s, ''), "
    .. "%s.workflow_id::text) AS v) s)"):format(LONGEST, value, row)
end

-- ---- writing lanes ----

local WRITE = [[
  WITH picked AS MATERIALIZED (
    %s
    FOR UPDATE SKIP LOCKED
  )
  UPDATE workflow_jobs j
  SET lane = %s, lane_by = %s
  WHERE j.ctid = ANY (ARRAY (SELECT at FROM picked))
]]

local IN_BLOCKS = [[
    SELECT ctid AS at
    FROM workflow_jobs
    WHERE ctid >= format('(%%s,0)', $1::bigint)::tid
    AND ctid < format('(%%s,0)', $2::bigint)::tid
    AND status = 'pending'
    AND (lane IS NULL OR lane_by <> %s)
]]

local WITHOUT = ([[
    SELECT ctid AS at
    FROM workflow_jobs
    WHERE status = 'pending'
    AND lane IS NULL
    ORDER BY scheduled_at
    LIMIT %d
]]):format(FOUND_MOST)

local AT = "SELECT ctid AS at FROM workflow_jobs WHERE ctid = ANY ($1::tid[]) AND status = 'pending'"

local function write_sql(declaration, picked)
  return WRITE:format(picked, lanes.expression(declaration, "j"), nebula.pg.literal(declaration))
end

--- Writes the lanes of these pending rows by a declaration.
---@param db nebula.pg.queries
---@param declaration string
---@param tids string an array's literal
---@return integer count
function lanes.write(db, declaration, tids) return db:exec(write_sql(declaration, AT), tids) end

-- ---- the walk, and the look for jobs without a lane: by one process at a time ----

local BEGIN_WALK = [[
  INSERT INTO job_lane_keys AS k (declaration, last_block)
  VALUES ($1, pg_relation_size('workflow_jobs') / current_setting('block_size')::int)
  ON CONFLICT (one) DO UPDATE
  SET declaration = excluded.declaration, next_block = 0, last_block = excluded.last_block
  WHERE k.declaration <> excluded.declaration
]]

local MINE = [[
  SELECT next_block, last_block, extract(epoch FROM clock_timestamp() - looked_at)::float8 AS since
  FROM job_lane_keys
  WHERE declaration = $1
  FOR UPDATE SKIP LOCKED
]]

--- A declaration comes into force: what is keyed by another one will be written anew. A process says so
--- once, when it adopts a policy; two that disagree do not walk in turns for ever.
---@param db nebula.pg.queries
---@param declaration string
function lanes.begin(db, declaration) db:exec(BEGIN_WALK, declaration) end

local function step(tx, declaration, rest)
  local mine = tx:one(MINE, declaration)
  if not mine then return nil end
  if mine.next_block <= mine.last_block then
    tx:exec("SET LOCAL enable_seqscan = off; SET LOCAL jit = off")
    local picked = IN_BLOCKS:format(nebula.pg.literal(declaration))
    local count = tx:exec(write_sql(declaration, picked), mine.next_block, mine.next_block + BLOCKS)
    tx:exec("UPDATE job_lane_keys SET next_block = next_block + $1", BLOCKS)
    return count, true
  end
  if mine.since < rest then return nil end
  tx:exec("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off; "
    .. "SET LOCAL jit = off")
  local count = tx:exec(write_sql(declaration, WITHOUT))
  tx:exec "UPDATE job_lane_keys SET looked_at = clock_timestamp()"
  return count, count == FOUND_MOST
end

--- Does one step of what is left to do, where nobody else does it now. Returns how many jobs were given
--- a lane, and after how many seconds to come again.
---@param db nebula.pg.Pool
---@param declaration string
---@param took? number seconds of the last step
---@return integer count
---@return number again
---@return number took
function lanes.step(db, declaration, took)
  local began = nebula.time.monotonic()
  local rest = math.max(LOOK_SECONDS, (took or 0) / LOOK_PART)
  local count, more = db:transaction(function(tx) return step(tx, declaration, rest) end)
  local elapsed = nebula.time.monotonic() - began
  return count or 0, more and elapsed or rest, count and elapsed or took or 0
end

return lanes
