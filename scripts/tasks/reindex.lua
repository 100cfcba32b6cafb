-- tasks/reindex.lua: nebula task reindex [--index NAME,...] [--table NAME,...] [--dry-run]
--
-- Rebuilds indexes beside the traffic (REINDEX ... CONCURRENTLY): those named, all of a table, or else
-- those that are invalid or bloated. What an interrupted rebuild left (NAME_ccnew, NAME_ccold) is
-- dropped; a table on which an index is being built is left alone.
local health = require "nebula.health"
local nebula = require "nebula"
local raise = require "nebula.raise"

local LOCK_TIMEOUT, TRIES = "2s", 10

local INDEXES = [[
  SELECT i.indexrelid::regclass::text AS name, i.indrelid::regclass::text AS "table", i.indisvalid AS valid,
    c.relname ~ '_cc(new|old)[0-9]*$' AS leftover, pg_relation_size(i.indexrelid) AS bytes,
    EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.relid = i.indrelid) AS building
  FROM pg_index i
  JOIN pg_class c ON c.oid = i.indexrelid
  JOIN pg_class t ON t.oid = i.indrelid
  WHERE c.relkind = 'i' AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace)
  ORDER BY t.relname, c.relname
]]

local function set_of(list)
  local set = {}
  for _, name in ipairs(list) do set[name] = true end
  return set
end

-- What is to be done: {name, table, action = "drop" | "rebuild" | "skip"}.
local function plan(db, opts)
  local names, tables = set_of(opts.index), set_of(opts.table)
  local asked = #opts.index + #opts.table > 0
  local ill = {}
  for _, finding in ipairs(asked and {} or health.look(db)) do
    if finding.kind then ill[finding.object] = true end
  end
  local list, found = {}, {}
  for _, row in ipairs(db:query(INDEXES)) do
    found[row.name], found[row.table] = true, true
    local meant = ill[row.name] or names[row.name] or tables[row.table]
    local leftover = row.leftover and not row.valid
    if meant or leftover then
      list[#list + 1] = { index = row.name, table = row.table, bytes = row.bytes,
        action = row.building and "skip: another one is being built" or leftover and "drop" or "rebuild" }
    end
  end
  for _, name in ipairs(table.move(opts.table, 1, #opts.table, #opts.index + 1, { table.unpack(opts.index) })) do
    if not found[name] then raise("config", "reindex: there is no index or indexed table %q here", name) end
  end
  return list
end

-- A lock that is not had in two seconds is asked for again later, so that nobody queues behind it.
local function patiently(ctx, connection, sql)
  for try = 1, TRIES do
    local _, err = nebula.try(connection.exec, connection, sql)
    if not err then return end
    if err.code ~= "55P03" or try == TRIES then error(err, 0) end
    ctx.log.info("waiting for a lock", { statement = sql, tries = try })
    ctx.throttle(0.5 + math.random())
  end
end

return {
  summary = "Rebuild invalid, bloated or named indexes beside the traffic",

  options = {
    index = { type = "list", default = {}, help = "these indexes" },
    table = { type = "list", default = {}, help = "every index of these tables" },
  },

  preview = function(ctx, opts)
    return { rows = plan(ctx.db, opts), columns = { "index", "table", "bytes", "action" } }
  end,

  run = function(ctx, opts)
    local list = plan(ctx.db, opts)
    local connection <close> = ctx.db:acquire()
    connection:exec("SET lock_timeout = '" .. LOCK_TIMEOUT .. "'")
    local _ <close> = setmetatable({}, { __close = function()
      nebula.try(connection.exec, connection, "RESET lock_timeout")
    end })
    local done = { rebuilt = 0, dropped = 0, skipped = 0 }
    for i, item in ipairs(list) do
      if item.action == "rebuild" then
        patiently(ctx, connection, "REINDEX INDEX CONCURRENTLY " .. item.index)
        done.rebuilt = done.rebuilt + 1
      elseif item.action == "drop" then
        patiently(ctx, connection, "DROP INDEX CONCURRENTLY " .. item.index)
        done.dropped = done.dropped + 1
      else
        done.skipped = done.skipped + 1
      end
      ctx.log.info("index", { name = item.index, action = item.action })
      ctx.progress(i, #list, "indexes")
      ctx.throttle()
    end
    return done
  end,
}
