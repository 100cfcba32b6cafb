-- V11: the workflow of jobs that belong to none, which is also the default of their column (V4). It stands
-- before the first push, so that no push writes it or waits for another one's.
return {
  summary = "The workflow nebula.adhoc, of jobs that belong to none",

  up = [[
    INSERT INTO workflows (id, name, version, definition, status, created_at, updated_at)
    VALUES ('6ecd2b0f-6009-5a60-a575-ee6236849e14', 'nebula.adhoc', 1, '{}', 'active', now(), now())
    ON CONFLICT DO NOTHING
  ]],

  down = [[
    DELETE FROM workflows w
    WHERE id = '6ecd2b0f-6009-5a60-a575-ee6236849e14'
    AND NOT EXISTS (SELECT FROM executions e WHERE e.workflow_id = w.id)
  ]],
}
