---@meta nebula.terminal
-- Single keys from the terminal. Only inside the host: `require "nebula.terminal"`.

---@class nebula.terminal
local terminal = {}

--- Opens the controlling terminal, in raw mode until it is closed. Errors: `io` (there is none).
---@return nebula.terminal.keys
function terminal.open() end

---@class nebula.terminal.keys to be closed
local keys = {}

--- Waits for a key. Errors: `io` (the terminal is gone).
---@param seconds number|string at most so long
---@return string? typed the bytes; nil where nothing was typed
function keys:read(seconds) end

function keys:close() end

return terminal
