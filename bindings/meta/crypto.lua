---@meta nebula.crypto
-- What an editor sees of nebula.crypto, and what the API documents are made of.

---Digests, identifiers, random bytes, and bytes as text. From OpenSSL; CRC-32C is our own.
---All raise `validation` for arguments of the wrong kind.
---@class nebula.crypto
local crypto = {}

---@class nebula.crypto.digest_options
---@field raw? boolean 32 bytes instead of 64 hexadecimal digits (false)

---SHA-256. In a task, more than 256 KiB are hashed on the thread pool while the task waits.
---@param data string
---@param options? nebula.crypto.digest_options
---@return string digest lower-case hexadecimal, or bytes
function crypto.sha256(data, options) end

---HMAC-SHA-256 (RFC 2104). Waits as `sha256` does.
---@param key string
---@param data string
---@param options? nebula.crypto.digest_options
---@return string digest lower-case hexadecimal, or bytes
function crypto.hmac(key, data, options) end

---A SHA-256 that is fed piece by piece, on the calling thread.
---@class nebula.crypto.hasher
local hasher = {}

---@return nebula.crypto.hasher
function crypto.sha256_new() end

---@param data string
---@return nebula.crypto.hasher self
function hasher:update(data) end

---Gives the digest and ends the hasher; using it afterwards raises `validation`.
---@param options? nebula.crypto.digest_options
---@return string digest lower-case hexadecimal, or bytes
function hasher:finish(options) end

---CRC-32C (Castagnoli), as S3's `x-amz-checksum-crc32c` counts it.
---@param data string
---@param before? integer the checksum of what came before, to go on from it (0)
---@return integer checksum 32 bits
function crypto.crc32c(data, before) end

---A random UUID (RFC 9562, version 4).
---@return string uuid lower case, with dashes
function crypto.uuid_v4() end

---A UUID that begins with its time (RFC 9562, version 7). Each is greater than the one before it in
---this Lua state, also where the clock stands still or goes back.
---@return string uuid lower case, with dashes
function crypto.uuid_v7() end

---The UUID that a name has within a namespace (RFC 9562, version 5): the same each time.
---@param namespace string a UUID
---@param name string
---@return string uuid lower case, with dashes
function crypto.uuid_v5(namespace, name) end

---Bytes fit for keys.
---@param count integer 0 to 16 MiB
---@return string bytes
function crypto.random(count) end

---@param data string
---@return string digits lower case
function crypto.hex(data) end

---Raises `serialization` where the text is not pairs of hexadecimal digits.
---@param text string
---@return string data
function crypto.unhex(text) end

---The standard alphabet with padding (RFC 4648, section 4).
---@param data string
---@return string text
function crypto.base64(data) end

---Raises `serialization` for anything but what `base64` writes.
---@param text string
---@return string data
function crypto.unbase64(text) end

return crypto
