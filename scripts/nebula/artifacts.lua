-- artifacts.lua: the table `blobs`: whose each artifact is, its size and SHA-256. The functions at the
-- end are methods of a Storage.
--
-- An upload is noted before its first byte and becomes a row when it is whole, so that whatever ends it
-- leaves no object that nobody knows: sweep_blobs ends what was cut off.
local check = require "nebula.check"
local filter = require "nebula.filter"
local nebula = require "nebula"
local states = require "nebula.executions.state"

local artifacts = {}

local NO_TABLE = "42P01"
local PAGE = 100

local FINISH = [[
  WITH ended AS (
    DELETE FROM blob_uploads WHERE id = $1
  )
  INSERT INTO blobs (key, execution_id, size, sha256, url)
  VALUES ($2, $3, $4, $5, $6)
  ON CONFLICT (key) DO UPDATE
  SET execution_id = excluded.execution_id, size = excluded.size, sha256 = excluded.sha256, url = excluded.url,
    created_at = now()
]]

---@class nebula.Upload
---@field id string
---@field key string
---@field execution_id? string

--- Notes an upload. Nil where the database is not migrated: it has nothing that could own an object.
---@param db nebula.pg.queries
---@param key string
---@param execution_id? string
---@return nebula.Upload?
function artifacts.begin(db, key, execution_id)
  local upload = { id = nebula.crypto.uuid_v7(), key = key, execution_id = execution_id }
  local _, err = nebula.try(db.exec, db, "INSERT INTO blob_uploads (id, key, execution_id) VALUES ($1, $2, $3)",
    upload.id, check.text("upload: key", key), execution_id and check.id("upload: execution_id", execution_id))
  if not err then return upload end
  if err.code == NO_TABLE then return nil end
  error(err, 0)
end

--- The object is whole: its row takes the upload's place.
function artifacts.finish(db, upload, size, sha256, url)
  db:exec(FINISH, upload.id, upload.key, upload.execution_id, size, sha256, url)
end

--- The object was refused: nothing was stored.
function artifacts.forget(db, upload) db:exec("DELETE FROM blob_uploads WHERE id = $1", upload.id) end

--- The size and SHA-256 of an object, read to its end; nil where there is none.
---@param store nebula.s3.Bucket|nebula.blob.Store
---@param key string
---@return integer? size, string? sha256
function artifacts.measure(store, key)
  local reader <close> = store:reader(key)
  if not reader then return nil end
  local hasher, size = nebula.crypto.sha256_new(), 0
  for piece in function() return reader:read() end do
    hasher:update(piece)
    size = size + #piece
  end
  return size, hasher:finish()
end

--- The object is gone.
function artifacts.removed(db, key)
  local _, err = nebula.try(db.exec, db, "DELETE FROM blobs WHERE key = $1", key)
  if err and err.code ~= NO_TABLE then error(err, 0) end
end

-- ---- methods of a Storage ----

local methods = {}
artifacts.methods = methods

local FILTERS = {
  execution_id = { column = "execution_id", type = "uuid" },
  key = { column = "key" },
  sha256 = { column = "sha256" },
}

---@class nebula.BlobRow
---@field key string
---@field execution_id? string
---@field size integer bytes
---@field sha256 string of the object's bytes
---@field url string
---@field created_at string

--- A page of the artifacts by key; `after` is the last row of the page before, or its key.
---@param given? {execution_id?: string, key?: string|string[], sha256?: string, limit?: integer, after?: any}
---@return nebula.BlobRow[]
function methods.list_blobs(self, given)
  local what = "list_blobs"
  given = filter.check(what, given, FILTERS)
  local args = { n = 0 }
  local conditions = filter.conditions(what, given, FILTERS, args)
  if given.after then
    args.n = args.n + 1
    args[args.n] = check.text(what .. ": after", type(given.after) == "table" and given.after.key or given.after)
    conditions[#conditions + 1] = ("key > $%d"):format(args.n)
  end
  local sql = ("SELECT * FROM blobs %s ORDER BY key LIMIT %d"):format(filter.where(conditions),
    filter.limit(what, given))
  return self.reads:query(sql, table.unpack(args, 1, args.n))
end

-- The object as it is: what a cut-off upload may have put in the place of another.
local function look_again(self, row)
  local size, digest = artifacts.measure(self.blobs, row.key)
  if not size then
    self.db:exec("DELETE FROM blobs WHERE key = $1", row.key)
  else
    self.db:exec("UPDATE blobs SET size = $2, sha256 = $3 WHERE key = $1", row.key, size, digest)
  end
end

local function sweep_uploads(self, age)
  local count = 0
  while true do
    local rows = self.db:query([[
      SELECT u.id, u.key, b.key IS NOT NULL AS known
      FROM blob_uploads u LEFT JOIN blobs b USING (key)
      WHERE u.started_at < now() - make_interval(secs => $1)
      LIMIT $2
    ]], age, PAGE)
    for _, row in ipairs(rows) do
      if row.known then look_again(self, row) else self.blobs.store:delete(row.key) end
      self.db:exec("DELETE FROM blob_uploads WHERE id = $1", row.id)
    end
    count = count + #rows
    if #rows < PAGE then return count end
  end
end

-- States that no execution names, also of those that were never made: the transaction was undone. One
-- whose execution is in an archive belongs to that.
local UNNAMED = [[
  FROM blobs b LEFT JOIN executions e ON e.id = b.execution_id
  WHERE b.key LIKE 'executions/%/state/%' AND b.created_at < now() - make_interval(secs => $1)
  AND e.]] .. states.KEY .. [[ IS DISTINCT FROM b.key AND (e.id IS NOT NULL OR b.archive IS NULL)
]]

local LEFT = [[
  SELECT (SELECT count(*) FROM blob_uploads WHERE started_at < now() - make_interval(secs => $1)) AS uploads,
    (SELECT count(*) ]] .. UNNAMED .. [[) AS states
]]

local STATES = "SELECT b.key " .. UNNAMED .. " AND b.key > $2 ORDER BY b.key LIMIT $3"

local function sweep_states(self, age)
  local count, after = 0, ""
  while true do
    local rows = self.db:query(STATES, age, after, PAGE)
    for _, row in ipairs(rows) do self.blobs:delete(row.key) end
    count = count + #rows
    if #rows < PAGE then return count end
    after = rows[#rows].key
  end
end

--- Ends what was cut off: removes the objects of uploads that did not end, and of states that no
--- execution names. `older_than` keeps it from what still runs; `dry_run` counts them, and no more.
---@param opts? {older_than?: number|string, dry_run?: boolean} default "1d"
---@return {uploads: integer, states: integer} ended, removed
function methods.sweep_blobs(self, opts)
  opts = check.fields("sweep_blobs", opts or {}, { older_than = true, dry_run = true })
  local age = self.duration("sweep_blobs: older_than", opts.older_than, 86400)
  if opts.dry_run then return self.db:one(LEFT, age) end
  return { uploads = sweep_uploads(self, age), states = sweep_states(self, age) }
end

return artifacts
