-- V2: one row for each run of a workflow, with its state.
return {
  summary = "Executions and their state",

  up = [[
    CREATE TABLE executions (
      id UUID PRIMARY KEY,
      workflow_id UUID NOT NULL REFERENCES workflows (id),
      status VARCHAR(50) NOT NULL,
      started_at TIMESTAMPTZ NOT NULL,
      completed_at TIMESTAMPTZ,
      state JSONB NOT NULL,
      error TEXT,
      created_at TIMESTAMPTZ NOT NULL,
      updated_at TIMESTAMPTZ NOT NULL
    );

    CREATE INDEX idx_executions_workflow_status ON executions (workflow_id, status);
  ]],

  down = "DROP TABLE executions",
}
