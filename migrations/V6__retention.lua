-- V6: what retention reads: finished executions by the time they ended, and objects that nobody owns.
--
-- An execution that another engine finished may have no completed_at: its last change is its end.
return {
  summary = "Executions by their end; objects without an owner",
  transaction = false,

  up = {
    [[
      CREATE TABLE IF NOT EXISTS blob_orphans (
        key TEXT PRIMARY KEY,
        etag TEXT NOT NULL,
        size BIGINT NOT NULL,
        found_at TIMESTAMPTZ NOT NULL DEFAULT now()
      );

      COMMENT ON TABLE blob_orphans IS 'objects that no row of blobs names: gc-blobs deletes them after a while';
    ]],
    [[
      CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_executions_ended ON executions
        ((coalesce(completed_at, updated_at)))
      WHERE status IN ('completed', 'failed', 'cancelled', 'timed_out')
    ]],
  },

  down = [[
    DROP INDEX idx_executions_ended;

    DROP TABLE blob_orphans;
  ]],
}
