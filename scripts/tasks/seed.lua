-- tasks/seed.lua: nebula task seed --executions 100000 [--days 30] [--seed 1]
--
-- Realistic rows for trying things out. The same options give the same rows with the same ids, and a
-- run over rows that are there adds none: every number is drawn from the seed and the row's number. Rows
-- lie in the tables in the order in which their executions began, as those do that came one by one.
local nebula = require "nebula"
local raise = require "nebula.raise"

local NAMES = { "billing", "onboarding", "import", "thumbnails", "reports", "payouts", "reminders", "indexing" }

local WORKFLOWS = [[
  INSERT INTO workflows (id, name, version, definition, status, created_at, updated_at)
  SELECT md5($1 || 'workflow' || n)::uuid, ($2::text[])[n], 1,
    jsonb_build_object('steps', jsonb_build_array('fetch', 'work', 'store'), 'seed', $1::text), 'active', $3, $3
  FROM generate_series(1, cardinality($2::text[])) AS n
  ON CONFLICT DO NOTHING
]]

-- $1 seed, $2 workflows, $3 the newest time, $4 days, $5 share that failed, $6 and $7 the rows' numbers
-- of $8. Of the draws: u when it began (in the order of the numbers; later is likelier), v its workflow (the
-- first ones are busier), w its end, x how long it took.
local EXECUTIONS = [[
  WITH drawn AS (
    SELECT n, h, u, x, w,
      1 + floor($2::int * v * v)::int AS workflow
    FROM generate_series($6::int, $7::int) AS n
    CROSS JOIN LATERAL (SELECT md5($1 || 'execution' || n) AS h) digest
    CROSS JOIN LATERAL (SELECT
      (n - 1 + ('x' || substr(h, 1, 7))::bit(28)::int / 268435456.0) / $8::int AS u,
      ('x' || substr(h, 8, 7))::bit(28)::int / 268435456.0 AS v,
      ('x' || substr(h, 15, 7))::bit(28)::int / 268435456.0 AS w,
      ('x' || substr(h, 22, 7))::bit(28)::int / 268435456.0 AS x) draws
  ), timed AS (
    SELECT *, h::uuid AS id, $3::timestamptz - make_interval(secs => (1 - sqrt(u))::float8 * $4 * 86400) AS created,
      make_interval(secs => (0.2 + 60 * x * x * x)::float8) AS took,
      CASE WHEN w < $5 THEN 'failed' WHEN w < $5 + 0.02 THEN 'cancelled' ELSE 'completed' END AS status
    FROM drawn
  ), executed AS (
    INSERT INTO executions (id, workflow_id, status, started_at, completed_at, state, error, created_at, updated_at)
    SELECT id, md5($1 || 'workflow' || workflow)::uuid, status, created + took / 10, created + took,
      jsonb_build_object('tenant', 'tenant-' || (n % 20), 'items', (x * 1000)::int, 'digest', h),
      CASE status WHEN 'failed' THEN 'upstream answered ' || (500 + n % 4) END, created, created + took
    FROM timed
    ON CONFLICT DO NOTHING
    RETURNING id
  ), history AS (
    INSERT INTO execution_history (execution_id, at, from_status, to_status, error)
    SELECT t.id, moved.at, moved.from_status, moved.to_status,
      CASE moved.to_status WHEN 'failed' THEN 'upstream answered ' || (500 + t.n % 4) END
    FROM timed t JOIN executed USING (id)
    CROSS JOIN LATERAL (VALUES (t.created + t.took / 10, 'created', 'running'),
      (t.created + t.took, 'running', t.status)) AS moved (at, from_status, to_status)
  ), worked AS (
    INSERT INTO workflow_jobs (id, workflow_id, execution_id, priority, scheduled_at, status, payload, error,
      retry_count, created_at, finished_at)
    SELECT md5($1 || 'job' || t.n)::uuid, md5($1 || 'workflow' || t.workflow)::uuid, t.id, t.n % 3, t.created,
      CASE t.status WHEN 'failed' THEN 'dead' ELSE t.status END,
      jsonb_build_object('handler', 'seed', 'tenant', 'tenant-' || (t.n % 20), 'number', t.n),
      CASE t.status WHEN 'failed' THEN 'upstream answered ' || (500 + t.n % 4) END,
      CASE t.status WHEN 'failed' THEN 3 ELSE 0 END, t.created, t.created + t.took
    FROM timed t JOIN executed USING (id)
  )
  SELECT count(*) FROM executed
]]

local PENDING = [[
  INSERT INTO workflow_jobs (id, execution_id, priority, scheduled_at, payload, created_at)
  SELECT md5($1 || 'pending' || n)::uuid, md5($1 || 'waiting' || n)::uuid, n % 3, $2::timestamptz,
    jsonb_build_object('handler', 'seed', 'tenant', 'tenant-' || (n % 20), 'number', n), $2::timestamptz
  FROM generate_series($3::int, $4::int) AS n
  ON CONFLICT DO NOTHING
]]

local PAGE = 5000

local function newest_of(text)
  if not text then return nebula.time.now() end
  local time, err = nebula.try(nebula.time.parse, text)
  if err then raise("config", "seed: --until is a time such as 2026-11-22T17:58:03Z, not %q", text) end
  return time
end

return {
  summary = "Fill a database with realistic workflows, executions, jobs and failures, to try things out",

  options = {
    executions = { default = 1000, min = 0, max = 100000000, help = "ended executions, each with a job and history" },
    pending = { default = 0, min = 0, max = 100000000, help = "jobs that wait, for the handler `seed`" },
    workflows = { default = 5, min = 1, max = #NAMES, help = "workflows they belong to" },
    days = { default = 30, min = 0.01, help = "the period before `until` in which they ran" },
    ["until"] = { type = "string", help = "the newest time, ISO 8601; default: now" },
    failures = { default = 0.05, min = 0, max = 0.9, help = "share of executions that failed" },
    seed = { default = 1, help = "another number gives other rows" },
  },

  preview = function(_, opts)
    newest_of(opts["until"])
    return { would_insert = { workflows = opts.workflows, executions = opts.executions,
      jobs = opts.executions + opts.pending } }
  end,

  run = function(ctx, opts)
    local newest = nebula.time.format(newest_of(opts["until"]))
    local seed = tostring(opts.seed)
    ctx.db:exec(WORKFLOWS, seed, table.move(NAMES, 1, opts.workflows, 1, {}), newest)
    local done = { executions = 0, pending = 0 }
    local function pages(count, unit, fn)
      for first = 1, count, PAGE do
        done[unit] = done[unit] + fn(first, math.min(first + PAGE - 1, count))
        ctx.progress(math.min(first + PAGE - 1, count), count, unit)
        ctx.throttle(0)
      end
    end
    pages(opts.executions, "executions", function(first, last)
      return ctx.db:value(EXECUTIONS, seed, opts.workflows, newest, opts.days, opts.failures, first, last,
        opts.executions)
    end)
    pages(opts.pending, "pending", function(first, last) return ctx.db:exec(PENDING, seed, newest, first, last) end)
    return done
  end,
}
