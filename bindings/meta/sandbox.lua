---@meta nebula.sandbox
-- A Lua state of its own for code that is not trusted: no I/O, no clock, capped memory and work,
-- seeded randomness, `pairs` in the order of the keys. Only inside the host: `require "nebula.sandbox"`.

---@class nebula.sandbox
local sandbox = {}

---@class nebula.SandboxOptions
---@field memory? integer bytes, default 16 MiB
---@field instructions? integer a call, default 10 million; patterns and table functions count too
---@field seconds? number|string of processor time a call, default 1
---@field seed? integer of math.random, default 0
---@field globals? table<string, any> copied in
---@field functions? table<string, function> of the host; they must not wait
---@field modules? table<string, string|{source: string, chunkname: string}> what `policy(name)` loads
---@field find? fun(name: string): string?, string? source and file name of others

--- Compiles and runs a source that returns a table. Errors: `policy` (file:line), `limit`, `validation`.
---@param source string
---@param chunkname string a file's name
---@param options? nebula.SandboxOptions
---@return nebula.Sandbox
function sandbox.load(source, chunkname, options) end

---@class nebula.Sandbox
local Sandbox = {}

--- Calls the function at a path such as "claim" or "options.cap.check". Values are copied both ways;
--- a function in a result is a nebula.SandboxFunction. Errors: `policy`, `limit`.
---@param path string
---@param ... any
---@return any ...
function Sandbox:call(path, ...) end

---@class nebula.SandboxFunction
---@overload fun(...: any): any
local SandboxFunction = {}

--- Calls it with each element of a list (1000 at most): a list of what it returns for each, with nils where
--- it returns none. Cheaper than a call for each, and under the limits of one. Errors: `policy`, `limit`.
---@param list any[]
---@return any[]
function SandboxFunction:map(list) end

--- The table that the source returned, its functions as handles.
---@return table
function Sandbox:describe() end

--- Seeds math.random anew.
---@param seed integer
function Sandbox:seed(seed) end

--- Bytes in use.
---@return integer
function Sandbox:memory() end

--- Frees it; also at `<close>`.
function Sandbox:close() end

return sandbox
