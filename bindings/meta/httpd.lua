---@meta nebula.httpd
-- A small HTTP server in the loop, over libmicrohttpd. Only inside the host: `require "nebula.httpd"`.

---@class nebula.httpd
local httpd = {}

--- Listens. Errors: `io` (the address is taken, or not this machine's), `validation`.
---@param options {host?: string, port?: integer, max_body?: integer} host: a numeric address (127.0.0.1); port:
---  0 (default) takes a free one; max_body: bytes, longer ones get a 413 (1 MiB)
---@return nebula.httpd.server
function httpd.listen(options) end

---@class nebula.httpd.server to be closed
local server = {}

--- Waits for the next request; one task at a time. nil once the server is closed.
---@return nebula.httpd.request?
function server:accept() end

---@return integer
function server:port() end

--- What is under way gets a 503.
function server:close() end

---@class nebula.httpd.request collected unanswered, the client gets a 500
---@field method string
---@field path string without the query
---@field headers table<string, string> by lower-case name; repeated ones joined with ", "
---@field body string
local request = {}

--- Answers, once. Errors: `validation`, `script` where it was answered before.
---@param answer {status?: integer, headers?: table<string, string>, body?: string} status: 200 to 599 (200)
function request:answer(answer) end

return httpd
