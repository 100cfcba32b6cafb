-- V4: what this host adds to the shared tables, and its own tables.
--
-- Everything here is additive. An engine that knows V1 to V3 alone inserts, claims and finishes its
-- rows as before: each new column has a default or may be NULL, no index refuses what that engine
-- may write, and nothing of ours touches a row that it holds (its claims have no lease_until).
--
-- The indexes on workflow_jobs are partial, so that finishing a job writes one index entry (the
-- primary key's) and not one for each. They are built beside the traffic of a database that is taken
-- over with its rows; hence the steps, of which each is recorded.
return {
  summary = "Leases, lanes, results, history, artifacts, published policies",
  transaction = false,

  up = {
    [[
      ALTER TABLE workflows
        ALTER COLUMN id SET DEFAULT gen_random_uuid(),
        ALTER COLUMN version SET DEFAULT 1,
        ALTER COLUMN status SET DEFAULT 'draft',
        ALTER COLUMN created_at SET DEFAULT now(),
        ALTER COLUMN updated_at SET DEFAULT now(),
        ADD COLUMN deployed BOOLEAN NOT NULL DEFAULT false;

      COMMENT ON COLUMN workflows.deployed IS 'the one version of this name that runs; set by deploy_workflow';
    ]],

    "CREATE UNIQUE INDEX CONCURRENTLY idx_workflows_deployed ON workflows (name) WHERE deployed",

    "CREATE INDEX CONCURRENTLY idx_workflows_definition ON workflows USING gin (definition jsonb_path_ops)",

    [[
      ALTER TABLE executions
        ALTER COLUMN id SET DEFAULT gen_random_uuid(),
        ALTER COLUMN status SET DEFAULT 'created',
        ALTER COLUMN started_at SET DEFAULT now(),
        ALTER COLUMN state SET DEFAULT '{}',
        ALTER COLUMN created_at SET DEFAULT now(),
        ALTER COLUMN updated_at SET DEFAULT now(),
        ADD COLUMN idempotency_key TEXT,
        ADD COLUMN fingerprint TEXT;

      COMMENT ON COLUMN executions.fingerprint IS 'SHA-256 of the request that came with idempotency_key';
    ]],

    [[
      CREATE UNIQUE INDEX CONCURRENTLY idx_executions_idempotency ON executions (idempotency_key)
      WHERE idempotency_key IS NOT NULL
    ]],

    [[
      CREATE TABLE execution_history (
        execution_id UUID NOT NULL REFERENCES executions (id) ON DELETE CASCADE,
        seq BIGINT GENERATED ALWAYS AS IDENTITY,
        at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
        from_status VARCHAR(50),
        to_status VARCHAR(50) NOT NULL,
        error TEXT,
        PRIMARY KEY (execution_id, seq)
      );

      COMMENT ON TABLE execution_history IS 'append-only: each change of an execution''s status';
    ]],

    [[
      ALTER TABLE workflow_jobs
        ALTER COLUMN id SET DEFAULT gen_random_uuid(),
        ALTER COLUMN workflow_id SET DEFAULT '6ecd2b0f-6009-5a60-a575-ee6236849e14',
        ALTER COLUMN execution_id SET DEFAULT gen_random_uuid(),
        ALTER COLUMN scheduled_at SET DEFAULT now(),
        ALTER COLUMN status SET DEFAULT 'pending',
        ALTER COLUMN created_at SET DEFAULT now(),
        ADD COLUMN token BIGINT NOT NULL DEFAULT 0,
        ADD COLUMN lease_until TIMESTAMPTZ,
        ADD COLUMN suspect BOOLEAN NOT NULL DEFAULT false,
        ADD COLUMN lane TEXT,
        ADD COLUMN unique_key TEXT,
        ADD COLUMN result JSONB,
        ADD COLUMN progress JSONB,
        ADD COLUMN failures JSONB,
        ADD COLUMN finished_at TIMESTAMPTZ;

      COMMENT ON COLUMN workflow_jobs.workflow_id IS 'default: the workflow nebula.adhoc';
      COMMENT ON COLUMN workflow_jobs.token IS 'fencing token: grows with each lease';
      COMMENT ON COLUMN workflow_jobs.lease_until IS 'end of the lease; NULL where another engine holds the job';
      COMMENT ON COLUMN workflow_jobs.suspect IS 'ran when its process died: runs alone, under a lease';
      COMMENT ON COLUMN workflow_jobs.lane IS 'share of the queue, by the policy; NULL: the workflow is the lane';
      COMMENT ON COLUMN workflow_jobs.failures IS 'array of {at, attempt, kind, message, worker}, the newest last';
    ]],

    [[
      CREATE INDEX CONCURRENTLY idx_jobs_lease ON workflow_jobs (lease_until)
      WHERE status = 'running' AND lease_until IS NOT NULL
    ]],

    [[
      CREATE INDEX CONCURRENTLY idx_jobs_suspect ON workflow_jobs (scheduled_at)
      WHERE status = 'pending' AND suspect
    ]],

    [[
      CREATE INDEX CONCURRENTLY idx_jobs_lane ON workflow_jobs (lane, priority DESC, scheduled_at)
      WHERE status = 'pending' AND lane IS NOT NULL
    ]],

    [[
      CREATE UNIQUE INDEX CONCURRENTLY idx_jobs_unique ON workflow_jobs (unique_key)
      WHERE unique_key IS NOT NULL AND status IN ('pending', 'running')
    ]],

    [[
      CREATE INDEX CONCURRENTLY idx_jobs_execution ON workflow_jobs (execution_id)
      WHERE status IN ('pending', 'running')
    ]],

    [[
      CREATE INDEX CONCURRENTLY idx_jobs_trouble ON workflow_jobs (status, id)
      WHERE status IN ('failed', 'dead', 'cancelled')
    ]],

    [[
      CREATE TABLE job_lanes (
        lane TEXT PRIMARY KEY,
        pushed_at TIMESTAMPTZ NOT NULL DEFAULT now()
      );

      COMMENT ON TABLE job_lanes IS 'lanes that jobs were pushed into, of which a claim draws some';

      CREATE TABLE job_policies (
        version BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name TEXT NOT NULL,
        source TEXT NOT NULL,
        options JSONB NOT NULL DEFAULT '{}',
        published_by TEXT NOT NULL DEFAULT current_user,
        published_at TIMESTAMPTZ NOT NULL DEFAULT now()
      );

      COMMENT ON TABLE job_policies IS 'published queue policies; the highest version is in force';
    ]],

    [[
      CREATE TABLE blobs (
        key TEXT PRIMARY KEY,
        execution_id UUID,
        size BIGINT NOT NULL,
        sha256 TEXT NOT NULL,
        url TEXT NOT NULL,
        created_at TIMESTAMPTZ NOT NULL DEFAULT now()
      );

      COMMENT ON TABLE blobs IS 'each artifact in the blob store: whose it is, its size and SHA-256';

      CREATE INDEX idx_blobs_execution ON blobs (execution_id);

      CREATE TABLE task_checkpoints (
        task TEXT PRIMARY KEY,
        value JSONB NOT NULL,
        updated_at TIMESTAMPTZ NOT NULL DEFAULT now()
      );

      COMMENT ON TABLE task_checkpoints IS 'where an admin task goes on after it was interrupted';
    ]],
  },

  down = [[
    DROP TABLE task_checkpoints, blobs, job_policies, job_lanes, execution_history;

    DROP INDEX idx_jobs_lease, idx_jobs_suspect, idx_jobs_lane, idx_jobs_unique, idx_jobs_execution,
      idx_jobs_trouble, idx_executions_idempotency, idx_workflows_deployed, idx_workflows_definition;

    ALTER TABLE workflow_jobs
      ALTER COLUMN id DROP DEFAULT,
      ALTER COLUMN workflow_id DROP DEFAULT,
      ALTER COLUMN execution_id DROP DEFAULT,
      ALTER COLUMN scheduled_at DROP DEFAULT,
      ALTER COLUMN status DROP DEFAULT,
      ALTER COLUMN created_at DROP DEFAULT,
      DROP COLUMN token,
      DROP COLUMN lease_until,
      DROP COLUMN suspect,
      DROP COLUMN lane,
      DROP COLUMN unique_key,
      DROP COLUMN result,
      DROP COLUMN progress,
      DROP COLUMN failures,
      DROP COLUMN finished_at;

    ALTER TABLE executions
      ALTER COLUMN id DROP DEFAULT,
      ALTER COLUMN status DROP DEFAULT,
      ALTER COLUMN started_at DROP DEFAULT,
      ALTER COLUMN state DROP DEFAULT,
      ALTER COLUMN created_at DROP DEFAULT,
      ALTER COLUMN updated_at DROP DEFAULT,
      DROP COLUMN idempotency_key,
      DROP COLUMN fingerprint;

    ALTER TABLE workflows
      ALTER COLUMN id DROP DEFAULT,
      ALTER COLUMN version DROP DEFAULT,
      ALTER COLUMN status DROP DEFAULT,
      ALTER COLUMN created_at DROP DEFAULT,
      ALTER COLUMN updated_at DROP DEFAULT,
      DROP COLUMN deployed;
  ]],
}
