-- V14: what archiving and purging many executions needs.
--
-- The history goes with its execution by a trigger for each statement, and not by a foreign key, whose check
-- of each row took most of the time in which executions were deleted, and some of each transition's. Nobody
-- writes an execution's history but with a change of that execution. A transaction that has deleted the
-- history itself says so: SET LOCAL nebula.history = 'gone'.
--
-- An artifact knows the archive that its execution is in: it belongs to somebody as long as one of both is
-- there. Of artifacts that are older than the column nothing is known ('').
return {
  summary = "History that goes with its executions by statement; artifacts of archives",
  transaction = false,

  up = {
    [[
      ALTER TABLE execution_history DROP CONSTRAINT IF EXISTS execution_history_execution_id_fkey;

      CREATE OR REPLACE FUNCTION execution_history_goes() RETURNS trigger LANGUAGE plpgsql
      SECURITY DEFINER SET search_path FROM CURRENT SET enable_hashjoin = off SET enable_mergejoin = off AS $$
        BEGIN
          DELETE FROM execution_history h USING gone WHERE h.execution_id = gone.id;
          RETURN NULL;
        END
      $$;

      CREATE OR REPLACE TRIGGER execution_history_goes AFTER DELETE ON executions REFERENCING OLD TABLE AS gone
      FOR EACH STATEMENT WHEN (current_setting('nebula.history', true) IS DISTINCT FROM 'gone')
      EXECUTE FUNCTION execution_history_goes();

      ALTER TABLE blobs ADD COLUMN archive TEXT DEFAULT '';

      ALTER TABLE blobs ALTER COLUMN archive DROP DEFAULT;

      COMMENT ON COLUMN blobs.archive IS 'key of the archive that has its execution; empty: not known';
    ]],

    "CREATE INDEX CONCURRENTLY idx_blobs_archive ON blobs (archive) WHERE archive <> ''",
  },

  down = [[
    ALTER TABLE blobs DROP COLUMN archive;

    DROP TRIGGER execution_history_goes ON executions;

    DROP FUNCTION execution_history_goes;

    DELETE FROM execution_history h WHERE NOT EXISTS (SELECT FROM executions e WHERE e.id = h.execution_id);

    ALTER TABLE execution_history ADD FOREIGN KEY (execution_id) REFERENCES executions (id) ON DELETE CASCADE;
  ]],
}
