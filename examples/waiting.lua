#!/usr/bin/env nebula
-- waiting.lua: which workflows have jobs waiting, and since when. ./waiting.lua --least 10
local nebula = require "nebula"
local storage = require("nebula.storage").from_env()

local opts = nebula.args {
  summary = "Show the workflows whose jobs wait longest",
  options = {
    least = { type = "integer", default = 1, min = 1, help = "only workflows with so many jobs waiting" },
  },
}

local rows = storage.db:query([[
  SELECT w.name, count(*) AS waiting, extract(epoch FROM now() - min(j.scheduled_at))::bigint AS seconds
  FROM workflow_jobs j JOIN workflows w ON w.id = j.workflow_id
  WHERE j.status = 'pending' AND j.scheduled_at <= now()
  GROUP BY w.name
  HAVING count(*) >= $1
  ORDER BY seconds DESC
]], opts.least)

for _, row in ipairs(rows) do
  print(("%-30s %8d waiting, the first for %d s"):format(row.name, row.waiting, row.seconds))
end
