---@meta nebula.http
-- What an editor sees of nebula.http, and what the API documents are made of.

---HTTP/1.1 requests over libcurl, in the one loop: many at once, connections kept alive.
---@class nebula.http
local http = {}

---@class nebula.http.request_options
---@field url string http://... or https://..., blanks and the like as %XX
---@field method? string GET; POST where there is a body
---@field headers? table<string, string|number|string[]>|string[][] by name, or a list of { name, value }
---@field body? string
---@field json? any sent as JSON, with its Content-Type; instead of body
---@field deadline? number|string seconds for the whole exchange (none)
---@field connect_timeout? number|string seconds (10)
---@field stall_timeout? number|string seconds in which no byte moves in either direction (60)
---@field max_bytes? integer of the answer's body (64 MiB)
---@field expect? integer|integer[] the statuses that are no error (any)
---@field follow_redirects? boolean up to ten of them (false)
---@field ca_file? string certificates to trust, instead of the system's
---@field proxy? string URL of a proxy; "" for none; default: http_proxy, https_proxy, no_proxy

---@class nebula.http.answer
---@field status integer
---@field headers table<string, string> by lower-case name; repeated ones joined with ", "
---@field body string

---Sends one request and waits for the whole answer. Nothing is tried again by itself.
---Raises `io` (no connection, a broken one, or a status other than expected: then `code` is the
---status and the message holds the start of the body; `retryable` and `retry_after` say the rest),
---`timeout`, `limit` (a body over max_bytes), `validation`.
---@param options nebula.http.request_options
---@return nebula.http.answer
function http.request(options) end

return http
