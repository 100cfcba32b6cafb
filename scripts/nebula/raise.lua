-- raise.lua: `raise(kind, format, ...)`: an error object of a kind, told in one line.
local nebula = require "nebula"

-- What the rows themselves say against an operation, where a constraint does not say it first.
local OF_ROWS = { conflict = true, fenced = true }

---@param kind string one of err.kind's values
---@param format string as string.format's
return function(kind, format, ...)
  local message = select("#", ...) > 0 and format:format(...) or format
  error(nebula.error { kind = kind, source = OF_ROWS[kind] and "database" or nil, message = message }, 0)
end
