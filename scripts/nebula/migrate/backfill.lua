-- migrate/backfill.lua: changes every row of a big table beside its traffic.
--
-- The table is read by primary key, a page at a time; each page is one short transaction that
-- changes the rows of the page and notes how far it came, so that after a kill each row has been
-- changed once or not yet, and the next run goes on behind the last page. The page's size follows
-- the time a page takes. Between two pages it waits for replicas that fall behind, and goes slower
-- while the table is vacuumed.
--
-- Where no changed row matches `where` any more, another pass changes nothing twice: passes are
-- then repeated until one finds no row, so that rows which others inserted behind the reading are
-- not forgotten.
local nebula = require "nebula"
local options = require "nebula.options"
local throttle = require "nebula.throttle"

local backfill = {}

local DECLARED = {
  table = { required = true, help = "its name, schema-qualified where it must be" },
  set = { required = true, help = "what UPDATE puts after SET" },
  where = { help = "which rows; none: all" },
  key = { type = "list", help = "the columns of a unique index; none: the primary key" },
  batch = { type = "integer", default = 1000, min = 1, max = 100000, help = "rows of the first page" },
  target = { type = "duration", default = 0.25, min = 0.001, help = "what a page shall take" },
  max_lag = { type = "duration", default = 5, help = "the replicas' lag from which on it waits" },
  pause = { type = "duration", default = 0, help = "between two pages" },
}

local MOST_ROWS, MOST_PASSES, COUNTED_ROWS = 100000, 5, 1000000
local LOCKED_SECONDS, MOST_LOCKED = 0.2, 60
local RETRIED = { ["55P03"] = true, ["40P01"] = true, ["40001"] = true }

local CREATE = [[
  CREATE TABLE IF NOT EXISTS nebula_schema_backfills (
    name TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    position TEXT[],
    pass INTEGER NOT NULL DEFAULT 1,
    done BIGINT NOT NULL DEFAULT 0,
    changed BIGINT NOT NULL DEFAULT 0,
    found BIGINT NOT NULL DEFAULT 0,
    settles BOOLEAN NOT NULL DEFAULT true,
    updated_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
  )
]]

local SAVE = [[
  INSERT INTO nebula_schema_backfills (name, fingerprint, position, pass, done, changed, found, settles)
  VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
  ON CONFLICT (name) DO UPDATE
  SET fingerprint = excluded.fingerprint, position = excluded.position, pass = excluded.pass, done = excluded.done,
    changed = excluded.changed, found = excluded.found, settles = excluded.settles, updated_at = clock_timestamp()
]]

local KEYS = [[
  SELECT array_agg(a.attname::text ORDER BY k.n) AS names,
    array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY k.n) AS types, i.indisprimary AS is_primary
  FROM pg_index i
  CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n)
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
  WHERE i.indrelid = $1::regclass AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
    AND k.n <= i.indnkeyatts
  GROUP BY i.indexrelid, i.indisprimary
  HAVING bool_and(a.attnotnull)
  ORDER BY i.indisprimary DESC, i.indexrelid
]]

local function fail(message, ...)
  error(nebula.error { kind = "validation", message = "migrate.backfill: " .. message:format(...) }, 0)
end

-- The columns the table is read by, and their types.
local function key_of(db, opts)
  local wanted = opts.key and table.concat(opts.key, ", ")
  for _, index in ipairs(db:query(KEYS, opts.table)) do
    if wanted and table.concat(index.names, ", ") == wanted or not wanted and index.is_primary then
      return index.names, index.types
    end
  end
  if wanted then fail("%s has no unique index on (%s) whose columns are NOT NULL", opts.table, wanted) end
  fail("%s has no primary key; name the columns of a unique index as `key`", opts.table)
end

-- One page: $1 is the last key seen, as text, and $2 how many rows.
local function page_sql(opts, names, types, first)
  local columns, out, join, after, texts = {}, {}, {}, {}, {}
  for i, name in ipairs(names) do
    local quoted, alias = nebula.pg.ident(name), "nebula_key_" .. i
    columns[i] = quoted
    out[i] = quoted .. " AS " .. alias
    join[i] = ("%s.%s = nebula_page.%s"):format(opts.table, quoted, alias)
    after[i] = ("($1::text[])[%d]::%s"):format(i, types[i])
    texts[i] = alias .. "::text"
  end
  local order = table.concat(columns, ", ")
  local matches = opts.where and ("(%s)"):format(opts.where) or "true"
  return ([[
    WITH nebula_page AS MATERIALIZED (
      SELECT %s FROM %s %s ORDER BY %s LIMIT $2
    ), nebula_changed AS (
      UPDATE %s
      SET %s
      FROM nebula_page
      WHERE %s AND %s
      RETURNING %s IS TRUE AS matches
    ), nebula_last AS (
      SELECT ARRAY[%s] AS position FROM nebula_page ORDER BY %s LIMIT 1
    )
    SELECT (SELECT count(*) FROM nebula_page) AS rows, (SELECT position FROM nebula_last) AS position,
      (SELECT count(*) FROM nebula_changed) AS changed,
      (SELECT count(*) FROM nebula_changed WHERE matches) AS matching
  ]]):format(table.concat(out, ", "), opts.table,
    first and "WHERE $1::text[] IS NULL" or ("WHERE (%s) > (%s)"):format(order, table.concat(after, ", ")), order,
    opts.table, opts.set, table.concat(join, " AND "), matches, matches, table.concat(texts, ", "),
    (table.concat(texts, ", "):gsub("::text", " DESC")))
end

local function load_state(db, name, fingerprint)
  if not db:value "SELECT to_regclass('nebula_schema_backfills')::text" then db:exec(CREATE) end
  local row = db:one("SELECT * FROM nebula_schema_backfills WHERE name = $1 AND fingerprint = $2", name, fingerprint)
  return row or { pass = 1, done = 0, changed = 0, found = 0, settles = true }, row ~= nil
end

-- The table's rows: counted, or where that would take long, what the planner takes them for.
local function rows_in(db, name)
  local estimate = db:value("EXPLAIN (FORMAT JSON) SELECT FROM " .. name)[1].Plan["Plan Rows"]
  return estimate < COUNTED_ROWS and db:value("SELECT count(*) FROM " .. name) or estimate
end

---@class nebula.BackfillRun
---@field name string under which its progress is kept
---@field log fun(line: string)
---@field progress? fun(label: string, total: integer): nebula.ui.Bar
---@field held? boolean all of it in the caller's transaction: it neither waits nor keeps its progress
---@field trial? boolean one page only

-- Changes the next page and notes it. A page that meets a locked row is tried again, smaller.
local function next_page(db, run, state, sqls, size, save)
  local locked = 0
  while true do
    local started = nebula.time.monotonic()
    local page, err = nebula.try(db.transaction, db, function(tx)
      local page = tx:one({ state.position and sqls.next or sqls.first, prepare = true }, state.position, size)
      if not run.held then save(tx, page) end
      return page
    end)
    if page then return page, nebula.time.monotonic() - started, size end
    locked = locked + 1
    if run.held or not RETRIED[err.code] or locked > MOST_LOCKED then error(err, 0) end
    size = math.max(size // 4, 1)
    nebula.task.sleep(LOCKED_SECONDS * (0.5 + math.random()))
  end
end

local function advance(state, page)
  return {
    position = page.position or state.position, pass = state.pass, done = state.done + page.rows,
    changed = state.changed + page.changed, found = state.found + page.changed,
    settles = state.settles and page.matching == 0,
  }
end

local function resized(size, took, target)
  local factor = math.max(0.25, math.min(2, target / math.max(took, 1e-6)))
  return math.max(1, math.min(MOST_ROWS, math.floor(size * factor)))
end

-- One pass over the table; the state at its end.
local function pass(db, opts, run, state, sqls, fingerprint, bar)
  local size = opts.batch
  local rest = throttle.new { table = opts.table, max_lag = opts.max_lag, log = run.log,
    label = "backfill of " .. opts.table }
  local function save(tx, page)
    local s = page and advance(state, page) or state
    tx:exec(SAVE, run.name, fingerprint, s.position and nebula.pg.array(s.position) or nil, s.pass, s.done, s.changed,
      s.found, s.settles)
  end
  while true do
    local page, took, used = next_page(db, run, state, sqls, size, save)
    state = advance(state, page)
    if bar then bar:update(state.done) end
    if page.rows < used or run.trial then return state end
    size = resized(used, took, opts.target)
    if not run.held then
      if opts.pause > 0 then nebula.task.sleep(opts.pause) end
      rest:rest(db, took)
    end
  end
end

--- Changes rows by `UPDATE table SET set WHERE where`, page by page. Called again after an
--- interruption it goes on where it was. `set` and `where` are SQL of the migration's author.
--- Outside of a migration its progress is dropped when it ends.
--- Raises `validation` for an option, or a table without a usable key; `database`.
---@param db nebula.pg.queries
---@param given {table: string, set: string, where?: string, key?: string[]|string, batch?: integer,
---  target?: nebula.Duration, max_lag?: nebula.Duration, pause?: nebula.Duration}
---@param run nebula.BackfillRun
---@return integer changed rows
function backfill.run(db, given, run)
  local opts = options.coerce(DECLARED, given, "migrate.backfill")
  local names, types = key_of(db, opts)
  local sqls = { first = page_sql(opts, names, types, true), next = page_sql(opts, names, types, false) }
  local fingerprint = nebula.crypto.sha256(sqls.next)
  local state, resumed = { pass = 1, done = 0, changed = 0, found = 0, settles = true }, false
  if not run.held then state, resumed = load_state(db, run.name, fingerprint) end
  local label = "backfill of " .. opts.table
  if resumed and state.position then run.log(("%s goes on after %d rows"):format(label, state.done)) end

  local bar <close> = run.progress and run.progress(label, rows_in(db, opts.table))
  while true do
    state = pass(db, opts, run, state, sqls, fingerprint, bar)
    if run.trial or not opts.where or not state.settles or state.found == 0 then break end
    if state.pass == MOST_PASSES then
      run.log(("%s: %d rows in pass %d: others still insert such rows"):format(label, state.found, state.pass))
      break
    end
    state.pass, state.found, state.position, state.done = state.pass + 1, 0, nil, 0
  end
  return state.changed
end

--- Forgets the progress of backfills whose names begin so.
---@param connection nebula.pg.Connection
---@param prefix string
function backfill.forget(connection, prefix)
  connection:exec("DELETE FROM nebula_schema_backfills WHERE starts_with(name, $1)", prefix)
end

return backfill
