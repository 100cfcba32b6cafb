-- V9: what a claim by lanes needs. Only jobs that have a lane pay for the two indexes.
return {
  summary = "Lanes: who wrote a job's, their limits, tokens and use; indexes by lane",

  transaction = false,

  up = {
    [[
      ALTER TABLE workflow_jobs ADD COLUMN lane_by TEXT;

      COMMENT ON COLUMN workflow_jobs.lane_by IS 'the declaration that lane is by; NULL: by whoever pushed the job';

      ALTER TABLE job_lanes
        ADD COLUMN version BIGINT,
        ADD COLUMN cap FLOAT8,
        ADD COLUMN rate FLOAT8,
        ADD COLUMN burst FLOAT8,
        ADD COLUMN tokens FLOAT8,
        ADD COLUMN tokens_at TIMESTAMPTZ;

      COMMENT ON TABLE job_lanes IS 'limits of lanes, and the tokens of their rates';
      COMMENT ON COLUMN job_lanes.version IS 'of the published policy that says cap, rate and burst';

      CREATE TABLE job_lane_usage (
        lane TEXT NOT NULL,
        minute BIGINT NOT NULL,
        seconds FLOAT8 NOT NULL,
        PRIMARY KEY (lane, minute)
      ) WITH (fillfactor = 50);

      COMMENT ON TABLE job_lane_usage IS 'worker-seconds of a lane in a minute since the epoch; kept for 10';

      CREATE INDEX idx_job_lane_usage_minute ON job_lane_usage (minute);

      CREATE TABLE job_lane_keys (
        one BOOLEAN PRIMARY KEY DEFAULT true CHECK (one),
        declaration TEXT NOT NULL,
        next_block BIGINT NOT NULL DEFAULT 0,
        last_block BIGINT NOT NULL,
        looked_at TIMESTAMPTZ NOT NULL DEFAULT now()
      );

      COMMENT ON TABLE job_lane_keys IS 'how far the pending jobs'' lanes have been written anew, by which declaration';
    ]],

    [[
      CREATE INDEX CONCURRENTLY idx_jobs_lane_time ON workflow_jobs (lane, scheduled_at)
      WHERE status = 'pending' AND lane IS NOT NULL
    ]],

    [[
      CREATE INDEX CONCURRENTLY idx_jobs_lane_running ON workflow_jobs (lane)
      WHERE status = 'running' AND lane IS NOT NULL AND lease_until IS NOT NULL
    ]],
  },

  down = [[
    DROP INDEX idx_jobs_lane_running, idx_jobs_lane_time;

    DROP TABLE job_lane_keys, job_lane_usage;

    ALTER TABLE job_lanes
      DROP COLUMN version,
      DROP COLUMN cap,
      DROP COLUMN rate,
      DROP COLUMN burst,
      DROP COLUMN tokens,
      DROP COLUMN tokens_at;

    ALTER TABLE workflow_jobs DROP COLUMN lane_by;
  ]],
}
