-- report.lua: how an uncaught error is told to a person: one readable line on standard error, then
-- what helps to find it: the detail, and for a script's own mistake the traceback.
local STATUS_FAILED, STATUS_USAGE, STATUS_INTERRUPTED = 1, 2, 130

-- Kinds whose message says it all: where in the Lua code it was noticed helps nobody.
local PLAIN = { config = true, cancelled = true, pool = true, policy = true, not_found = true,
  migration = true }

-- Classes of SQLSTATE that mean: no connection, or one that the server refused.
local UNCONNECTED = { ["08"] = true, ["28"] = true, ["3D"] = true }

local report = {}

--- The traceback without the frames of the host that called the script; nil where nothing is left.
---@param traceback string
---@return string?
function report.own_frames(traceback)
  local lines = {}
  for line in traceback:gmatch "[^\n]+" do
    if line:find "nebula/cli[./]" or line:find "repl/session%.lua" then break end
    lines[#lines + 1] = line
  end
  while #lines > 1 and lines[#lines]:find("[C]:", 1, true) do lines[#lines] = nil end
  return #lines > 1 and table.concat(lines, "\n") or nil
end

-- Of the host's scripts, whose long paths Lua shortens.
local function is_ours(file)
  return file:find "scripts/nebula/" or file:find "scripts/tasks/" or file:find "scripts/repl/"
end

-- Whether a traceback tells something: a frame is of somebody's own file, or the host has the mistake.
local function helps(traceback, message)
  local file = message:match "^(%S-):%d+:"
  if file and is_ours(file) then return true end
  for line in traceback:gmatch "[^\n]+" do
    file = line:match "^%s+(.-):%d+:"
    if file and not is_ours(file) then return true end
  end
  return false
end

--- The exit status that an error means: 2 for usage and configuration, 130 interrupted, else 1.
---@param err any
---@return integer
function report.status(err)
  if type(err) ~= "table" then return STATUS_FAILED end
  if err.kind == "config" then return STATUS_USAGE end
  if err.kind == "cancelled" then return STATUS_INTERRUPTED end
  return STATUS_FAILED
end

--- One line for a person: the message, with the kind where the message alone does not tell it.
---@param err any
---@return string
function report.line(err)
  if type(err) ~= "table" or not err.kind then return tostring(err) end
  local message = tostring(err.message)
  if err.code and not message:find(tostring(err.code), 1, true) then message = message .. " [" .. err.code .. "]" end
  if PLAIN[err.kind] or err.kind == "script" or err.kind == "validation" then return message end
  return err.kind .. ": " .. message
end

--- Says the error on standard error.
---@param err any
---@param prefix? string the program's name, default "nebula"
function report.print(err, prefix)
  io.stdout:flush()
  local lines = { (prefix or "nebula") .. ": " .. report.line(err) }
  if type(err) == "table" then
    local detail = err.detail and tostring(err.detail)
    if detail and detail:find "^stack traceback:" then detail = report.own_frames(detail) end -- a sandbox's own
    lines[#lines + 1] = detail
    local plain = PLAIN[err.kind] or UNCONNECTED[tostring(err.code):sub(1, 2)]
    local traceback = not plain and err.traceback and report.own_frames(err.traceback)
    if traceback and helps(traceback, tostring(err.message)) then lines[#lines + 1] = traceback end
  end
  io.stderr:write(table.concat(lines, "\n"), "\n")
end

--- Says the error and returns the exit status: what the host does with an uncaught one.
---@param err any
---@return integer status
function report.finish(err)
  report.print(err)
  return report.status(err)
end

return report
