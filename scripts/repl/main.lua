-- main.lua: the interactive prompt on this terminal: reads lines, runs each as a task, shows what it
-- returned. What runs them is a back end: the session of this process, or one that is attached to.
--
-- A line may wait, background tasks go on meanwhile, and Ctrl-C interrupts it. What background tasks
-- print appears above the line that is being typed.
local complete = require "repl.complete"
local environment = require "repl.environment"
local history = require "repl.history"
local nebula = require "nebula"
local pager = require "repl.pager"
local place = require "repl.place"
local printer = require "repl.print"
local process = require "nebula.process"
local schema = require "repl.schema"
local Session = require "repl.session"
local system = require "nebula.system"
local ui = require "nebula.ui"

local repl = {}

-- ---- completion ----

local MOST_NAMES = 200

local function list_names(editor, all)
  local widest, names = 0, table.move(all, 1, math.min(#all, MOST_NAMES), 1, {})
  for _, name in ipairs(names) do widest = math.max(widest, #name) end
  local columns = math.max(1, ui.width() // (widest + 2))
  local rows = math.ceil(#names / columns)
  local lines = {}
  for r = 1, rows do
    local cells = {}
    for c = 0, columns - 1 do
      local name = names[c * rows + r]
      if name then cells[#cells + 1] = name .. (" "):rep(widest + 2 - #name) end
    end
    lines[r] = table.concat(cells):gsub("%s+$", "")
  end
  if #all > #names then lines[#lines + 1] = ("... %d more"):format(#all - #names) end
  editor:above(table.concat(lines, "\n") .. "\n")
end

local function offer(editor, back, line, cursor)
  local before = line:sub(1, cursor)
  if before:find "^%s*$" then return editor:insert "  " end
  local word, names, values, signature = back:complete(line, cursor)
  local common = complete.common(names)
  local call = #names == 1 and type(values[names[1]]) == "function" and "(" or ""
  if #common > #word or call ~= "" then editor:insert(common:sub(#word + 1) .. call) end
  if signature then
    editor:above(signature .. "\n")
  elseif #names > 1 and #common <= #word then
    list_names(editor, names)
  end
end

-- ---- reading ----

-- One line of input, or nil and "end" or "interrupt".
local function read_line(editor, back, prompt)
  local event, text, cursor = editor:read(prompt)
  while event == "complete" do
    offer(editor, back, text, cursor)
    event, text, cursor = editor:read()
  end
  if event == "line" then return text end
  return nil, event
end

-- What was typed until it is complete: a function to run; or nil, what happened, and what is wrong.
local function read_chunk(editor, back)
  local lines, prompt = {}, back:prompt()
  while true do
    local line, event = read_line(editor, back, prompt)
    if not line then return nil, event end
    lines[#lines + 1] = line
    local state, what = back:parse(lines)
    if state ~= "more" then
      if state ~= "nothing" then history.remember(editor, lines) end
      if state == "run" then return what end
      return nil, state, what
    end
    if #lines == 1 then prompt = (" "):rep(math.max(0, ui.text_width(prompt) - 3)) .. "-> " end
  end
end

-- ---- running ----

-- Waits for the line's end: true, or false and its error. A second Ctrl-C leaves it to end by itself.
local function wait_for(editor, line)
  editor:run(line)
  local ended = nebula.task.channel(2)
  local attendant = nebula.task.spawn(function()
    editor:attend()
    ended:send { false, "left behind: it still cleans up (.tasks shows it)" }
  end)
  nebula.task.spawn(function() ended:send(table.pack(pcall(line.join, line))) end)
  local outcome = ended:receive()
  attendant:cancel()
  editor:run()
  return outcome[1], outcome[2]
end

local function run(editor, back, chunk)
  local started = nebula.time.monotonic()
  local ok, err = wait_for(editor, nebula.task.spawn(chunk))
  if not ok then back:failed(err) end
  if back:timing() then print(("%.1f ms"):format((nebula.time.monotonic() - started) * 1000)) end
  back:ended()
end

--- Reads lines and gives them to the back end until one of the two wants to leave.
---@param editor table
---@param back table
function repl.loop(editor, back)
  while not back:leaving() do
    local chunk, event, what = read_chunk(editor, back)
    if chunk then
      run(editor, back, chunk)
    elseif event == "end" then
      io.write "\n"
      return
    elseif event == "interrupt" then
      io.write "^C\n"
    elseif event == "wrong" then
      io.stderr:write(ui.paint("red", what, "stderr"), "\n")
    end
  end
end

-- What a task writes while a line is typed appears above it.
local function write_above(editor)
  local stock = { print = print, write = io.write }
  _G.print = function(...)
    local texts = table.pack(...)
    for i = 1, texts.n do texts[i] = tostring(texts[i]) end
    editor:above(table.concat(texts, "\t") .. "\n")
  end
  io.write = function(...) -- luacheck: ignore 122
    if io.output() ~= io.stdout then return stock.write(...) end
    editor:above(table.concat { ... })
    return io.stdout
  end
  return setmetatable({}, { __close = function()
    _G.print, io.write = stock.print, stock.write -- luacheck: ignore 122
  end })
end

--- Opens the editor, with its history, and calls fn(editor).
---@param fn fun(editor: table)
function repl.with_editor(fn)
  local editor <close> = require("nebula.editor").open()
  local _ <close> = write_above(editor)
  process.on_signal("WINCH", function() editor:resize() end)
  local path = history.path()
  if path then editor:load(path) end
  fn(editor)
  if path then history.save(editor, path) end
end

-- ---- the session of this process ----

---@class nebula.repl.Local
local Local = {}
Local.__index = Local

local function new_local(editor, opts)
  local self = setmetatable({ editor = editor }, Local)
  self.session = Session.new {
    env = _G, style = printer.style, write = io.write,
    deliver = function(pieces)
      if not self.session.watching and (self.held or pager.wanted(pieces)) then
        self.held = self.held or {}
        return table.move(pieces, 1, #pieces, #self.held + 1, self.held)
      end
      for _, piece in ipairs(pieces) do io.write(piece) end
    end,
  }
  if opts and opts.read_only then
    require("nebula.config").settings().read_only = true
    self.session.locked = true
  end
  return self
end

function Local:prompt() return place.prompt() end -- luacheck: ignore 212

function Local:parse(lines) return self.session:parse(lines) end

function Local:complete(line, cursor) return complete.at(self.session.env, line, cursor) end

function Local:timing() return self.session.timing end

function Local:leaving() return self.session.leaving end

function Local:failed(err)
  self.session:failed(err)
  io.stdout:flush()
  io.stderr:write(self.session:error_text(err))
end

-- After each line: what is too long for the terminal is paged, and what Tab needs is read.
function Local:ended()
  local held = self.held
  self.held = nil
  if held then pager.show(held) end
  if rawget(_G, "db") then schema.warm(_G) end
end

-- What the user wants at each start: init.lua in the configuration directory, where it is the user's.
local function run_init(editor, back)
  local base = os.getenv "XDG_CONFIG_HOME"
  if not base or base == "" then base = (os.getenv "HOME" or "") .. "/.config" end
  local path = base .. "/nebula/init.lua"
  local info = system.stat(path)
  if not info then return end
  if info.uid ~= system.ids().uid and info.uid ~= 0 then
    io.stderr:write(path, " belongs to another user: it is not run\n")
    return
  end
  local chunk, message = loadfile(path, "t")
  if chunk then
    run(editor, back, chunk)
  else
    back:failed(message)
  end
end

local function greet(session)
  print(("nebula %s. help() tells what is known here, .help lists the commands;"):format(system.version))
  print "Tab completes, Ctrl-C interrupts, Ctrl-D leaves."
  if session.locked then print "read-only: nothing is written to the database or the blobs" end
end

--- Runs the prompt until Ctrl-D.
---@param opts? {read_only?: boolean}
function repl.run(opts)
  repl.with_editor(function(editor)
    local back = new_local(editor, opts)
    environment.install(_G)
    greet(back.session)
    run_init(editor, back)
    repl.loop(editor, back)
    back.session:close()
  end)
end

return repl
