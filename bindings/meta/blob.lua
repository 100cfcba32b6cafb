---@meta nebula.blob
-- What an editor sees of nebula.blob, and what the API documents are made of.

---Objects in a directory, with the methods of an S3 bucket (`nebula.s3`): the default where no S3 is
---configured. An object is stored whole or not at all (a temporary file, synced, renamed), with its
---SHA-256, which is its ETag and is verified whenever it is read to its end. Keys are those of S3: 1
---to 1,024 bytes without NUL; none leads outside the directory. All calls work on the thread pool and
---wait. Many processes may use one directory.
---
---Failures: `io` (its `code` the errno's name, or `BadDigest` for a damaged object), `conflict` for a
---condition that does not hold, `limit`, `validation`; `source` is `blob`. What is not there is nil.
---@class nebula.blob
local blob = {}

---@class nebula.blob.Store
local store = {}

---@class nebula.blob.open_options
---@field url? string `file:/absolute/path`, percent-encoded; or
---@field path? string a path; relative ones start at the process's directory

---Opens a store, and makes its directory where there is none. What killed processes left of unfinished
---writes is removed after a day.
---@param options nebula.blob.open_options
---@return nebula.blob.Store
function blob.open(options) end

---@class nebula.blob.conditions
---@field if_match? string only where the object has this ETag (`*`: where there is one)
---@field if_none_match? string only where it has not (`*`: where there is none)
---@field deadline? number|string taken for S3's sake

---@class nebula.blob.put_options: nebula.blob.conditions
---@field content_type? string
---@field content_encoding? string
---@field content_disposition? string
---@field content_language? string
---@field cache_control? string
---@field metadata? table<string, string> at most 2 KiB; names in lower case
---@field tags? table<string, string> at most 10; names of 128 bytes, values of 256
---@field progress? fun(bytes: integer) bytes written, after each piece of a reader; else once, all of them

---@class nebula.blob.Stored
---@field etag string SHA-256 of the bytes, hexadecimal
---@field size integer bytes
---@field url string
---@field last_modified string ISO 8601

---@class nebula.blob.Info
---@field key string
---@field size integer bytes
---@field etag string
---@field last_modified string ISO 8601
---@field metadata table<string, string>
---@field content_type? string and the others, as they were put

---Stores an object: a string, the bytes of `{file = path}`, or what a reader gives: a function that
---returns strings, then nil; or an object whose `read(count)` does. Memory is bounded by the pieces.
---@param key string
---@param data string|{file: string}|fun(): string?|{read: function}
---@param options? nebula.blob.put_options
---@return nebula.blob.Stored
function store:put(key, data, options) end

---@class nebula.blob.get_options: nebula.blob.conditions
---@field range? integer[] `{first, last}` from 0, both included; `{first}` to the end; `{-n}` the last n. Not verified
---@field max_bytes? integer raise `limit` for more (256 MiB)

---@param key string
---@param options? nebula.blob.get_options
---@return string? data nil where there is no object
---@return nebula.blob.Info? info
function store:get(key, options) end

---@param key string
---@param options? nebula.blob.conditions
---@return nebula.blob.Info? info nil where there is no object
function store:head(key, options) end

---@param key string
---@param options? nebula.blob.conditions
---@return boolean
function store:exists(key, options) end

---Removes an object. One that is not there is removed already.
---@param key string
---@param options? { if_match: string? }
function store:delete(key, options) end

---@param keys string[]
---@return integer count of the keys
function store:delete_many(keys) end

---@class nebula.blob.copy_options: nebula.blob.put_options

---Copies an object within the store, with its tags; metadata among the options replace those it has.
---Raises `not_found` where there is none.
---@param from string
---@param to string
---@param options? nebula.blob.copy_options conditions are on `to`
---@return nebula.blob.Stored
function store:copy(from, to, options) end

---@class nebula.blob.download_options: nebula.blob.conditions
---@field file string where the bytes go; it appears whole and verified, or not at all. Not synced, as nebula.s3's
---@field progress? fun(bytes: integer) once, all of them

---@param key string
---@param options nebula.blob.download_options
---@return nebula.blob.Info? info nil where there is no object
function store:download(key, options) end

---@class nebula.blob.list_options
---@field prefix? string
---@field delimiter? string gives `{prefix=}` once for all keys that have it behind the prefix
---@field start_after? string
---@field limit? integer
---@field page_size? integer how many are read at a time, at most 1,000 (1,000)

---Iterates over the objects in the order of their keys' bytes, in bounded memory:
---`for object in store:list { prefix = "archive/" } do`. A damaged one is `{key=, damaged=true}`.
---@param options? nebula.blob.list_options
---@return fun(): nebula.blob.Info|{prefix: string}|nil
function store:list(options) end

---@class nebula.blob.Reader an iterator as well: `for piece in reader do`
local reader = {}

---@param key string
---@param options? nebula.blob.conditions|{decompress?: "zstd"|"gzip"}
---@return nebula.blob.Reader? reader nil where there is no object; a `<close>` variable may hold it
function store:reader(key, options) end

---Reads on. The last piece is given only once all bytes were verified.
---@param count? integer at most (256 KiB)
---@return string? piece nil at the end
function reader:read(count) end

---@return nebula.blob.Info
function reader:info() end

function reader:close() end

---@class nebula.blob.Writer
local writer = {}

---@param key string
---@param options? nebula.blob.put_options|{compress?: "zstd"|"gzip", level?: integer} zstd 1 to 19 (3), gzip 1 to 9 (6)
---@return nebula.blob.Writer writer as a `<close>` variable it aborts unless it was finished
function store:writer(key, options) end

---@param ... string|number
---@return nebula.blob.Writer self
function writer:write(...) end

---Stores the object. Only now it can be seen.
---@return nebula.blob.Stored
function writer:finish() end

---Forgets what was written.
function writer:abort() end

---The tags of an object (nil where there is none), or sets these and no others. Its time and ETag stay.
---@param key string
---@param tags? table<string, string>
---@return table<string, string>?
function store:tag(key, tags) end

---Writers, and puts of a reader, that are neither finished nor aborted: those under way, and what killed
---processes left.
---@param options? {prefix?: string, older_than?: number|string}
---@return {key: string, id: string, initiated: string}[]
function store:uploads(options) end

---Removes those that began so long ago.
---@param options {prefix?: string, older_than: number|string}
---@return integer count
function store:abort_uploads(options) end

---Removes one. If its writer still writes, its finish raises `not_found`, code NoSuchUpload. What is gone
---already is aborted.
---@param key string|{key: string, id: string} or one of uploads()
---@param id? string
function store:abort(key, id) end

---Raises `config`: nobody could fetch a file by a URL of ours.
---@param key string
function store:presign(key) end

---Makes the store's directory, where it is gone.
function store:create_bucket() end

---Removes the store's directory. Raises `conflict` while objects are in it or uploads under way.
function store:delete_bucket() end

---@return boolean
function store:bucket_exists() end

---The URL of the store, or of one of its objects.
---@param key? string
---@return string
function store:url(key) end

---Nothing is open between two calls; for the sake of code that closes buckets.
function store:close() end

return blob
