---@meta nebula.process
-- Child processes, and signals to this one. Only inside the host: `require "nebula.process"`.

---@class nebula.process
local process = {}

---@class nebula.ProcessOptions
---@field file string the program; looked up in PATH unless it holds a slash
---@field args? (string|number)[]
---@field env? table<string, string|false> added to the own environment; false takes a name out
---@field clear_env? boolean `env` alone is the environment
---@field cwd? string
---@field uid? integer also the gid, unless given; supplementary groups are dropped
---@field gid? integer
---@field stdin? string "null" (default), "inherit", "pipe", or the text to send
---@field stdout? string "pipe" (default), "inherit", "null", or a path with a slash, appended to
---@field stderr? string the same, or "stdout": wherever stdout goes
---@field pty? boolean|{rows: integer, columns: integer} a terminal of its own for all three
---@field detached? boolean a session of its own: it survives this program
---@field timeout? number|string of `run`: then the program is ended
---@field max_bytes? integer of `run`: most bytes of an output, default 64 MiB

--- Starts a program. Errors: `io` (code ENOENT, EACCES ...), `validation`.
---@param options nebula.ProcessOptions
---@return nebula.Process
function process.spawn(options) end

--- Runs a program to its end; cancelling ends it too. Errors: as spawn, `timeout`, `limit`.
---@param options nebula.ProcessOptions
---@return {status: integer, signal?: integer, stdout: string, stderr: string}
function process.run(options) end

--- Answers a signal ("TERM", "INT", "HUP", "USR1", "USR2", "QUIT", "WINCH"): `fn(name)` runs as a
--- task each time. nil: the default again, which for INT and TERM interrupts the main task.
---@param name string|integer
---@param fn? fun(name: string)
---@return function? previous
function process.on_signal(name, fn) end

---@class nebula.Process a child; that nobody holds it does not end it
---@field pid integer
local Process = {}

--- Waits for the end; nil where `timeout` seconds pass first.
---@param timeout? number|string
---@return {status: integer, signal?: integer}?
function Process:wait(timeout) end

--- Sends a signal, default TERM; false where it has ended.
---@param signal? string|integer
---@return boolean
function Process:kill(signal) end

--- What has arrived, waiting for more where nothing has; nil at the end.
---@param stream? "stdout"|"stderr"
---@return string?
function Process:read(stream) end

--- All that is left of both outputs, at most 64 MiB each. Errors: `limit`.
---@return string stdout, string stderr
function Process:read_all() end

--- Queues bytes for its standard input or terminal. Errors: `io`.
---@param bytes string
function Process:write(bytes) end

--- Closes its standard input once what is queued was written.
function Process:end_input() end

--- Tells its terminal a new size. Errors: `io`.
---@param rows integer
---@param columns integer
function Process:resize(rows, columns) end

return process
