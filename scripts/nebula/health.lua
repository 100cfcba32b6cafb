-- health.lua: what slowly goes wrong with a database: each check reads the catalogues and the
-- statistics, and gives findings `{severity=, check=, object=, finding=, remedy=}`.
--
-- "critical" needs somebody now, "warning" somebody soon, "note" is worth knowing. What a user without
-- pg_monitor may not see is not found.
local nebula = require "nebula"
local ui = require "nebula.ui"

local health = { CHECKS = {} }

--- Indexes that are invalid: name, table, and whether one is being built on that table.
health.INVALID = [[
  SELECT i.indexrelid::regclass::text AS name, i.indrelid::regclass::text AS "table",
    EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.relid = i.indrelid) AS building
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
  WHERE NOT i.indisvalid AND c.relkind = 'i'
  ORDER BY 1
]]

local OLD_TRANSACTION, VERY_OLD = 300, 3600 -- seconds
local SLOT_BYTES = 1 << 30
local XID_WARNING, XID_CRITICAL = 500000000, 1500000000 -- of two thousand million
local DEAD_ROWS, DEAD_SHARE = 10000, 0.2
local INDEX_BYTES, INDEX_BLOAT = 16 << 20, 3 -- smaller ones do not matter; times what its entries need
local STATISTICS_DAYS = 7
local QUEUE_SECONDS = 300

local function check(name, sql, describe)
  health.CHECKS[#health.CHECKS + 1] = { name = name, sql = sql, describe = describe }
end

check("old transactions", ([[
  SELECT pid, coalesce(nullif(application_name, ''), backend_type) AS application, state,
    extract(epoch FROM now() - xact_start)::float8 AS seconds, left(regexp_replace(query, '\s+', ' ', 'g'), 60) AS query
  FROM pg_stat_activity
  WHERE xact_start < now() - make_interval(secs => %d) AND pid <> pg_backend_pid() AND backend_type <> 'walsender'
  ORDER BY xact_start
]]):format(OLD_TRANSACTION), function(row)
  return {
    severity = row.seconds > VERY_OLD and "critical" or "warning", object = "process " .. row.pid,
    finding = ("%s: a transaction %s old, %s: %s"):format(row.application, ui.duration(row.seconds), row.state or "?",
      row.query),
    remedy = ("nothing newer can be vacuumed; end it: SELECT pg_terminate_backend(%d)"):format(row.pid),
  }
end)

check("prepared transactions", [[
  SELECT gid, extract(epoch FROM now() - prepared)::float8 AS seconds FROM pg_prepared_xacts
  WHERE prepared < now() - interval '5 minutes' AND database = current_database()
]], function(row)
  return { severity = "critical", object = row.gid, finding = "prepared " .. ui.duration(row.seconds) .. " ago",
    remedy = "nothing newer can be vacuumed; COMMIT PREPARED or ROLLBACK PREPARED it" }
end)

check("replication slots", ([[
  SELECT slot_name, active, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::float8 AS bytes, wal_status
  FROM pg_replication_slots
  WHERE NOT pg_is_in_recovery() AND pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) > %d
]]):format(SLOT_BYTES), function(row)
  return {
    severity = row.active and "warning" or "critical", object = row.slot_name,
    finding = ("%s slot keeps %s of WAL"):format(row.active and "an active" or "an inactive", ui.bytes(row.bytes)),
    remedy = ("start its consumer, or SELECT pg_drop_replication_slot('%s')"):format(row.slot_name),
  }
end)

check("wraparound", ([[
  SELECT relation, xids, multixacts FROM (
    SELECT c.oid::regclass::text AS relation, age(c.relfrozenxid) AS xids, mxid_age(c.relminmxid) AS multixacts
    FROM pg_class c WHERE c.relkind IN ('r', 'm', 't') AND c.relfrozenxid <> '0'
  ) ages
  WHERE greatest(xids, multixacts) > %d
  ORDER BY greatest(xids, multixacts) DESC LIMIT 10
]]):format(XID_WARNING), function(row)
  local age = math.max(row.xids, row.multixacts)
  return {
    severity = age > XID_CRITICAL and "critical" or "warning", object = row.relation,
    finding = ("%d million transactions since it was frozen; at 2,000 the server stops"):format(age // 1000000),
    remedy = "VACUUM (FREEZE, VERBOSE) " .. row.relation,
  }
end)

check("dead rows", ([[
  SELECT relid::regclass::text AS relation, n_dead_tup AS dead, n_live_tup AS live,
    extract(epoch FROM now() - greatest(last_autovacuum, last_vacuum))::float8 AS seconds,
    EXISTS (SELECT FROM pg_stat_progress_vacuum p WHERE p.relid = s.relid) AS vacuumed,
    EXISTS (SELECT FROM pg_class c, unnest(c.reloptions) AS o WHERE c.oid = s.relid
      AND o IN ('autovacuum_enabled=false', 'autovacuum_enabled=off')) AS disabled
  FROM pg_stat_user_tables s
  WHERE n_dead_tup > %d AND n_dead_tup > %g * (n_live_tup + n_dead_tup)
  ORDER BY n_dead_tup DESC
]]):format(DEAD_ROWS, DEAD_SHARE), function(row)
  return {
    severity = row.vacuumed and "note" or "warning", object = row.relation,
    finding = ("%d dead rows beside %d live ones, %s%s"):format(row.dead, row.live,
      row.vacuumed and "being vacuumed" or row.seconds and "vacuumed " .. ui.duration(row.seconds) .. " ago"
        or "never vacuumed", row.disabled and "; its autovacuum is switched off" or ""),
    remedy = row.disabled and ("ALTER TABLE %s RESET (autovacuum_enabled)"):format(row.relation)
      or "VACUUM " .. row.relation .. "; where it comes again, lower autovacuum_vacuum_scale_factor for it",
  }
end)

-- An entry takes its columns, 8 bytes and a line pointer; a page is filled to nine tenths.
check("index bloat", ([[
  SELECT * FROM (
    SELECT i.indexrelid::regclass::text AS index, pg_relation_size(i.indexrelid) AS bytes,
      (greatest(c.reltuples, 1) * (12 + coalesce(sum(s.avg_width), 8)) / 0.9)::bigint AS needed
    FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_class t ON t.oid = i.indrelid
    JOIN pg_am m ON m.oid = c.relam AND m.amname = 'btree'
    LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
    LEFT JOIN pg_stats s ON s.schemaname = t.relnamespace::regnamespace::text AND s.tablename = t.relname
      AND s.attname = a.attname
    WHERE i.indisvalid AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace)
      AND pg_relation_size(i.indexrelid) > %d
    GROUP BY i.indexrelid, c.reltuples
  ) sizes
  WHERE bytes > %g * needed
  ORDER BY bytes - needed DESC
]]):format(INDEX_BYTES, INDEX_BLOAT), function(row)
  return {
    severity = "warning", object = row.index, kind = "bloated",
    finding = ("%s, where its entries need about %s"):format(ui.bytes(row.bytes), ui.bytes(row.needed)),
    remedy = "nebula task reindex --index " .. row.index,
  }
end)

check("invalid indexes", [[
  SELECT name AS index, "table" AS relation FROM (]] .. health.INVALID .. [[) invalid WHERE NOT building
]], function(row)
  return {
    severity = "warning", object = row.index, kind = "invalid",
    finding = ("invalid: each write to %s pays for it, and no query uses it"):format(row.relation),
    remedy = "nebula task reindex",
  }
end)

check("duplicate indexes", [[
  SELECT max(indexrelid)::regclass::text AS index, min(indexrelid)::regclass::text AS twin,
    max(pg_relation_size(indexrelid)) AS bytes
  FROM (
    SELECT i.indexrelid, i.indisunique, ROW(i.indrelid, i.indkey::text, i.indclass::text, i.indcollation::text,
      i.indoption::text, coalesce(pg_get_expr(i.indexprs, i.indrelid), ''),
      coalesce(pg_get_expr(i.indpred, i.indrelid), ''), c.relam)::text AS definition
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace) AND i.indisvalid
  ) indexes
  GROUP BY definition, indisunique
  HAVING count(*) > 1
]], function(row)
  return { severity = "warning", object = row.index,
    finding = ("the same as %s, %s"):format(row.twin, ui.bytes(row.bytes)),
    remedy = "DROP INDEX CONCURRENTLY " .. row.index }
end)

check("unused indexes", ([[
  SELECT s.indexrelid::regclass::text AS index, pg_relation_size(s.indexrelid) AS bytes
  FROM pg_stat_user_indexes s JOIN pg_index i USING (indexrelid)
  WHERE s.idx_scan = 0 AND NOT i.indisunique AND pg_relation_size(s.indexrelid) > %d
    AND (SELECT stats_reset FROM pg_stat_database WHERE datname = current_database())
      < now() - make_interval(days => %d)
  ORDER BY bytes DESC
]]):format(INDEX_BYTES, STATISTICS_DAYS), function(row)
  return { severity = "note", object = row.index,
    finding = ("%s, and no query has used it since the statistics began"):format(ui.bytes(row.bytes)),
    remedy = "if no replica uses it either: DROP INDEX CONCURRENTLY " .. row.index }
end)

check("queue", ([[
  SELECT 'due' AS kind, extract(epoch FROM now() - min(scheduled_at))::float8 AS seconds FROM workflow_jobs
  WHERE status = 'pending' AND scheduled_at <= now()
  HAVING min(scheduled_at) < now() - make_interval(secs => %d)
  UNION ALL
  SELECT 'stuck', extract(epoch FROM now() - min(lease_until))::float8 FROM workflow_jobs
  WHERE status = 'running' AND lease_until IS NOT NULL
  HAVING min(lease_until) < now() - make_interval(secs => %d)
]]):format(QUEUE_SECONDS, QUEUE_SECONDS), function(row)
  if row.kind == "due" then
    return { severity = "warning", object = "workflow_jobs",
      finding = "the oldest due job has waited " .. ui.duration(row.seconds),
      remedy = "start workers (nebula worker), or look at the policy: nebula policy list, nebula queue stats" }
  end
  return { severity = "warning", object = "workflow_jobs",
    finding = ("a job's lease ended %s ago, and nobody rescued it"):format(ui.duration(row.seconds)),
    remedy = "start a worker, which rescues, or: nebula task rescue-stuck" }
end)

local ORDER = { critical = 1, warning = 2, note = 3 }

--- All findings, the gravest first.
---@param db nebula.pg.Pool|nebula.pg.Transaction
---@return {severity: string, check: string, object: string, finding: string, remedy: string}[]
function health.look(db)
  local findings = {}
  for _, one in ipairs(health.CHECKS) do
    for _, row in ipairs(db:query(one.sql)) do
      local found = one.describe(row)
      found.check = one.name
      findings[#findings + 1] = found
    end
  end
  table.sort(findings, function(a, b)
    if a.severity ~= b.severity then return ORDER[a.severity] < ORDER[b.severity] end
    if a.check ~= b.check then return a.check < b.check end
    return a.object < b.object
  end)
  return findings
end

--- The tables with their sizes, the largest first; `growth` in bytes a day since the sizes given.
---@param db nebula.pg.Pool|nebula.pg.Transaction
---@param before? {at: number, bytes: table<string, integer>} as health.remember gave it
---@return {table: string, rows: integer, bytes: integer, growth?: number}[]
function health.sizes(db, before)
  local rows = db:query [[
    SELECT c.oid::regclass::text AS "table", greatest(c.reltuples, 0)::bigint AS rows,
      pg_total_relation_size(c.oid) AS bytes
    FROM pg_class c
    WHERE c.relkind IN ('r', 'm') AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace)
      AND c.relnamespace <> 'information_schema'::regnamespace AND c.relpersistence <> 't'
    ORDER BY bytes DESC, 1
  ]]
  local days = before and (nebula.time.now() - before.at) / 86400
  for _, row in ipairs(rows) do
    local was = before and before.bytes[row.table]
    if was and days > 0 then row.growth = (row.bytes - was) / days end
  end
  return rows
end

--- What a later health.sizes compares with.
---@param sizes table[] health.sizes'
---@return table
function health.remember(sizes)
  local bytes = {}
  for _, row in ipairs(sizes) do bytes[row.table] = row.bytes end
  return { at = nebula.time.now(), bytes = bytes }
end

return health
