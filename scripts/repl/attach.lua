-- attach.lua: the end of `nebula attach` inside of the process: listens on a unix socket in a
-- directory of its user's own, and gives each connection of that user a session.
local complete = require "repl.complete"
local environment = require "repl.environment"
local frames = require "repl.frames"
local nebula = require "nebula"
local place = require "repl.place"
local schema = require "repl.schema"
local Session = require "repl.session"
local system = require "nebula.system"

local attach = {}

local LINE_SECONDS = 30
local MOST_UNSENT, LONGEST = 4 * 1024 * 1024, 16 * 1024 * 1024 -- bytes; of what is told, of what is typed

local function each_text(...)
  local texts = table.pack(...)
  for i = 1, texts.n do texts[i] = tostring(texts[i]) end
  return texts
end

-- The globals of an attached line: its own, over the process's; what it prints goes to who asked.
local function new_environment(storage, write)
  local env = environment.install({ storage = storage }, _G)
  env._G = env
  env.print = function(...) write(table.concat(each_text(...), "\t"), "\n") end
  env.io = setmetatable({ write = function(...) write(...) return io.stdout end }, { __index = io })
  local help, plot = require "repl.help", require "nebula.plot"
  env.help = setmetatable({}, { __index = help, __tostring = function() return tostring(help) end,
    __call = function(_, thing) env.print(help.text(thing)) end })
  env.plot = setmetatable({
    histogram = function(list, column, bins) plot.histogram(list, column, bins, env.print) end,
  }, { __index = plot, __call = function(_, rows, x, y) plot.bars(rows, x, y, env.print) end })
  return env
end

---@class nebula.repl.Connection
local Connection = {}
Connection.__index = Connection

-- Waits where the other end does not take what it is told: it may have been stopped.
function Connection:tell(kind, payload)
  if frames.send(self.peer, kind, payload) <= MOST_UNSENT then return end
  local _ <close> = self.telling:acquire()
  self.peer:flush()
end

function Connection:reply(id, value) self:tell("R", id .. " " .. nebula.json.encode(value)) end

-- Body of a task: runs the line, then says that it has ended.
function Connection:run(id, chunk)
  local started = nebula.time.monotonic()
  local line = nebula.task.spawn(function() nebula.task.deadline(self.limit, chunk) end)
  local _ <close> = setmetatable({}, { __close = function() line:cancel() end }) -- the connection may end first
  self.line = line
  local ok, err = pcall(line.join, line)
  self.line = nil
  if not ok then
    self.session:failed(err)
    self.session.write(self.session:error_text(err))
  end
  if self.session.timing then
    self.session:say(("%.1f ms"):format((nebula.time.monotonic() - started) * 1000))
  end
  schema.warm(self.session.env)
  self:reply(id, { prompt = self:prompt(), leaving = self.session.leaving })
end

function Connection:prompt() return place.prompt(system.ids().pid) end -- luacheck: ignore 212

local ANSWERS = {}

function ANSWERS.H(self, _, given)
  self.style = { colour = given.colour == true, terminal = true, width = given.width }
  self.limit = given.limit or LINE_SECONDS
end

function ANSWERS.P(self, id, lines)
  local state, what = self.session:parse(lines)
  self.chunk = state == "run" and what or nil
  self:reply(id, { state = state, what = type(what) == "string" and what or nil })
end

function ANSWERS.X(self, id)
  local chunk = self.chunk
  self.chunk = nil
  if not chunk then return self:reply(id, { prompt = self:prompt() }) end
  self.scope:spawn(self.run, self, id, chunk)
end

function ANSWERS.I(self)
  if self.line then self.line:cancel() end
end

function ANSWERS.C(self, id, given)
  local word, names, values, signature = complete.at(self.session.env, given.line, given.cursor)
  local calls = {}
  for _, name in ipairs(names) do
    if type(values[name]) == "function" then calls[name] = true end
  end
  self:reply(id, { word = word, names = nebula.json.array(names), calls = calls, signature = signature })
end

-- Body of a task: one connection, until its other end is gone.
local function converse(peer, storage)
  local _ <close> = peer
  if peer:user() ~= system.ids().uid then return end
  nebula.task.scope(function(scope)
    local self = setmetatable({ peer = peer, scope = scope, limit = LINE_SECONDS,
      telling = nebula.task.semaphore(1) }, Connection)
    local function write(...) self:tell("O", table.concat(each_text(...))) end
    self.session = Session.new {
      env = new_environment(storage, write), write = write, style = function() return self.style end,
      deliver = function(pieces)
        for _, piece in ipairs(pieces) do self:tell(self.session.watching and "O" or "V", piece) end
      end,
    }
    local _ <close> = setmetatable({}, { __close = function() self.session:close() end })
    self.session.attached = true
    self.style = { colour = false, terminal = true, width = 80 }
    self:tell("G", self:prompt())
    for kind, payload in frames.each(peer, LONGEST) do
      local id, text = payload:match "^(%d+) ?(.*)$"
      local answer = ANSWERS[kind]
      if answer then answer(self, id, text and text ~= "" and nebula.json.decode(text) or nil) end
    end
    if self.line then self.line:cancel() end
  end)
end

-- Body of a task: takes connections; one that fails ends alone.
local function listen(server, storage, connections)
  while true do
    local peer = server:accept()
    local task
    task = nebula.task.spawn(function()
      local _, err = nebula.try(converse, peer, storage)
      connections[task] = nil
      if err and err.kind ~= "cancelled" then nebula.log.debug("an attached prompt ended", { error = err.message }) end
    end)
    connections[task] = true
  end
end

local function open_socket(directory)
  if not system.stat(directory) then system.mkdir(directory, 448) end -- 0700
  if not frames.is_private(directory) then
    error(nebula.error { kind = "config", message = directory .. " is not this user's alone (mode 0700)" }, 0)
  end
  local path = ("%s/%d.sock"):format(directory, system.ids().pid)
  os.remove(path) -- of a process that had our number, and was killed
  return require("nebula.socket").listen(path), path
end

--- Lets `nebula attach` of this user into this process, until the returned value is closed. Where
--- there is no place for the socket, that is told, and nobody can attach.
---@param storage nebula.Storage which the attached prompt knows as `storage`
---@return table closing `<close>` it
function attach.serve(storage)
  local opened, err = nebula.try(function() return table.pack(open_socket(frames.directories()[1])) end)
  if not opened then
    nebula.log.warn("nebula attach cannot reach this process", { error = err.message })
    return setmetatable({}, { __close = function() end })
  end
  local server, path = opened[1], opened[2]
  local connections = {}
  local listener = nebula.task.spawn(listen, server, storage, connections)
  return setmetatable({ path = path }, { __close = function()
    os.remove(path)
    listener:cancel()
    for task in pairs(connections) do task:cancel() end
    server:close()
  end })
end

return attach
