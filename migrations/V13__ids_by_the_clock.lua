-- V13: ids that the database makes are UUIDv7: they begin with the time, as those do that this host makes.
-- A job that ends writes its entry in the primary key anew. With ids in the order of time the pages it
-- touches are those of the jobs beside it; with random ones each is a page of its own, which the first
-- change after a checkpoint writes to the log as a whole, and which a big table has no room in memory for.
local BY_THE_CLOCK = [[
  (lpad(to_hex(floor(date_part('epoch', clock_timestamp()) * 1000)::bigint), 12, '0')
    || '7' || substr(gen_random_uuid()::text, 16))::uuid
]]

local function with_default(expression)
  return ([[
    ALTER TABLE workflows ALTER COLUMN id SET DEFAULT %s;

    ALTER TABLE executions ALTER COLUMN id SET DEFAULT %s;

    ALTER TABLE workflow_jobs
      ALTER COLUMN id SET DEFAULT %s,
      ALTER COLUMN execution_id SET DEFAULT %s;
  ]]):gsub("%%s", function() return expression end)
end

return {
  summary = "Ids that the database makes are in the order of time",

  up = with_default(BY_THE_CLOCK),

  down = with_default "gen_random_uuid()",
}
