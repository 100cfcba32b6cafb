-- blobs.lua: the blob store: S3 where S3 is configured, else a directory. Both have the same methods;
-- this adds the storage's own names: upload, download and their streamed forms.
local config = require "nebula.config"
local nebula = require "nebula"

local blobs = {}

---@class nebula.Blobs: nebula.s3.Bucket
---@field store nebula.s3.Bucket|nebula.blob.Store
---@field kind "s3"|"directory"
---@field place string where it is, for people
local Blobs = {}
Blobs.__name = "nebula.Blobs"

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
  abort = true, create_bucket = true, delete_bucket = true }

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
---@return nebula.Blobs
function blobs.open(opts) return setmetatable({ options = opts }, Blobs) end

--- Stores data under a key: a string, a reader, or `{file=path}`. The object appears whole or not at
--- all, and takes the place of one that was there.
---@param key string
---@param data string|table
---@param opts? table as the store's put
---@return string url
function Blobs:upload(key, data, opts) return self.store:put(key, data, opts).url end

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
function Blobs:delete(key) return self.store:delete(key) end

function Blobs:close()
  local store = rawget(self, "store")
  if store and store.close then store:close() end
end

Blobs.__close = Blobs.close

return blobs
