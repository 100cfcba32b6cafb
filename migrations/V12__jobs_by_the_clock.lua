-- V12: jobs that are pushed in one statement are due one after the other, by the clock, and not all at the
-- time their transaction began: a claim that begins in the middle of them is told apart from what is
-- finished before it by that time alone.
return {
  summary = "Jobs of one statement are due one after the other",

  up = "ALTER TABLE workflow_jobs ALTER COLUMN scheduled_at SET DEFAULT clock_timestamp()",

  down = "ALTER TABLE workflow_jobs ALTER COLUMN scheduled_at SET DEFAULT now()",
}
