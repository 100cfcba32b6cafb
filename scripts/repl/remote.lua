-- remote.lua: the end of `nebula attach` at the terminal: finds the process, and is the prompt's back
-- end whose lines run over there.
local frames = require "repl.frames"
local nebula = require "nebula"
local pager = require "repl.pager"
local printer = require "repl.print"
local system = require "nebula.system"

local remote = {}

local LONGEST = 256 * 1024 * 1024 -- of a result's piece

local function fail(kind, message, ...) error(nebula.error { kind = kind, message = message:format(...) }, 0) end

-- ---- finding ----

local function is_running(pid) return system.stat("/proc/" .. pid) ~= nil end

--- The processes that can be attached to, and their sockets.
---@return {pid: integer, path: string}[]
function remote.processes()
  local found = {}
  for _, directory in ipairs(frames.directories()) do
    for _, name in ipairs(frames.is_private(directory) and system.list(directory) or {}) do
      local pid = math.tointeger(tonumber(name:match "^(%d+)%.sock$"))
      if pid and is_running(pid) then found[#found + 1] = { pid = pid, path = directory .. "/" .. name } end
    end
  end
  table.sort(found, function(a, b) return a.pid < b.pid end)
  return found
end

local function choose(pid)
  local found = remote.processes()
  local pids = {}
  for i, process in ipairs(found) do
    pids[i] = tostring(process.pid)
    if process.pid == pid then return process end
  end
  if #found == 0 then
    fail("not_found", "no worker of this user runs here: `nebula worker` starts one, `nebula repl` is a prompt without")
  end
  if pid then fail("not_found", "process %d cannot be attached to; these can: %s", pid, table.concat(pids, ", ")) end
  if #found > 1 then fail("config", "several processes can be attached to, name one: %s", table.concat(pids, ", ")) end
  return found[1]
end

-- ---- the back end ----

---@class nebula.repl.Remote
local Remote = {}
Remote.__index = Remote

-- Body of a task: what the process says. At its end nobody waits any longer.
function Remote:hear(editor)
  local _, err = nebula.try(function()
    for kind, payload in frames.each(self.peer, LONGEST) do
      if kind == "O" then
        editor:above(payload)
      elseif kind == "V" then
        self.pieces[#self.pieces + 1] = payload
      elseif kind == "R" then
        local id, text = payload:match "^(%d+) (.*)$"
        local waiting = self.waiting[tonumber(id)]
        if waiting then waiting:send(nebula.json.decode(text)) end
      elseif kind == "G" then
        self.prompt_text = payload
        self.greeted:send(true)
      end
    end
  end)
  self.gone = err and err.message or "the process has ended"
  self.greeted:send(false)
  for _, waiting in pairs(self.waiting) do waiting:send(false) end
end

-- Asks, and waits for the reply; interrupted, it says so over there and waits for the end.
function Remote:ask(kind, value)
  if self.gone then fail("io", "nebula attach: %s", self.gone) end
  self.asked = self.asked + 1
  local id, waiting = self.asked, nebula.task.channel(1)
  self.waiting[id] = waiting
  local reply
  local _ <close> = setmetatable({}, { __close = function()
    if reply == nil and not self.gone then
      frames.send(self.peer, "I")
      waiting:receive()
    end
    self.waiting[id] = nil
  end })
  frames.send(self.peer, kind, id .. " " .. (value and nebula.json.encode(value) or ""))
  reply = waiting:receive()
  if not reply then fail("io", "nebula attach: %s", self.gone) end
  return reply
end

function Remote:prompt() return self.prompt_text end

function Remote:parse(lines)
  local reply = self:ask("P", nebula.json.array(table.move(lines, 1, #lines, 1, {})))
  if reply.state ~= "run" then return reply.state, reply.what end
  return "run", function()
    local ended = self:ask "X"
    self.prompt_text, self.left = ended.prompt, ended.leaving
  end
end

function Remote:complete(line, cursor)
  local reply = self:ask("C", { line = line, cursor = cursor })
  local values = {}
  for name in pairs(reply.calls) do values[name] = print end -- any function: they are called
  return reply.word, reply.names, values, reply.signature
end

function Remote.timing() return false end -- it is told over there

function Remote:leaving() return self.left or self.gone ~= nil end

function Remote:failed(err) -- of the connection: a line's own error was printed over there
  if not self.gone and type(err) == "table" then return end
  io.stderr:write(self.gone and "nebula attach: " .. self.gone or tostring(err), "\n")
end

function Remote:ended()
  local pieces = self.pieces
  self.pieces = {}
  if pager.wanted(pieces) then return pager.show(pieces) end
  for _, piece in ipairs(pieces) do io.write(piece) end
end

-- Tells the size of the terminal and what it takes.
function Remote:hello(limit)
  local style = printer.style()
  frames.send(self.peer, "H", "0 " .. nebula.json.encode { width = style.width, colour = style.colour, limit = limit })
end

--- Opens the prompt inside of a process, until Ctrl-D or until that ends.
---@param pid? integer default: the only one there is
---@param opts {limit: number} seconds that a line may take
---@return boolean ok false where the process has ended
function remote.run(pid, opts)
  local process = choose(pid)
  local peer <close> = require("nebula.socket").connect(process.path)
  if peer:user() ~= system.ids().uid then fail("config", "%s is another user's", process.path) end
  local self = setmetatable({ peer = peer, waiting = {}, asked = 0, pieces = {}, greeted = nebula.task.channel(2) },
    Remote)
  require("repl.main").with_editor(function(editor)
    local listener = nebula.task.spawn(self.hear, self, editor)
    if self.greeted:receive() then
      self:hello(opts.limit)
      require("nebula.process").on_signal("WINCH", function()
        editor:resize()
        self:hello(opts.limit)
      end)
      print(("attached to process %d, whose jobs wait while a line computes. Ctrl-C interrupts, Ctrl-D leaves")
        :format(process.pid))
      require("repl.main").loop(editor, self)
    else
      io.stderr:write("nebula attach: ", self.gone, "\n")
    end
    listener:cancel()
  end)
  return self.gone == nil
end

return remote
