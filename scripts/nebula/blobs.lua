-- blobs.lua: the blob store: S3 where S3 is configured, else a directory. Both have the same methods;
-- this adds the storage's own names, upload, writer, download and delete, which keep the table `blobs`
-- (artifacts.lua). The store's own put, copy and the like record nothing.
local artifacts = require "nebula.artifacts"
local config = require "nebula.config"
local nebula = require "nebula"

local blobs = {}

---@class nebula.Blobs: nebula.s3.Bucket
---@field store nebula.s3.Bucket|nebula.blob.Store
---@field kind "s3"|"directory"
---@field place string where it is, for people
local Blobs = {}
Blobs.__name = "nebula.Blobs"

local PIECE = 1 << 20

local OPENED = { store = true, kind = true, place = true }

-- Opens the store at its first use: a script that never touches a blob needs no place for them.
local function open_store(self)
  local opts = self.options or config.blobs()
  local is_directory = type(opts.url) == "string" and opts.url:find "^file:" ~= nil
  local store = is_directory and nebula.blob.open(opts) or nebula.s3.connect(opts)
  rawset(self, "kind", is_directory and "directory" or "s3")
  rawset(self, "place", is_directory and opts.url
    or ("s3://%s%s"):format(opts.bucket or "", opts.endpoint and " at " .. opts.endpoint or ""))
  rawset(self, "store", store)
end

local WRITES = { put = true, upload = true, writer = true, delete = true, delete_many = true, copy = true, tag = true,
  abort = true, abort_uploads = true, create_bucket = true, delete_bucket = true }

local function refuse_write()
  error(nebula.error { kind = "validation", message = "this prompt is read-only: no blob is written or deleted" }, 0)
end

-- What the store has is a method here, too: get, put, reader, writer, head, list, copy, ...
function Blobs.__index(self, name)
  if name == "options" then return nil end
  if OPENED[name] then
    open_store(self)
    return rawget(self, name)
  end
  if WRITES[name] and config.settings().read_only then return refuse_write end
  local own = Blobs[name]
  if own ~= nil then return own end
  local method = self.store[name]
  if type(method) ~= "function" then return method end
  local function forward(_, ...) return method(self.store, ...) end
  rawset(self, name, forward)
  return forward
end

--- The configured store, or that of the options: `{url="file:/path"}`, or nebula.s3.connect's. It is
--- opened at its first use. Raises `config` then, where nothing says where blobs are.
---@param opts? table
---@param db? nebula.pg.Pool the database whose table `blobs` knows what is stored
---@return nebula.Blobs
function blobs.open(opts, db) return setmetatable({ options = opts, db = db or false }, Blobs) end

-- The store's options without what is ours.
local function split(opts)
  local own = {}
  for name, value in pairs(opts or {}) do own[name] = value end
  own.execution_id = nil
  return own, opts and opts.execution_id
end

-- Data whose size and SHA-256 are known when it has been read: what to store, and a function that tells.
local function measured(data)
  if type(data) == "string" then
    local digest = nebula.crypto.sha256(data)
    return data, function() return #data, digest end
  end
  if type(data) == "table" and data.file then
    local digest, bytes = nebula.fs.hash(data.file)
    return data, function() return bytes, digest end
  end
  local hasher, size = nebula.crypto.sha256_new(), 0
  local function read()
    local piece
    if type(data) == "function" then piece = data() else piece = data:read(PIECE) end
    if piece then
      hasher:update(piece)
      size = size + #piece
    end
    return piece
  end
  return read, function() return size, hasher:finish() end
end

-- Whether an error tells that nothing was stored.
local function was_refused(err) return err.kind == "conflict" or err.kind == "validation" end

--- Stores data under a key: a string, a reader (a function or an object with `read`), or `{file=path}`.
--- The object appears whole or not at all, and takes the place of one that was there. The table `blobs`
--- then knows it, as the execution's that `execution_id` names.
---@param key string
---@param data string|table|fun(): string?
---@param opts? table as the store's put, and `execution_id`
---@return string url
---@return {size: integer, sha256: string} measured nothing where no database keeps the table
function Blobs:upload(key, data, opts)
  local own, execution_id = split(opts)
  local upload = self.db and artifacts.begin(self.db, key, execution_id)
  local source, measure = measured(data)
  local stored, err = nebula.try(self.store.put, self.store, key, source, own)
  if err then
    if upload and was_refused(err) then artifacts.forget(self.db, upload) end
    error(err, 0)
  end
  local size, digest = measure()
  if upload then artifacts.finish(self.db, upload, size, digest, stored.url) end
  return stored.url, { size = size, sha256 = digest }
end

-- A writer that measures what goes through it.
local Writer = {}
Writer.__index = Writer

---@param ... string|number
function Writer:write(...)
  for i = 1, select("#", ...) do
    local piece = tostring((select(i, ...)))
    if not self.compressed then self.hasher:update(piece) end
    self.size = self.size + #piece
  end
  self.inner:write(...)
  return self
end

function Writer:finish()
  local upload = self.upload
  self.upload = nil
  local stored, err = nebula.try(self.inner.finish, self.inner)
  if err then
    if upload and was_refused(err) then artifacts.forget(self.db, upload) end
    error(err, 0)
  end
  local size, digest = self.size, self.hasher:finish()
  if self.compressed then size, digest = artifacts.measure(self.store, upload.key) end
  artifacts.finish(self.db, upload, size, digest, stored.url)
  return stored
end

-- Closing the store's writer unfinished aborts it.
function Writer:__close()
  local _ <close> = self.inner
  if self.upload then artifacts.forget(self.db, self.upload) end
  self.upload = nil
end

Writer.abort, Writer.close = Writer.__close, Writer.__close

--- The streamed upload: the store's writer, whose object the table `blobs` knows once it is finished. One
--- that compresses is read once more for that.
---@param key string
---@param opts? table as the store's writer, and `execution_id`
---@return nebula.blob.Writer
function Blobs:writer(key, opts)
  local own, execution_id = split(opts)
  local upload = self.db and artifacts.begin(self.db, key, execution_id)
  local inner, err = nebula.try(self.store.writer, self.store, key, own)
  if err then
    if upload then artifacts.forget(self.db, upload) end
    error(err, 0)
  end
  if not upload then return inner end
  return setmetatable({ inner = inner, store = self.store, db = self.db, upload = upload, size = 0,
    compressed = own.compress ~= nil, hasher = nebula.crypto.sha256_new() }, Writer)
end

--- The object's bytes, or nil where there is none.
---@param key string
---@param opts? table as the store's get; `{file=path}` stores them there instead
---@return string?
function Blobs:download(key, opts)
  if opts and opts.file then return self.store:download(key, opts) end
  return self.store:get(key, opts)
end

--- Whether the object exists.
---@param key string
---@return boolean
function Blobs:exists(key) return self.store:exists(key) end

--- Removes the object. One that does not exist is removed already.
---@param key string
function Blobs:delete(key)
  self.store:delete(key)
  if self.db then artifacts.removed(self.db, key) end
end

function Blobs:close()
  local store = rawget(self, "store")
  if store and store.close then store:close() end
end

Blobs.__close = Blobs.close

return blobs
