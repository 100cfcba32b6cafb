-- A project's own first migration: a column for a big table, filled beside the traffic.
-- The host's migrations are a series apart. With transaction=false each finished step is recorded: a
-- rerun goes on at the one that was interrupted, and inside a backfill behind the last page.
return {
  summary = "Executions know their tenant",
  transaction = false,

  up = {
    "ALTER TABLE executions ADD COLUMN IF NOT EXISTS tenant TEXT",

    function(db, migrate)
      migrate.backfill(db, {
        table = "executions",
        set   = "tenant = coalesce(state ->> 'tenant', 'unknown')",
        where = "tenant IS NULL",
      })
    end,

    "CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_executions_tenant ON executions (tenant, created_at)",
  },

  down = "ALTER TABLE executions DROP COLUMN tenant",
}
