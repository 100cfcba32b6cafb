-- V1: workflow definitions. This table's columns are shared with other engines: it never changes
-- here, what this host adds comes with V4 and later.
return {
  summary = "Workflow definitions",

  up = [[
    CREATE TABLE workflows (
      id UUID PRIMARY KEY,
      name VARCHAR(255) NOT NULL,
      version INTEGER NOT NULL,
      definition JSONB NOT NULL,
      status VARCHAR(50) NOT NULL,
      created_at TIMESTAMPTZ NOT NULL,
      updated_at TIMESTAMPTZ NOT NULL,
      deployed_at TIMESTAMPTZ,
      UNIQUE (name, version)
    );

    CREATE INDEX idx_workflows_status ON workflows (status);
  ]],

  down = "DROP TABLE workflows",
}
