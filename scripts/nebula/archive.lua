-- archive.lua: finished executions, with their jobs and history, moved into the blob store and back.
--
-- An archive is two objects: KEY, NDJSON compressed with zstd, a line a row ({"execution": {...}},
-- {"job": {...}}, ...), and KEY.manifest.json, which says how many of each, the columns, and the
-- SHA-256 of the NDJSON. A row's line lacks what is NULL in it. The rows are read by the statements that
-- delete them, in a transaction which commits once the object has been read back and compared: a row is
-- in the database or in an archive whose manifest holds, never in neither. What is under way stands in the
-- task's checkpoint, which the same transaction clears: an interrupted archive is known by it, and removed
-- by the next run.
--
-- What an execution has in the blob store, artifacts and large states, stays there under its key. The
-- rows that own those objects stay, too, name the archive, so that no sweep takes them for orphans while it
-- is there, and are copied into it, so that a database that was lost gets them back with the rest.
local nebula = require "nebula"
local raise = require "nebula.raise"
local states = require "nebula.executions.state"

local archive = {}

local FORMAT = 2
local NULLS_LEFT_OUT = 2 -- the first format without them: a null is JSON's own
local DATA, MANIFEST = ".ndjson.zst", ".manifest.json"
local MOST_MANIFEST = 1 << 20
local MOST_PIECE = 256 << 10

archive.FINISHED = { "completed", "failed", "cancelled", "timed_out" }

-- The kinds of rows, in the order in which they are read, and brought back. `whose` says which rows `r`
-- belong to a row `a` of `archived`; `of` is the column with the execution's id; `kept` rows stay in the
-- database. The history goes before its execution, which would take it along.
local KINDS = {
  { kind = "workflow", from = "workflows", whose = "r.id = a.workflow_id", kept = true },
  { kind = "history", from = "execution_history", whose = "r.execution_id = a.id", of = "execution_id" },
  { kind = "execution", from = "executions", whose = "r.id = a.id", of = "id" },
  { kind = "job", from = "workflow_jobs", whose = "r.execution_id = a.id", of = "execution_id" },
  { kind = "blob", from = "blobs", whose = "r.execution_id = a.id", of = "execution_id", kept = true },
}

local ARCHIVED = [[
  CREATE TEMPORARY TABLE archived (id UUID NOT NULL, workflow_id UUID NOT NULL, ended_at TIMESTAMPTZ NOT NULL)
  ON COMMIT DROP
]]

-- The ids fit into one hash table: an ended job is found by no index, so each object costs a scan of
-- workflow_jobs. The history is moved before its execution goes, so no trigger needs to look for it.
local SETTINGS = "SELECT set_config('work_mem', '64MB', true), set_config('nebula.history', 'gone', true)"

--- Which executions a purge or an archive takes: $1 statuses, $2 the time before which they ended, $3 the
--- names of their workflows or NULL. One with a job that still waits or runs stays.
archive.WHICH = [[
  FROM executions e
  WHERE e.status = ANY ($1) AND e.status IN ('completed', 'failed', 'cancelled', 'timed_out')
  AND coalesce(e.completed_at, e.updated_at) < $2::timestamptz
  AND ($3::text[] IS NULL OR e.workflow_id IN (SELECT w.id FROM workflows w WHERE w.name = ANY ($3)))
  AND NOT EXISTS (
    SELECT FROM workflow_jobs j WHERE j.execution_id = e.id AND j.status IN ('pending', 'running')
  )
]]

local CHOOSE = "INSERT INTO archived SELECT e.id, e.workflow_id, coalesce(e.completed_at, e.updated_at)"
  .. archive.WHICH .. [[
  AND ($5::timestamptz IS NULL OR (coalesce(e.completed_at, e.updated_at), e.id) > ($5, $6::uuid))
  ORDER BY coalesce(e.completed_at, e.updated_at), e.id
  LIMIT $4
]]

local ENDED = [[
  SELECT min(ended_at) AS first, max(ended_at) AS last,
    (SELECT id FROM archived ORDER BY ended_at DESC, id DESC LIMIT 1) AS last_id
  FROM archived
]]

-- States that a later one replaced, and no sweep has removed so far: gc-blobs collects the objects.
local DISOWN = [[
  DELETE FROM blobs b
  USING archived a JOIN executions e USING (id)
  WHERE b.execution_id = a.id AND b.key LIKE 'executions/%/state/%' AND e.]] .. states.KEY .. [[ IS DISTINCT FROM b.key
]]

-- The objects of its executions belong to the archive, too.
local HAND_OVER = "UPDATE blobs SET archive = $1 WHERE execution_id IN (SELECT id FROM archived)"

-- `plain`: NDJSON has a form for the type.
local COLUMNS = [[
  SELECT attname AS name, atttypid::regtype AS type, atttypid IN ('json'::regtype, 'jsonb'::regtype) AS json,
    atttypid = ANY ('{text,name,bpchar,varchar,int2,int4,int8,float8,bool,uuid,bytea,timestamp,timestamptz,
      json,jsonb}'::regtype[]) AS plain
  FROM pg_attribute
  WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
  ORDER BY attnum
]]

---@class nebula.ArchiveManifest
---@field format integer
---@field key string of the data
---@field created_at string
---@field counts table<string, integer> rows by kind: workflow, execution, history, job, blob
---@field columns table<string, string[]> by kind
---@field bytes integer of the NDJSON
---@field size integer of the object, compressed
---@field sha256 string of the NDJSON
---@field ended {first: string, last: string} when its executions ended

-- ---- writing ----

-- The statement that gives the rows of a kind, and takes them, and their columns.
local function read_sql(tx, of)
  local names, values = {}, {}
  for i, column in ipairs(tx:query(COLUMNS, of.from)) do
    local name = nebula.pg.ident(column.name)
    names[i] = column.name
    values[i] = column.plain and "r." .. name or ("to_json(r.%s) AS %s"):format(name, name)
  end
  local list = table.concat(values, ", ")
  if of.kept then
    return ("SELECT %s FROM %s r WHERE EXISTS (SELECT FROM archived a WHERE %s)"):format(list, of.from, of.whose), names
  end
  return ("DELETE FROM %s r USING archived a WHERE %s RETURNING %s"):format(of.from, of.whose, list), names
end

-- Moves the rows of `archived` into NDJSON; returns counts, columns, bytes and their SHA-256.
local function move_rows(tx, out)
  local hasher, bytes = nebula.crypto.sha256_new(), 0
  local counts, columns = {}, {}
  local function sink(piece)
    hasher:update(piece)
    bytes = bytes + #piece
    out:write(piece)
  end
  for _, of in ipairs(KINDS) do
    local sql
    sql, columns[of.kind] = read_sql(tx, of)
    counts[of.kind] = tx:copy_out(sql, sink, { format = "ndjson", as = of.kind })
  end
  return counts, columns, bytes, hasher:finish()
end

-- The SHA-256 and the length of an archive's NDJSON, as it can be read back. Calls fn with each piece.
local function read_back(blobs, key, fn)
  local reader <close> = blobs:reader(key, { decompress = "zstd" })
  if not reader then raise("not_found", "archive %s: the object is not there", key) end
  local hasher, bytes = nebula.crypto.sha256_new(), 0
  while true do
    local piece = reader:read(MOST_PIECE)
    if not piece then return hasher:finish(), bytes end
    hasher:update(piece)
    bytes = bytes + #piece
    if fn then fn(piece) end
  end
end

-- Raises where an object just written does not read back as what was written.
local function confirm(blobs, manifest)
  local found, length = read_back(blobs, manifest.key)
  if found == manifest.sha256 and length == manifest.bytes then return end
  raise("io", "archive %s reads back as %d bytes with SHA-256 %s, not %d with %s; nothing was deleted", manifest.key,
    length, found, manifest.bytes, manifest.sha256)
end

--- Removes what an interrupted archive left, parts of an upload included; its rows are still in the
--- database.
---@param blobs nebula.Blobs
---@param key string
function archive.discard(blobs, key)
  blobs.store:delete(key .. MANIFEST)
  blobs.store:delete(key)
  for _, upload in ipairs(blobs:uploads { prefix = key }) do blobs:abort(upload) end
end

---@class nebula.ArchivePart
---@field which {status: string[], before: string, workflows?: string[]}
---@field key string of the object
---@field limit integer executions in it
---@field after? {ended: string, id: string} the last one of the part before
---@field checkpoint nebula.Checkpoint holds the key until the archive stands
---@field moved fun(after: {ended: string, id: string}) the rows are read: the next part may begin

--- Archives the next executions: at most `limit`, those that ended first. nil where there are none.
--- Raises what the database or the store raises; then nothing was deleted.
---@param ctx nebula.TaskContext
---@param part nebula.ArchivePart
---@return nebula.ArchiveManifest?
function archive.write(ctx, part)
  local blobs, key, which, again = ctx.blobs.store, part.key, part.which, false
  local after = part.after or {}
  return ctx.db:transaction(function(tx)
    if again then archive.discard(ctx.blobs, key) end -- of the try before a serialization failure
    again = true
    part.checkpoint:hold(tx)
    tx:exec(SETTINGS)
    tx:exec(ARCHIVED)
    if tx:exec(CHOOSE, which.status, which.before, which.workflows, part.limit, after.ended, after.id) == 0 then
      return nil
    end
    tx:exec "ANALYZE archived"
    tx:exec(DISOWN)
    tx:exec(HAND_OVER, key)
    -- the store itself: an archive has its manifest, and needs no row in `blobs`
    -- rows of the same columns: no larger than at the usual level, and twice as fast
    local out <close> = blobs:writer(key, { compress = "zstd", level = 1, if_none_match = "*",
      content_type = "application/zstd" })
    local counts, columns, bytes, sha256 = move_rows(tx, out)
    local ended = tx:one(ENDED)
    part.moved { ended = ended.last, id = ended.last_id }
    local stored = out:finish()
    local manifest = {
      format = FORMAT, key = key, created_at = nebula.time.format(nebula.time.now()), counts = counts,
      columns = columns, bytes = bytes, size = stored.size, sha256 = sha256,
      ended = { first = ended.first, last = ended.last },
    }
    confirm(blobs, manifest)
    blobs:put(key .. MANIFEST, nebula.json.encode(manifest), { content_type = "application/json",
      if_none_match = "*" })
    part.checkpoint:save(nil, tx)
    return manifest
  end, { isolation = "repeatable read" })
end

-- ---- reading ----

local INTEGERS = { "bytes", "size" }

local function check_manifest(name, manifest)
  local function bad(what) raise("validation", "%s: %s; it is no manifest of an archive", name, what) end
  if type(manifest) ~= "table" then bad "it is no JSON object" end
  if math.type(manifest.format) ~= "integer" then bad "`format` is missing" end
  if manifest.format > FORMAT then
    raise("validation", "%s: the archive has format %d, written by a newer version; this one reads up to %d: update it",
      name, manifest.format, FORMAT)
  end
  for _, field in ipairs(INTEGERS) do
    if math.type(manifest[field]) ~= "integer" then bad(("`%s` is no whole number"):format(field)) end
  end
  if type(manifest.sha256) ~= "string" or type(manifest.key) ~= "string" then bad "`sha256` or `key` is missing" end
  -- The first archives know of no artifacts.
  if manifest.format < NULLS_LEFT_OUT and type(manifest.counts) == "table" and type(manifest.columns) == "table" then
    manifest.counts.blob, manifest.columns.blob = manifest.counts.blob or 0, manifest.columns.blob or {}
  end
  for _, of in ipairs(KINDS) do
    if type(manifest.counts) ~= "table" or math.type(manifest.counts[of.kind]) ~= "integer" then
      bad(("`counts.%s` is missing"):format(of.kind))
    end
    if type(manifest.columns) ~= "table" or type(manifest.columns[of.kind]) ~= "table" then
      bad(("`columns.%s` is missing"):format(of.kind))
    end
  end
  return manifest
end

--- An archive's manifest. Raises `not_found`, `validation` (no manifest, or one of a newer version).
---@param blobs nebula.Blobs
---@param key string the archive's, or its manifest's
---@return nebula.ArchiveManifest
function archive.manifest(blobs, key)
  local name = key:sub(-#MANIFEST) == MANIFEST and key or key .. MANIFEST
  local text = blobs:get(name, { max_bytes = MOST_MANIFEST })
  if not text then
    raise("not_found", "there is no archive %s (%s is not there); `nebula task list-archives` lists them", key, name)
  end
  local manifest, err = nebula.try(nebula.json.decode, text)
  if err then raise("validation", "%s: %s; it is no manifest of an archive", name, err.message) end
  check_manifest(name, manifest)
  manifest.key = name:sub(1, -#MANIFEST - 1) -- an archive may have been copied elsewhere
  return manifest
end

--- Whether an object is part of an archive.
---@param blobs nebula.Blobs
---@param key string
---@return boolean
function archive.owns(blobs, key)
  if key:sub(-#MANIFEST) == MANIFEST then return true end
  return key:sub(-#DATA) == DATA and blobs:exists(key .. MANIFEST)
end

-- $1 an archive that is gone. What its executions have, where they were brought back, is theirs alone.
local DISOWN_OF = [[
  WITH whose AS (
    SELECT b.key, EXISTS (SELECT FROM executions e WHERE e.id = b.execution_id) AS back
    FROM blobs b
    WHERE b.archive = $1
  ), theirs AS (
    UPDATE blobs b SET archive = NULL FROM whose w WHERE w.key = b.key AND w.back
  )
  DELETE FROM blobs b USING whose w WHERE w.key = b.key AND NOT w.back
]]

--- The artifacts of archives that are no longer there belong to nobody: how many; forgets them in `blobs`.
--- Raises what the store raises.
---@param db nebula.pg.queries
---@param blobs nebula.Blobs
---@return integer
function archive.forget_gone(db, blobs)
  local count = 0
  for _, row in ipairs(db:query "SELECT DISTINCT archive AS key FROM blobs WHERE archive <> ''") do
    if not blobs:exists(row.key .. MANIFEST) then count = count + db:exec(DISOWN_OF, row.key) end
  end
  return count
end

--- A new archive's key: what sorts by the time of archiving, and is nobody else's.
---@param prefix string
---@return string
function archive.new_key(prefix)
  return prefix .. nebula.time.format(nebula.time.now()):sub(1, 10) .. "-" .. nebula.crypto.uuid_v7() .. DATA
end

--- Goes through the archives below a prefix, in the order of their keys.
---@param blobs nebula.Blobs
---@param prefix string
---@return fun(): string? key
function archive.list(blobs, prefix)
  local objects = blobs:list { prefix = prefix }
  return function()
    for object in objects do
      if object.key and object.key:sub(-#MANIFEST) == MANIFEST then return object.key:sub(1, -#MANIFEST - 1) end
    end
  end
end

-- ---- bringing back ----

local BY_KIND = {}
for _, of in ipairs(KINDS) do BY_KIND[of.kind] = of end
local MOST_LINES, MOST_BYTES = 1000, 1 << 20

-- The statement that inserts an array of rows; $2 narrows it to some executions. A null that JSON itself
-- holds is no SQL NULL.
local function insert_sql(tx, manifest, of)
  local known, names, values = {}, {}, {}
  for _, column in ipairs(tx:query(COLUMNS, of.from)) do known[column.name] = column end
  for i, name in ipairs(manifest.columns[of.kind]) do
    if not known[name] then
      raise("migration", "archive %s: its %s rows have a column %s, which %s here lacks; run: nebula migrate up",
        manifest.key, of.kind, name, of.from)
    end
    names[i] = nebula.pg.ident(name)
    local exact = known[name].json and manifest.format >= NULLS_LEFT_OUT
    values[i] = exact and ("(v -> %s)::%s"):format(nebula.pg.literal(name), known[name].type) or "r." .. names[i]
  end
  return ([[
    INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE
    SELECT %s FROM json_array_elements($1) AS v, json_populate_record(NULL::%s, v) AS r
    WHERE $2::uuid[] IS NULL OR %s
    ON CONFLICT DO NOTHING
  ]]):format(of.from, table.concat(names, ", "), table.concat(values, ", "), of.from,
    of.of and "r." .. of.of .. " = ANY ($2)" or "true")
end

-- In a database made anew the numbers of the history begin again: those that come are to be higher than
-- those that came back. Nothing where this user may not set them.
local RAISE_SEQ = [[
  SELECT setval(s.name, h.last)
  FROM (SELECT pg_get_serial_sequence('execution_history', 'seq') AS name) s,
    (SELECT max(seq) AS last FROM json_populate_recordset(NULL::execution_history, $1)) h
  WHERE has_sequence_privilege(s.name, 'SELECT, UPDATE')
  AND h.last > coalesce(pg_sequence_last_value(s.name::regclass), 0)
]]

-- Splits pieces into lines, and lines into batches of one kind: `add(piece)`, `finish()`.
local function batcher(manifest, flush)
  local rest, kind, rows, bytes = "", nil, {}, 0
  local counts = {}
  local self = { counts = counts }
  local function send()
    if #rows > 0 then flush(BY_KIND[kind], "[" .. table.concat(rows, ",") .. "]") end
    rows, bytes = {}, 0
  end
  local function line(text)
    local name, start = text:match '^{"(%a+)":(){'
    if not name or not BY_KIND[name] or text:sub(-1) ~= "}" then
      raise("validation", "archive %s: a line is no row of an archive: %s", manifest.key, text:sub(1, 60))
    end
    if name ~= kind or #rows >= MOST_LINES or bytes >= MOST_BYTES then send() end
    kind = name
    rows[#rows + 1], bytes = text:sub(start, -2), bytes + #text
    counts[name] = (counts[name] or 0) + 1
  end
  function self.add(piece)
    local from = 1
    while true do
      local stop = piece:find("\n", from, true)
      if not stop then break end
      line(rest .. piece:sub(from, stop - 1))
      rest, from = "", stop + 1
    end
    rest = rest .. piece:sub(from)
  end
  function self.finish()
    if rest ~= "" then line(rest) end
    send()
  end
  return self
end

-- Compares what was read with what the manifest says.
local function compare(manifest, sha256, bytes, counts)
  if sha256 ~= manifest.sha256 or bytes ~= manifest.bytes then
    raise("validation", "archive %s is not what its manifest describes: %d bytes with SHA-256 %s, not %d with %s",
      manifest.key, bytes, sha256, manifest.bytes, manifest.sha256)
  end
  for _, of in ipairs(KINDS) do
    if (counts[of.kind] or 0) ~= manifest.counts[of.kind] then
      raise("validation", "archive %s has %d %s rows; its manifest says %d", manifest.key, counts[of.kind] or 0,
        of.kind, manifest.counts[of.kind])
    end
  end
end

--- Reads an archive to its end and compares it with its manifest. Raises `validation`, `not_found`.
---@param blobs nebula.Blobs
---@param manifest nebula.ArchiveManifest
function archive.verify(blobs, manifest)
  local lines = batcher(manifest, function() end)
  local sha256, bytes = read_back(blobs, manifest.key, lines.add)
  lines.finish()
  compare(manifest, sha256, bytes, lines.counts)
end

--- Brings an archive's rows back, in one transaction: all of them, or none where the archive is not what
--- its manifest describes. What the database has already stays as it is.
--- Raises `validation`, `not_found`, `migration` (the database lacks a column).
---@param db nebula.pg.Pool
---@param blobs nebula.Blobs
---@param manifest nebula.ArchiveManifest
---@param executions? string[] only these ids
---@return table<string, integer> restored rows by kind
function archive.restore(db, blobs, manifest, executions)
  return db:transaction(function(tx)
    local restored, statements = {}, {}
    for _, of in ipairs(KINDS) do
      restored[of.kind], statements[of.kind] = 0, insert_sql(tx, manifest, of)
    end
    local lines = batcher(manifest, function(of, rows)
      restored[of.kind] = restored[of.kind] + tx:exec(statements[of.kind], rows, executions)
      if of.kind == "history" then tx:exec(RAISE_SEQ, rows) end
    end)
    local sha256, bytes = read_back(blobs, manifest.key, lines.add)
    lines.finish()
    compare(manifest, sha256, bytes, lines.counts)
    return restored
  end)
end

return archive
