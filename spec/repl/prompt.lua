-- prompt.lua: the interactive prompt in a pseudo-terminal: typed keys in, the screen out.
local child = require "spec.support.child"
local core = require "nebula"
local nebula = require "spec.support.nebula"
local terminal = require "spec.support.terminal"

local prompts = {}

local SECONDS = 60

---@class Prompt a running prompt and all it has printed
local Prompt = {}
Prompt.__index = Prompt

--- Starts a prompt and waits until it is there. Close it: `local prompt <close> = prompts.open()`.
---@param env? table<string, string>
---@param args? string[]
---@param home? string its directory; default: a new one
---@param size? {rows: integer, columns: integer} default 40 x 100
---@return Prompt
function prompts.open(env, args, home, size)
  size = size or { rows = 40, columns = 100 }
  home = home or nebula.scratch()
  local given = { TERM = "xterm", NO_COLOR = "1", HOME = home, XDG_STATE_HOME = home .. "/state" }
  for name, value in pairs(env or {}) do given[name] = value end
  local self = setmetatable({ home = home, output = "", screen = terminal.new(size.rows, size.columns) }, Prompt)
  self.process = nebula.spawn { args = args, env = given, cwd = home, pty = size }
  self.reader = core.task.spawn(function()
    for chunk in function() return self.process:read() end do
      self.output = self.output .. chunk
      self.screen:feed(chunk)
    end
  end)
  child.await("the first prompt", SECONDS, function()
    local first, last = self.output:find "%f[^\n\0]nebula[^\n>]*> "
    if not first then return false end
    self.prompt, self.seen = self.output:sub(first, last), last + 1
    return true
  end)
  return self
end

--- Types keys.
---@param keys string
function Prompt:type(keys) self.process:write(keys) end

--- Waits until the text was printed after what was expected before.
function Prompt:expect(text)
  local from = self.seen or 1
  local ok = pcall(child.await, text, SECONDS, function()
    local _, last = self.output:find(text, from, true)
    if last then self.seen = last + 1 end
    return last
  end)
  if not ok then error(("no %q in what follows:\n%s"):format(text, self.output:sub(from)), 2) end
end

--- Waits until the screen looks so: it holds the text, or the function says so of its text.
---@param wanted string|fun(screen: string): any
function Prompt:shows(wanted)
  local ok = pcall(child.await, "the screen", SECONDS, function()
    local text = self.screen:text()
    if type(wanted) == "function" then return wanted(text) end
    return text:find(wanted, 1, true)
  end)
  if not ok then
    error(("no %s on this screen:\n%s"):format(type(wanted) == "string" and ("%q"):format(wanted) or "such thing",
      self.screen:text()), 2)
  end
end

--- A line, what it answers, and the next prompt.
function Prompt:line(text, answer)
  self:type(text .. "\r")
  self:expect "\n"
  self:expect(answer)
  self:expect(self.prompt)
end

function Prompt:__close()
  self.process:kill "KILL"
  self.process:wait()
end

return prompts
