-- tasks/stats.lua: nebula task stats [--since 7d] [--plot] [--svg FILE] [--json]
local nebula = require "nebula"
local plot = require "nebula.plot"
local ui = require "nebula.ui"
local workflow_names = require "nebula.tasks.workflow_names"

local EXECUTIONS = [[
  SELECT w.name AS workflow, to_char(date_trunc('day', e.created_at, 'UTC') AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day,
    count(*) AS executions, count(*) FILTER (WHERE e.status IN ('failed', 'timed_out')) AS failed,
    round(percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM e.started_at - e.created_at))::numeric, 3)
      ::float8 AS wait_p50,
    round(percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM e.started_at - e.created_at))::numeric, 3)
      ::float8 AS wait_p95,
    round(percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM e.completed_at - e.started_at))::numeric, 3)
      ::float8 AS run_p50,
    round(percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM e.completed_at - e.started_at))::numeric, 3)
      ::float8 AS run_p95
  FROM executions e JOIN workflows w ON w.id = e.workflow_id
  WHERE e.created_at > now() - make_interval(secs => $1) AND ($2::text IS NULL OR w.name = $2)
  GROUP BY 1, 2
  ORDER BY 1, 2
]]

local JOBS = [[
  SELECT payload ->> 'handler' AS handler, status, count(*) AS jobs, sum(retry_count)::bigint AS retries,
    round(percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - scheduled_at))::numeric, 3)
      ::float8 AS total_p50,
    round(percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - scheduled_at))::numeric, 3)
      ::float8 AS total_p95
  FROM workflow_jobs
  WHERE created_at > now() - make_interval(secs => $1)
  GROUP BY 1, 2
  ORDER BY jobs DESC, 1, 2
]]

local BLOBS = [[
  SELECT coalesce(substring(key FROM '^[^/]*/'), '(no prefix)') AS prefix, count(*) AS objects,
    sum(size)::bigint AS bytes
  FROM blobs
  GROUP BY 1
  ORDER BY bytes DESC
]]

-- Executions of all workflows, by day.
local function by_day(rows)
  local days, list = {}, {}
  for _, row in ipairs(rows) do
    local day = days[row.day]
    if not day then
      day = { day = row.day, executions = 0 }
      days[row.day], list[#list + 1] = day, day
    end
    day.executions = day.executions + row.executions
  end
  table.sort(list, function(a, b) return a.day < b.day end)
  return list
end

return {
  summary = "Usage by workflow and day, waiting and run times in seconds, and what the artifacts take",
  read_only = true,

  options = {
    since = { type = "duration", default = "7d", help = "how far back" },
    workflow = { type = "string", help = "only this workflow, by name" },
    plot = { default = false, help = "also a chart of executions by day" },
    svg = { type = "file", help = "write that chart as a picture" },
  },

  run = function(ctx, opts)
    workflow_names("stats", ctx.db, opts.workflow)
    local executions = ctx.db:query(EXECUTIONS, opts.since, opts.workflow)
    local blobs = ctx.db:query(BLOBS)
    for _, row in ipairs(blobs) do row.size = ui.bytes(row.bytes) end
    local sections = {
      { title = "Executions", name = "executions", rows = executions,
        columns = { "workflow", "day", "executions", "failed", "wait_p50", "wait_p95", "run_p50", "run_p95" } },
      { title = "Jobs", name = "jobs", rows = ctx.db:query(JOBS, opts.since),
        columns = { "handler", "status", "jobs", "retries", "total_p50", "total_p95" } },
      { title = "Artifacts", name = "artifacts", rows = blobs, columns = { "prefix", "objects", "size" } },
    }
    if opts.svg then
      nebula.fs.write(opts.svg, plot.svg(by_day(executions), "day", "executions", "Executions a day"))
    end
    if opts.plot then
      sections[#sections + 1] = { title = "Executions a day", name = "days", rows = by_day(executions),
        plot = { "day", "executions" } }
    end
    return { sections = sections }
  end,
}
