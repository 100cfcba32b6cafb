-- V10: when a job's lease began, which its heartbeats do not move: how long it ran is known afterwards.
return {
  summary = "When a job's lease began",

  up = [[
    ALTER TABLE workflow_jobs ADD COLUMN started_at TIMESTAMPTZ;

    COMMENT ON COLUMN workflow_jobs.started_at IS 'when it was last taken under a lease; NULL: it never was';
  ]],

  down = "ALTER TABLE workflow_jobs DROP COLUMN started_at",
}
