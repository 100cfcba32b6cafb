-- doctor/database.lua: what may be wrong with the database: each check reads, and says what it found.
local health = require "nebula.health"
local migrate = require "nebula.migrate"
local nebula = require "nebula"
local config = require "nebula.config"

local database = { CHECKS = {} }

local OLDEST = 130000 -- of server_version_num: gen_random_uuid() is built in from here on
local SKEW_SECONDS, LAG_SECONDS = 2, 30
local IN_USE = 0.9 -- of the server's connections

--- Connects, and tells what server it is.
function database.reach(self, db)
  local started = nebula.time.monotonic()
  local row = db:one [[
    SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS number,
      current_database() AS name, current_user AS "user", pg_is_in_recovery() AS standby,
      coalesce(host(inet_server_addr()) || ':' || inet_server_port(), 'a unix socket') AS place
  ]]
  local milliseconds = (nebula.time.monotonic() - started) * 1000
  self:ok("database", "PostgreSQL %s at %s: database %s as %s, connected and answered in %.1f ms", row.version,
    row.place, row.name, row.user, milliseconds)
  if row.number < OLDEST then
    self:fail("server version", "PostgreSQL " .. row.version .. " is too old", "use PostgreSQL 13 or newer")
  end
  if row.standby then
    self:fail("server role", "this server is a standby, which takes no writes",
      "name the primary in DATABASE_URL (several hosts, with target_session_attrs=read-write, survive a failover)")
  end
end

local function check(name, remedy, run) table.insert(database.CHECKS, { name = name, remedy = remedy, run = run }) end

check("clock", nil, function(self, db)
  local before = nebula.time.now()
  local server = db:value "SELECT extract(epoch FROM clock_timestamp())::float8"
  local after = nebula.time.now()
  local skew = server < before and server - before or server > after and server - after or 0
  if math.abs(skew) > SKEW_SECONDS then
    self:warn("clock", ("the database's clock is %.1f s %s this machine's"):format(math.abs(skew),
      skew > 0 and "ahead of" or "behind"), "synchronise both machines' clocks (chrony, systemd-timesyncd); "
      .. "leases follow the database's, schedules and signatures this machine's")
  else
    self:ok("clock", "the database's clock is within %.2f s of this machine's", math.abs(skew) + (after - before))
  end
end)

check("migrations", "run `nebula migrate status`", function(self, db)
  local pending, newest = {}, "none"
  for _, row in ipairs(migrate.status(db, { path = config.settings().migration_path })) do
    local label = ("%s V%d__%s"):format(row.series, row.version, row.name)
    if row.state == "applied" then
      newest = label
    else
      pending[#pending + 1] = label .. (row.state == "pending" and "" or " (" .. row.state .. ")")
    end
  end
  if #pending > 0 then
    self:fail("migrations", ("%d to apply: %s"):format(#pending, table.concat(pending, ", ")),
      "run `nebula migrate up`")
  else
    self:ok("migrations", "all applied; the newest is %s", newest)
  end
end)

check("permissions", nil, function(self, db)
  local row = db:one [[
    SELECT current_user AS "user", current_schema() AS schema,
      coalesce(has_schema_privilege(current_schema(), 'USAGE'), false) AS usage,
      coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS "create"
  ]]
  if not row.schema then
    self:fail("permissions", "no schema of the search_path exists", "CREATE SCHEMA, or correct search_path")
    return
  end
  local missing = db:query [[
    SELECT c.relname AS name, array_agg(p ORDER BY p) AS privileges
    FROM pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p')
      AND NOT has_table_privilege(c.oid, p)
    GROUP BY 1
    ORDER BY 1
  ]]
  for _, entry in ipairs(missing) do
    local list, name = table.concat(entry.privileges, ", "), nebula.pg.ident(row.schema, entry.name)
    self:fail("permissions", ("%s may not %s on %s"):format(row.user, list, name),
      ("GRANT %s ON %s TO %s"):format(list, name, nebula.pg.ident(row.user)))
  end
  if not row.usage or not row.create then
    self:warn("permissions", ("%s may not make tables in the schema %s: it cannot apply migrations"):format(row.user,
      row.schema), ("GRANT USAGE, CREATE ON SCHEMA %s TO %s, or migrate as the schema's owner"):format(
      nebula.pg.ident(row.schema), nebula.pg.ident(row.user)))
  elseif #missing == 0 then
    self:ok("permissions", "%s may read and write every table of the schema %s, and make new ones", row.user,
      row.schema)
  end
end)

check("connections", nil, function(self, db)
  local wanted = config.settings().database.max_connections
  local row = db:one [[
    SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS most,
      (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS used,
      (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS role_limit,
      (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS database_limit
  ]]
  local most, whose = row.most, "the server"
  if row.role_limit >= 0 and row.role_limit < most then most, whose = row.role_limit, "the role's CONNECTION LIMIT" end
  if row.database_limit >= 0 and row.database_limit < most then
    most, whose = row.database_limit, "the database's CONNECTION LIMIT"
  end
  local text = ("the pool may open %d connections a process, %s allows %d, %d are open"):format(wanted, whose, most,
    row.used)
  if wanted > most then
    self:fail("connections", text, ("set DATABASE_MAX_CONNECTIONS to less than %d, divided by the number of "
      .. "processes, or raise max_connections in postgresql.conf"):format(most))
  elseif row.used > most * IN_USE then
    self:warn("connections", text, "find who holds them in pg_stat_activity, or raise max_connections")
  else
    self:ok("connections", "%s", text)
  end
end)

check("indexes", nil, function(self, db)
  local rows = db:query(health.INVALID)
  for _, row in ipairs(rows) do
    if row.building then
      self:warn("indexes", ("%s on %s is being built"):format(row.name, row.table), "wait for it to end")
    else
      self:fail("indexes", ("%s on %s is invalid: it costs at each write and serves no query"):format(row.name,
        row.table), ("REINDEX INDEX CONCURRENTLY %s, or DROP INDEX CONCURRENTLY %s"):format(row.name, row.name))
    end
  end
  if #rows == 0 then self:ok("indexes", "none is invalid") end
end)

--- How far the replica is behind.
function database.replica(self, primary, replica)
  if not replica:value "SELECT pg_is_in_recovery()" then
    self:warn("replica", "DATABASE_REPLICA_URL names a server that is no standby",
      "name a replica, or unset DATABASE_REPLICA_URL")
    return
  end
  local at = primary:value "SELECT pg_current_wal_lsn()::text"
  local row = replica:one([[
    SELECT pg_wal_lsn_diff($1::pg_lsn, pg_last_wal_replay_lsn())::float8 AS bytes,
      extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 AS seconds
  ]], at)
  local bytes = math.max(row.bytes or math.huge, 0)
  local seconds = bytes == 0 and 0 or row.seconds or math.huge
  local text = ("it is %s and %.1f s behind the primary"):format(require("nebula.ui").bytes(bytes), seconds)
  if seconds > LAG_SECONDS then
    self:warn("replica", text, "look at pg_stat_replication on the primary, and at the replica's log, disk and network")
  else
    self:ok("replica", "%s", text)
  end
end

return database
