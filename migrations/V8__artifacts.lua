-- V8: what an upload leaves while it runs, so that no object in the blob store is without an owner
-- whatever ends it; and a history of executions that nobody can rewrite.
return {
  summary = "Uploads that have not ended; the history of executions is append-only",

  up = [[
    CREATE TABLE blob_uploads (
      id UUID PRIMARY KEY,
      key TEXT NOT NULL,
      execution_id UUID,
      started_at TIMESTAMPTZ NOT NULL DEFAULT now()
    );

    COMMENT ON TABLE blob_uploads IS 'uploads that run, or were cut off: sweep_blobs ends those';

    CREATE FUNCTION execution_history_stays() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        RAISE EXCEPTION 'execution_history is append-only: a row is never changed'
          USING ERRCODE = 'integrity_constraint_violation';
      END
    $$;

    CREATE TRIGGER execution_history_stays BEFORE UPDATE ON execution_history
    FOR EACH ROW EXECUTE FUNCTION execution_history_stays();
  ]],

  down = [[
    DROP TRIGGER execution_history_stays ON execution_history;

    DROP FUNCTION execution_history_stays;

    DROP TABLE blob_uploads;
  ]],
}
