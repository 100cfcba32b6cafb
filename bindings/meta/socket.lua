---@meta nebula.socket
-- Streams over unix sockets, between programs of one machine. Only inside the host:
-- `require "nebula.socket"`.

---@class nebula.socket
local socket = {}

--- Listens at a path, which must not exist; close does not remove it. Errors: `io`.
---@param path string at most 107 bytes
---@return nebula.Socket
function socket.listen(path) end

--- Connects to a path. Errors: `not_found` where nobody listens, `io`.
---@param path string
---@return nebula.Socket
function socket.connect(path) end

---@class nebula.Socket a listening socket, or one end of a connection; one task at a time waits in it
local Socket = {}

--- Waits for a connection to a listening socket.
---@return nebula.Socket
function Socket:accept() end

--- What has arrived, at most 64 KiB, waiting for it; nil at the end.
---@return string?
function Socket:read() end

--- Queues bytes and returns at once. Errors: `io`, of this or an earlier write.
---@param bytes string
function Socket:write(bytes) end

--- Waits until all that was written is sent. Errors: `io`.
function Socket:flush() end

--- The user of the process at the other end, as the kernel knows it.
---@return integer uid
function Socket:user() end

--- Closes it; who waits in it gets the end.
function Socket:close() end
