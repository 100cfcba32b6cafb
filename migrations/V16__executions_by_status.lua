-- V16: the page of executions in a state, the newest first, without a walk past all that are completed. Those
-- are most of a big table, so that a page of them is found in the primary key; they pay nothing here.
return {
  summary = "Executions by status",
  transaction = false,

  up = {
    [[
      CREATE INDEX CONCURRENTLY idx_executions_status ON executions (status, id)
      WHERE status <> 'completed'
    ]],
  },

  down = "DROP INDEX idx_executions_status",
}
