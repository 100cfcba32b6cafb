-- V5: a published policy with all it is made of, so that no worker needs its files; and an index for
-- the policies that take jobs by time alone, without which each claim would sort the backlog.
return {
  summary = "The policies that a published policy loads; jobs by time",

  transaction = false,

  up = {
    [[
      ALTER TABLE job_policies ADD COLUMN modules JSONB NOT NULL DEFAULT '{}';

      COMMENT ON COLUMN job_policies.modules IS 'what it loads by policy "name": {name: {source, path}}';
    ]],

    "CREATE INDEX CONCURRENTLY idx_jobs_time ON workflow_jobs (scheduled_at) WHERE status = 'pending'",
  },

  down = [[
    DROP INDEX idx_jobs_time;

    ALTER TABLE job_policies DROP COLUMN modules;
  ]],
}
