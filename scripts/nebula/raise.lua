-- raise.lua: `raise(kind, format, ...)`: an error object of a kind, told in one line.
local nebula = require "nebula"

---@param kind string one of err.kind's values
---@param format string as string.format's
return function(kind, format, ...)
  error(nebula.error { kind = kind, message = select("#", ...) > 0 and format:format(...) or format }, 0)
end
