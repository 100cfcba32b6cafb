-- V7: what operating the queue needs: pauses, keys that are held for a time, periodic firings, and
-- which workers there are.
return {
  summary = "Pauses, keys held for a time, periodic firings, workers",

  up = [[
    ALTER TABLE workflow_jobs ADD COLUMN unique_while TEXT;

    COMMENT ON COLUMN workflow_jobs.unique_while IS 'pending: it has its key until it begins; NULL: until it ends';

    CREATE TABLE job_keys (
      key TEXT PRIMARY KEY,
      job UUID NOT NULL,
      held_until TIMESTAMPTZ NOT NULL
    );

    COMMENT ON TABLE job_keys IS 'unique keys held for a time after the push, whatever became of the job';

    CREATE INDEX idx_job_keys_held ON job_keys (held_until);

    CREATE TABLE job_pauses (
      lane TEXT PRIMARY KEY,
      paused_at TIMESTAMPTZ NOT NULL DEFAULT now(),
      paused_by TEXT NOT NULL DEFAULT current_user,
      reason TEXT
    );

    COMMENT ON TABLE job_pauses IS 'lanes of which no job is taken; the lane with the empty name is the whole queue';

    CREATE TABLE job_periodic (
      name TEXT PRIMARY KEY,
      fired_at TIMESTAMPTZ NOT NULL,
      job UUID
    );

    COMMENT ON TABLE job_periodic IS 'the last firing of each periodic job, and the job it pushed';

    CREATE TABLE job_workers (
      id UUID PRIMARY KEY,
      host TEXT NOT NULL,
      pid INTEGER NOT NULL,
      started_at TIMESTAMPTZ NOT NULL DEFAULT now(),
      seen_at TIMESTAMPTZ NOT NULL DEFAULT now(),
      state JSONB NOT NULL
    ) WITH (fillfactor = 50);

    COMMENT ON TABLE job_workers IS 'worker processes, each row renewed by its own; gone when it ends in order';
  ]],

  down = [[
    DROP TABLE job_workers, job_periodic, job_pauses, job_keys;

    ALTER TABLE workflow_jobs DROP COLUMN unique_while;
  ]],
}
