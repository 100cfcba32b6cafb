---@meta nebula.s3
-- What an editor sees of nebula.s3, and what the API documents are made of.

---Objects in one bucket of an S3 service, over libcurl in the one loop. Every method that talks to the
---server waits; many tasks share one Bucket. Requests are signed with SigV4, bodies with their SHA-256,
---which the server checks. A request that may be repeated is tried up to `attempts` times, after a random
---wait under a doubling ceiling, while a quota that all requests share lasts; what the server asks for
---(Retry-After) is obeyed; a wrong clock, an expired token and another region are corrected with one
---more request.
---
---Errors are objects with `source = "s3"`: `s3` (the server's code in `code`; EndpointUnreachable,
---UntrustedCertificate and ConnectionBroken where there was no answer), `conflict` (a condition did not
---hold), `timeout`, `limit`, `unknown_outcome` (a conditional write whose answer was lost), `config` (no
---credentials, an impossible address), `validation`; `io` for local files. `retryable` says whether trying
---later may help. What is absent is nil.
---@class nebula.s3
local s3 = {}

---@class nebula.s3.connect_options
---@field bucket string
---@field endpoint? string https://host[:port]; default: AWS's for the region
---@field region? string us-east-1
---@field access_key_id? string with secret_access_key; default: the chain of the AWS SDKs: AWS_ACCESS_KEY_ID and the
--- rest, a web identity (AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN; STS at AWS_ENDPOINT_URL_STS), the profile files,
--- a container's endpoint (AWS_CONTAINER_CREDENTIALS_*), the instance's role (IMDSv2). Keys that expire are renewed
--- before they do. Of a profile: keys, or role_arn and web_identity_token_file; what source_profile,
--- credential_process and SSO give comes by `eval "$(aws configure export-credentials --format env)"`
---@field secret_access_key? string
---@field session_token? string
---@field profile? string of ~/.aws/credentials and ~/.aws/config (AWS_PROFILE, else default)
---@field path_style? boolean host/bucket/key instead of bucket.host/key; default: true where there is an endpoint
---@field unsigned_payload? boolean bodies are not hashed: for TLS connections (false)
---@field checksum? "crc32c"|"none" objects go and come with their CRC32C, which is compared where the server knows one;
--- some stores refuse or ignore such headers (none)
---@field trust_etag? boolean do not compare what get and reader read with an ETag that looks like an MD5 (false)
---@field attempts? integer at most, of one request (4)
---@field connect_timeout? number|string seconds (10)
---@field first_byte_timeout? number|string seconds, from the last byte sent (60)
---@field stall_timeout? number|string seconds in which no byte moves (30)
---@field low_speed? integer bytes a second; a transfer that is slower for stall_timeout has stalled (1)
---@field deadline? number|string seconds for one request with all its attempts (none)
---@field ca_file? string certificates to trust (AWS_CA_BUNDLE, else the system's)
---@field proxy? string URL; "" for none; default: http_proxy, https_proxy, no_proxy

---Opens a bucket. Nothing is sent yet. Raises `config`, `validation`.
---@param options nebula.s3.connect_options
---@return nebula.s3.Bucket
function s3.connect(options) end

---@class nebula.s3.sign_options
---@field url string
---@field method? string GET
---@field headers? string[][] list of { name, value }, or a table by name
---@field body? string
---@field region? string us-east-1
---@field service? string s3
---@field time? string|number ISO 8601, or seconds since 1970; default: now
---@field access_key_id string
---@field secret_access_key string
---@field session_token? string
---@field query? boolean the signature goes into the URL, which is then presigned (false)
---@field expires? number|string seconds, of the query form (3600 for s3)
---@field normalize_path? boolean resolve "." and ".." in what is signed (true but for s3)
---@field sign_body? boolean add x-amz-content-sha256 (true for s3 in headers)
---@field unsigned_payload? boolean sign no body (true for s3 in a query)
---@field omit_session_token? boolean send the token unsigned (false)

---@class nebula.s3.signed
---@field canonical_request string
---@field string_to_sign string
---@field signature string hexadecimal
---@field headers string[][] all to send, as { name, value }; also by name in any case: headers.authorization
---@field url string

---Signs any request (AWS Signature Version 4). Asks nobody. Raises `validation`.
---@param options nebula.s3.sign_options
---@return nebula.s3.signed
function s3.sign(options) end

---@class nebula.s3.Bucket
local bucket = {}

---@class nebula.s3.stored
---@field etag string without quotes
---@field url string
---@field size integer bytes, as stored
---@field version? string

---@class nebula.s3.info
---@field key string
---@field size integer bytes of the whole object
---@field etag string without quotes
---@field last_modified string ISO 8601
---@field content_type? string
---@field content_encoding? string
---@field content_disposition? string
---@field content_language? string
---@field cache_control? string
---@field version? string
---@field storage_class? string
---@field sse? string
---@field metadata table<string, string>

---@class nebula.s3.describe_options
---@field content_type? string
---@field content_encoding? string
---@field content_disposition? string
---@field content_language? string
---@field cache_control? string
---@field metadata? table<string, string> up to 2 KiB
---@field storage_class? string
---@field sse? string "AES256" or "aws:kms". Some servers take it and encrypt nothing: bucket:head tells what was done
---@field sse_kms_key_id? string
---@field deadline? number|string seconds, of each request

---@class nebula.s3.object_options: nebula.s3.describe_options
---@field tags? table<string, string>

---@class nebula.s3.put_options: nebula.s3.object_options
---@field if_none_match? string "*": only where there is no object
---@field if_match? string only over the object with this etag
---@field part_size? integer bytes, 5 MiB at least (5 MiB; more for objects over 50 GiB)
---@field concurrency? integer parts in memory and on the way at once (4)
---@field progress? fun(bytes: integer) bytes the server has confirmed

---Stores an object: whole, or not at all. More than 5 MiB go as a multipart upload, in part_size x
---concurrency bytes of memory (at most 64 MiB where parts grow); a part that fails is retried alone; a
---failure or cancellation removes what was sent.
---@param key string
---@param data string|fun():string?|{file: string}|{read: function} function and read: pieces, nil at the end
---@param options? nebula.s3.put_options
---@return nebula.s3.stored
function bucket:put(key, data, options) end

---@class nebula.s3.get_options
---@field range? integer[] { first, last } from 0, both included; { first } to the end; { -n }: the last n
---@field if_match? string
---@field if_none_match? string raises `conflict`, code NotModified, where the object still has this etag
---@field version? string
---@field max_bytes? integer (256 MiB)
---@field deadline? number|string seconds

---@param key string
---@param options? nebula.s3.get_options
---@return string? data nil where there is no such object
---@return nebula.s3.info? info
function bucket:get(key, options) end

---@param key string
---@param options? {if_match?: string, if_none_match?: string, version?: string, deadline?: number|string}
---@return nebula.s3.info? info nil where there is no such object
function bucket:head(key, options) end

---@param key string
---@return boolean
function bucket:exists(key) end

---Deletes an object; one that does not exist is deleted already. `if_match` is looked at as bucket:copy does.
---@param key string
---@param options? {if_match?: string, version?: string, deadline?: number|string}
function bucket:delete(key, options) end

---Deletes objects, a thousand a request. Raises `s3` where some could not be deleted; `detail` has their keys, a
---line each, a hundred at most.
---@param keys string[]
---@param options? {deadline?: number|string}
---@return integer count
function bucket:delete_many(keys, options) end

---Copies an object on the server. Where the options say something about it (its type, metadata and the like),
---that replaces all that was said; without, it is kept. Over 5 GiB, or over `part_size` where it is given, it goes
---in parts, many at once, all of one version. Tags go along where the server copies them: not in parts, and by Ceph
---not with new metadata; bucket:tag sets them. A condition is about `to`; it is sent, and looked at before by a HEAD,
---since not every server minds it: on one that does not (Ceph), what is written between the two is replaced.
---@param from string
---@param to string
---@param options? nebula.s3.describe_options|{from_bucket?: string, if_none_match?: string, if_match?: string,
--- part_size?: integer, concurrency?: integer}
---@return {etag: string, url: string, last_modified: string, version?: string}
function bucket:copy(from, to, options) end

---@class nebula.s3.object
---@field key? string
---@field prefix? string instead of all others: what a delimiter folded
---@field size? integer
---@field etag? string
---@field last_modified? string ISO 8601
---@field storage_class? string

---@class nebula.s3.list_options
---@field prefix? string
---@field delimiter? string "/": what lies deeper comes as { prefix = }
---@field start_after? string
---@field limit? integer entries at most
---@field page_size? integer entries a request (1000)
---@field deadline? number|string seconds, of each request

---Goes through the objects in the order of their keys, in the memory of one page; the loop may be left.
---@param options? nebula.s3.list_options
---@return fun():nebula.s3.object?
function bucket:list(options) end

---A URL that lets its holder do one thing for a while, and no longer than the keys last that sign it. Asks S3
---nothing; the first use may look for the keys.
---@param key string
---@param options? {method?: string, expires?: number|string} GET; 3600 seconds, at most 7 days
---@return string url
function bucket:presign(key, options) end

---The URL of an object, or of the bucket.
---@param key? string
---@return string
function bucket:url(key) end

---@class nebula.s3.Reader
local reader = {}

---@class nebula.s3.reader_options
---@field if_match? string
---@field if_none_match? string
---@field version? string
---@field decompress? "zstd"|"gzip" give what was compressed
---@field deadline? number|string seconds, of the whole stream

---A stream of the object's bytes, with at most 1 MiB held. A connection that breaks is replaced where it
---broke. `for piece in reader do` works; so does a Reader as the data of put.
---@param key string
---@param options? nebula.s3.reader_options
---@return nebula.s3.Reader? reader nil where there is no such object
function bucket:reader(key, options) end

---@param most? integer bytes
---@return string? piece nil at the end
function reader:read(most) end

---@return nebula.s3.info
function reader:info() end

function reader:close() end

---@class nebula.s3.Writer
local writer = {}

---A stream into an object, which appears when it is finished. Closed unfinished, it is aborted.
---@param key string
---@param options? nebula.s3.put_options|{compress?: "zstd"|"gzip", level?: integer} zstd 1 to 19 (3), gzip 1 to 9 (6)
---@return nebula.s3.Writer
function bucket:writer(key, options) end

---Waits while all parts are on their way.
---@param ... string|number
---@return nebula.s3.Writer self
function writer:write(...) end

---@return nebula.s3.stored
function writer:finish() end

---Aborts what is not finished and waits until the server has let go of it. Harmless afterwards.
function writer:close() end

---@class nebula.s3.download_options
---@field file string path to write; replaced at once when every byte is there. Not synced: where the copy must
--- outlive a power failure, open it and call its `sync`
---@field part_size? integer bytes a request (4 MiB)
---@field concurrency? integer requests at once (4)
---@field progress? fun(bytes: integer) bytes written
---@field if_match? string
---@field if_none_match? string
---@field version? string
---@field deadline? number|string seconds, of each request

---Writes an object into a file: whole, or not at all. What does not fit into one part comes in ranges, written
---as they come, in 2.5 MiB of memory each at most; a range that breaks is asked for again alone.
---@param key string
---@param options nebula.s3.download_options
---@return nebula.s3.info? info nil where there is no such object
function bucket:download(key, options) end

---The tags of an object (nil where there is no such object), or sets these and no others.
---@param key string
---@param tags? table<string, string>
---@return table<string, string>?
function bucket:tag(key, tags) end

---Multipart uploads that were begun and neither completed nor aborted.
---@param options? {prefix?: string, older_than?: number|string}
---@return {key: string, id: string, initiated: string}[]
function bucket:uploads(options) end

---Aborts those that began so long ago, by the server's clock, so that their parts cost nothing any more.
---@param options {prefix?: string, older_than: number|string}
---@return integer count
function bucket:abort_uploads(options) end

---What is gone already is aborted.
---@param key string|{key: string, id: string} or one of uploads()
---@param id? string
function bucket:abort(key, id) end

function bucket:create_bucket() end

---Raises `conflict` while objects are in it.
function bucket:delete_bucket() end

---@return boolean
function bucket:bucket_exists() end

---No call may follow. Calls under way go on.
function bucket:close() end

return s3
