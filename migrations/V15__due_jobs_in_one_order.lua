-- V15: what a worker's claim reads. Jobs that are due at the same time stand in the order of their ids, so
-- that a claim which begins in the middle of them is told apart from what is finished before it; and jobs
-- that name no handler, which are another engine's, are not read at all.
return {
  summary = "Due jobs in one order, those of other engines apart",

  transaction = false,

  up = {
    [[
      CREATE INDEX CONCURRENTLY idx_jobs_due ON workflow_jobs (priority DESC, scheduled_at, id)
      WHERE status = 'pending' AND payload ->> 'handler' IS NOT NULL
    ]],

    "CREATE INDEX CONCURRENTLY idx_jobs_age ON workflow_jobs (scheduled_at, id) WHERE status = 'pending'",

    "DROP INDEX idx_jobs_time",
  },

  down = {
    "CREATE INDEX CONCURRENTLY idx_jobs_time ON workflow_jobs (scheduled_at) WHERE status = 'pending'",

    "DROP INDEX idx_jobs_age, idx_jobs_due",
  },
}
