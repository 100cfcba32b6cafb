-- advisory.lua: PostgreSQL's advisory locks of a session, and who holds one, in words.
--
-- A key is an SQL expression of a bigint. Such a lock lives as long as its session: it wants a
-- connection of its own (`pool:acquire()`), and none behind a pooler in transaction mode.
local nebula = require "nebula"

local advisory = {}

--- What is known of a session; a query begins with it and adds its WHERE.
advisory.SESSION = [[
  SELECT pid, usename AS user, coalesce(nullif(application_name, ''), 'unnamed') AS application,
    coalesce(host(client_addr), 'this machine') AS host, coalesce(xact_start, backend_start) AS since,
    state, left(regexp_replace(query, '\s+', ' ', 'g'), 80) AS query
  FROM pg_stat_activity
]]

local HOLDER = advisory.SESSION .. [[
  WHERE pid IN (
    SELECT pid
    FROM pg_locks
    WHERE locktype = 'advisory' AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (classid::bigint << 32 | objid::bigint) = %s
  )
]]

--- The key of a name within this database, as SQL; `slot` makes several of one name.
---@param name string
---@param slot? integer
---@return string
function advisory.key(name, slot)
  return ("hashtextextended(%s || current_database(), %d)"):format(nebula.pg.literal(name .. " "), slot or 0)
end

--- Takes the lock if nobody has it.
---@param connection nebula.pg.Connection
---@param key string
---@return boolean taken
function advisory.try(connection, key) return connection:value("SELECT pg_try_advisory_lock(" .. key .. ")") end

--- Gives the lock up; harmless where the connection is gone, and the lock with it.
---@param connection nebula.pg.Connection
---@param key string
function advisory.unlock(connection, key)
  nebula.try(connection.exec, connection, "SELECT pg_advisory_unlock(" .. key .. ")")
end

--- The session that holds the lock, or nil.
---@param connection nebula.pg.Connection
---@param key string
---@return {pid: integer, user: string, application: string, host: string, since: string, query?: string}?
function advisory.holder(connection, key) return connection:one(HOLDER:format(key)) end

--- A session in words.
---@param row table
---@return string
function advisory.described(row)
  return ("process %d (%s, %s from %s, since %s)"):format(row.pid, row.application, row.user, row.host, row.since)
end

return advisory
