-- main.lua: the interactive prompt: read a line, run it as a task, show what it returned.
--
-- Each line is a task: it may wait, background tasks go on meanwhile, and Ctrl-C interrupts it.
-- What background tasks print appears above the line that is being typed.
local cli = require "nebula.cli"
local commands = require "repl.commands"
local complete = require "repl.complete"
local environment = require "repl.environment"
local nebula = require "nebula"
local printer = require "repl.print"
local process = require "nebula.process"
local report = require "nebula.report"
local schema = require "repl.schema"
local system = require "nebula.system"
local ui = require "nebula.ui"

local repl = {}

local PROMPT, CONTINUED = "nebula> ", "     -> "

-- ---- history ----

local function make_directory(path)
  local parent = path:match "^(.+)/[^/]*$"
  if parent and not system.stat(parent) then make_directory(parent) end
  system.mkdir(path, 448) -- 0700
end

local function history_path()
  local base = os.getenv "XDG_STATE_HOME"
  if not base or base == "" then
    local home = os.getenv "HOME"
    if not home or home == "" then return nil end
    base = home .. "/.local/state"
  end
  local ok = pcall(make_directory, base .. "/nebula")
  return ok and base .. "/nebula/history" or nil
end

-- Lines that look as if they held a secret are not kept; neither are those that begin with a space.
local SECRET = { "password", "passwd", "secret", "token", "access_key", "%w+://[^/%s]*:[^/%s]*@" }

local function is_private(text)
  if text:find "^%s" then return true end
  if nebula.log.redact(text) ~= text then return true end
  local lower = text:lower()
  for _, pattern in ipairs(SECRET) do
    if lower:find(pattern) then return true end
  end
  return false
end

-- Several lines are kept as one, where that means the same.
local function remember(editor, lines)
  local text = table.concat(lines, "\n")
  if text:find "^%s*$" or is_private(text) then return end
  if #lines > 1 and not text:find "%-%-" and not text:find "%[=*%[" and not text:find "\\\n" then
    text = table.concat(lines, " ")
  end
  for line in text:gmatch "[^\n]+" do editor:remember(line) end
end

-- ---- completion ----

local function list_names(editor, names)
  local widest = 0
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
  editor:above(table.concat(lines, "\n") .. "\n")
end

local function offer(editor, line, cursor)
  local before = line:sub(1, cursor)
  if before:find "^%s*$" then return editor:insert "  " end
  local word, names, values = complete.candidates(_G, line, cursor)
  local common = complete.common(names)
  if #common > #word then
    local call = #names == 1 and type(values[names[1]]) == "function" and "(" or ""
    editor:insert(common:sub(#word + 1) .. call)
  elseif #names > 1 then
    list_names(editor, names)
  end
end

-- ---- reading ----

-- One line of input, or nil and "end" or "interrupt".
local function read_line(editor, prompt)
  local event, text, cursor = editor:read(prompt)
  while event == "complete" do
    offer(editor, text, cursor)
    event, text, cursor = editor:read()
  end
  if event == "line" then return text end
  return nil, event
end

-- A command, or an expression first (a leading `=` says so too), then a statement; more lines while it is cut off.
local function read_chunk(editor, session)
  local lines = {}
  while true do
    local line, event = read_line(editor, #lines == 0 and PROMPT or CONTINUED)
    if not line then return nil, event end
    if #lines == 0 then
      local command, problem = commands.parse(line, session)
      if command or problem then
        remember(editor, { line })
        return command, problem
      end
    end
    lines[#lines + 1] = line
    local code = table.concat(lines, "\n"):gsub("^%s*=", "return ")
    if code:find "^%s*$" then return nil, "nothing" end
    local chunk, message = cli.compile(code, "=prompt")
    if chunk then
      remember(editor, lines)
      return chunk
    end
    if not message:find "<eof>" then
      remember(editor, lines)
      return nil, message
    end
  end
end

-- ---- running ----

-- Lines typed at the prompt know no frames of the host.
local function show_error(err)
  if type(err) == "table" and err.kind == "cancelled" then
    io.stderr:write "interrupted\n"
    return
  end
  io.stdout:flush()
  local lines = { ui.paint("red", report.line(err), "stderr") }
  if type(err) == "table" and err.detail then lines[#lines + 1] = tostring(err.detail) end
  io.stderr:write(table.concat(lines, "\n"), "\n")
end

---@class nebula.repl.Session
local Session = {}
Session.__index = Session

--- Shows what a line returned, as .format, .x and .output say.
---@param values {n: integer, [integer]: any}
function Session:show(values)
  local file = self.output
  printer.values(values, {
    format = self.format, expanded = self.expanded,
    write = file and function(...) assert(file:write(...)) end or nil,
  })
  if file then file:flush() end
end

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

local function run(editor, session, chunk)
  local started = nebula.time.monotonic()
  local line = nebula.task.spawn(function()
    local values = table.pack(chunk())
    if values.n > 0 then
      _G._3, _G._2, _G._1, _G._ = rawget(_G, "_2"), rawget(_G, "_1"), values[1], values[1]
      session:show(values)
    end
  end)
  local ok, err = wait_for(editor, line)
  if not ok then
    _G._error = err
    show_error(err)
  end
  if rawget(_G, "db") then schema.warm(_G) end -- for Tab
  if session.timing then print(("%.1f ms"):format((nebula.time.monotonic() - started) * 1000)) end
end

-- What the user wants at each start: init.lua in the configuration directory, where it is the user's.
local function run_init(editor, session)
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
    run(editor, session, chunk)
  else
    show_error(message)
  end
end

local function greet(session)
  print(("nebula %s. Ctrl-C interrupts, Ctrl-D leaves, Tab completes, .help lists commands. Known here: %s"):format(
    system.version, table.concat(environment.names(), ", ")))
  if session.locked then print "read-only: nothing is written to the database or the blobs" end
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

--- Runs the prompt until Ctrl-D.
---@param opts? {read_only?: boolean}
function repl.run(opts)
  local editor <close> = require("nebula.editor").open()
  local session = setmetatable({ format = "table", expanded = false, timing = false }, Session)
  if opts and opts.read_only then
    require("nebula.config").settings().read_only = true
    session.locked = true
  end
  local _ <close> = write_above(editor)
  process.on_signal("WINCH", function() editor:resize() end)
  environment.install(_G)
  local path = history_path()
  if path then editor:load(path) end
  greet(session)
  run_init(editor, session)
  while not session.leaving do
    local chunk, event = read_chunk(editor, session)
    if chunk then
      run(editor, session, chunk)
    elseif event == "end" then
      io.write "\n"
      break
    elseif event == "interrupt" then
      io.write "^C\n"
    elseif event ~= "nothing" then
      io.stderr:write(ui.paint("red", event, "stderr"), "\n")
    end
  end
  if path then
    editor:save(path)
    pcall(system.chmod, path, 384) -- 0600
  end
  if session.output then session.output:close() end
end

return repl
