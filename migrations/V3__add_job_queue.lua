-- V3: the job queue.
return {
  summary = "The job queue",

  up = [[
    CREATE TABLE workflow_jobs (
      id UUID PRIMARY KEY,
      workflow_id UUID NOT NULL,
      execution_id UUID NOT NULL,
      priority INTEGER DEFAULT 0,
      scheduled_at TIMESTAMPTZ NOT NULL,
      locked_by UUID,
      locked_at TIMESTAMPTZ,
      retry_count INTEGER DEFAULT 0,
      max_retries INTEGER DEFAULT 3,
      status VARCHAR(50) NOT NULL,
      payload JSONB,
      error TEXT,
      created_at TIMESTAMPTZ NOT NULL
    );

    CREATE INDEX idx_jobs_queue ON workflow_jobs (status, priority DESC, scheduled_at)
    WHERE status = 'pending';
  ]],

  down = "DROP TABLE workflow_jobs",
}
