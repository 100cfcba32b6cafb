-- session.lua: what one prompt knows and does, whether it is on this terminal or attached from
-- another process: its environment, how results are shown, and what a typed line means.
local cli = require "nebula.cli"
local commands = require "repl.commands"
local printer = require "repl.print"
local report = require "nebula.report"

---@class nebula.repl.Session
---@field env table the globals of its lines
---@field format string one of print.formats
---@field expanded boolean|"auto"
---@field timing boolean
---@field output? file* where results go instead of the terminal
---@field leaving? boolean
---@field watching? boolean an expression is shown again and again
---@field locked? boolean started with --read-only
---@field attached? boolean from another process: the storage is this one's own
---@field style fun(): nebula.repl.Style of the terminal
---@field write fun(...: string) to the terminal
---@field deliver? fun(pieces: string[]) shows a result; default: writes its pieces
local Session = {}
Session.__index = Session

--- A session. `place` says where it is: `env`, `style`, `write`, and `deliver` where results are paged.
---@param place table
---@return nebula.repl.Session
function Session.new(place)
  return setmetatable({ env = place.env, style = place.style, write = place.write, deliver = place.deliver,
    format = "table", expanded = "auto", timing = false }, Session)
end

--- A line of text for the person at the terminal.
---@param text string
function Session:say(text) self.write(text, "\n") end

--- Shows values, as .format, .x and .output say.
---@param values {n: integer, [integer]: any}
function Session:show(values)
  local how = { format = self.format, expanded = self.expanded }
  local file = self.output
  if file then
    how.style = { colour = false, terminal = false, width = 80 }
    how.write = function(...) assert(file:write(...)) end
    printer.values(values, how)
    return file:flush()
  end
  local pieces = {}
  how.style = self.style()
  how.write = function(...)
    for i = 1, select("#", ...) do pieces[#pieces + 1] = (select(i, ...)) end
  end
  printer.values(values, how)
  if self.deliver then return self.deliver(pieces) end
  for _, piece in ipairs(pieces) do self.write(piece) end
end

--- What an error is to a person at the prompt: no frames of the host.
---@param err any
---@return string
function Session:error_text(err)
  if type(err) == "table" and err.kind == "cancelled" then return "interrupted\n" end
  local line = report.line(err)
  if self.style().colour then line = "\27[31m" .. line .. "\27[0m" end
  local detail = type(err) == "table" and err.detail
  return line .. (detail and "\n" .. tostring(detail) or "") .. "\n"
end

--- What the lines typed so far mean: a command, an expression (a leading `=` says so too) or a
--- statement.
---@param lines string[]
---@return "run"|"more"|"nothing"|"wrong" state
---@return function|string|nil what the function to run, or what is wrong
function Session:parse(lines)
  if #lines == 1 then
    local command, problem = commands.parse(lines[1], self)
    if command then return "run", command end
    if problem then return "wrong", problem end
  end
  local code = table.concat(lines, "\n"):gsub("^%s*=", "return ")
  if code:find "^%s*$" then return "nothing" end
  local chunk, message = cli.compile(code, "=prompt", self.env)
  if not chunk then return message:find "<eof>" and "more" or "wrong", message end
  return "run", function()
    local values = table.pack(chunk())
    if values.n == 0 then return end
    local env = self.env
    env._3, env._2, env._1, env._ = rawget(env, "_2"), rawget(env, "_1"), values[1], values[1]
    self:show(values)
  end
end

--- The last line failed.
---@param err any
function Session:failed(err) self.env._error = err end

function Session:close()
  if self.output then self.output:close() end
  self.output = nil
end

return Session
