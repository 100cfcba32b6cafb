---@meta
--- Error objects: what every function of the module raises.

---@alias nebula.ErrorKind
---| "database" | "s3" | "pool" | "timeout" | "cancelled" | "conflict" | "fenced" | "not_found"
---| "unknown_outcome" | "config" | "migration" | "policy" | "script" | "io" | "serialization"
---| "validation" | "limit"

---@class nebula.Error
---@field kind nebula.ErrorKind what happened
---@field message string one line for a person; never a secret
---@field source? "database"|"s3"|"blob" where it happened
---@field code? string SQLSTATE, S3 code or errno name
---@field detail? any more of it
---@field retryable boolean the same call may succeed later
---@field retry_after? number seconds, where the other side said so
---@field traceback? string of the place where it was raised

---@class nebula
local nebula = {}

---@class nebula.error_fields
---@field message string
---@field kind? nebula.ErrorKind default "script"
---@field code? string
---@field source? string
---@field detail? any
---@field retryable? boolean
---@field retry_after? number

--- Makes an error object to raise with error().
--- Errors: `validation` for an unknown field or kind, or a message that is no string.
---@param fields nebula.error_fields
---@return nebula.Error
function nebula.error(fields) end

--- Calls fn(...); returns its results, or nil and an error object where it raised. A cancel of the
--- calling task passes through.
---@param fn function
---@return any ...
function nebula.try(fn, ...) end

return nebula
