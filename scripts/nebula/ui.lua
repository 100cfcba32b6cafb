-- ui.lua: what a person sees: aligned tables, progress bars, colours; plain lines where it is no
-- terminal. Widths are nebula.text's.
local system = require "nebula.system"
local text = require "nebula.text"
local nebula = require "nebula"

local ui = {}

-- ---- the terminal ----

--- Whether standard output (or error) is a terminal that takes colour. NO_COLOR is honoured.
---@param stream? "stdout"|"stderr"
---@return boolean
function ui.colour(stream)
  local term = os.getenv "TERM"
  if os.getenv "NO_COLOR" and os.getenv "NO_COLOR" ~= "" then return false end
  return ui.terminal(stream) and term ~= nil and term ~= "dumb"
end

---@param stream? "stdout"|"stderr"
---@return boolean
function ui.terminal(stream) return system.isatty(stream == "stderr" and 2 or 1) end

--- Columns of the terminal, COLUMNS, or 80.
---@return integer
function ui.width()
  local _, columns = system.window()
  return columns or math.tointeger(tonumber(os.getenv "COLUMNS")) or 80
end

local CODES = { bold = 1, dim = 2, red = 31, green = 32, yellow = 33, blue = 34, magenta = 35, cyan = 36 }

--- The text in a colour where the stream takes one.
---@param name "bold"|"dim"|"red"|"green"|"yellow"|"blue"|"magenta"|"cyan"
---@param given string
---@param stream? "stdout"|"stderr"
---@return string
function ui.paint(name, given, stream)
  if not ui.colour(stream) then return given end
  return ("\27[%dm%s\27[0m"):format(CODES[name], given)
end

-- ---- text ----

--- Columns the text takes; bytes that are no UTF-8 count one each.
---@param text string
---@return integer
ui.text_width = text.width

--- The text cut to `width` columns, with an ellipsis where something was cut.
---@param text string
---@param width integer
---@return string
ui.fit = text.fit

local ESCAPES = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

-- One line, and nothing in it that a terminal would obey.
local function printable(given)
  if not given:find "[%c\x7f\xc2]" then return given end
  given = given:gsub("[%c\x7f]", function(c) return ESCAPES[c] or ("\\x%02x"):format(c:byte()) end)
  return (given:gsub("\xc2[\x80-\x9f]", function(c) return ("\\u%04x"):format(utf8.codepoint(c)) end))
end
ui.printable = printable

-- ---- tables ----

local function cell_text(value)
  if type(value) == "table" and not (getmetatable(value) or {}).__tostring then
    local ok, json = pcall(nebula.json.encode, value, { sort_keys = true })
    if ok then return printable(json) end
  end
  return printable(tostring(value))
end

local function columns_of(rows)
  local names, seen = {}, {}
  for _, row in ipairs(rows) do
    for name in pairs(row) do
      if not seen[name] then
        seen[name], names[#names + 1] = true, name
      end
    end
  end
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  return names
end

---@class nebula.ui.TableOptions
---@field columns? string[] default: every name in the rows, sorted
---@field width? integer cells are cut until the table fits; 0 never cuts; default: the terminal's
---@field null? string what stands for nil, printed as it is (default: nothing)
---@field null_width? integer the columns it takes
---@field numbers? table<string, true> columns whose strings are numbers

--- Writes rows as an aligned table: a header, a rule, numbers to the right. `write` gets it in
--- pieces of about 64 KiB and must not wait.
---@param rows table[] rows by column name
---@param opts nebula.ui.TableOptions?
---@param write fun(text: string)
function ui.write_table(rows, opts, write)
  opts = opts or {}
  text.table(rows, opts.columns or columns_of(rows), {
    width = opts.width or (ui.terminal() and ui.width() or 0),
    null = opts.null, null_width = opts.null_width, numbers = opts.numbers, cell = cell_text,
  }, write)
end

--- The same as text, without the last line's end.
---@param rows table[]
---@param opts? nebula.ui.TableOptions
---@return string
function ui.table(rows, opts)
  local pieces = {}
  ui.write_table(rows, opts, function(piece) pieces[#pieces + 1] = piece end)
  return (table.concat(pieces):gsub("\n$", ""))
end

-- ---- amounts ----

--- Bytes as people read them: "1.5 MiB".
---@param bytes number
---@return string
function ui.bytes(bytes)
  local units, i = { "B", "KiB", "MiB", "GiB", "TiB" }, 1
  while bytes >= 1024 and i < #units do
    bytes, i = bytes / 1024, i + 1
  end
  return i == 1 and ("%d B"):format(bytes) or ("%.1f %s"):format(bytes, units[i])
end

--- Seconds as people read them: "1m05s".
---@param seconds number
---@return string
function ui.duration(seconds)
  if seconds < 10 then return ("%.1fs"):format(seconds) end
  if seconds < 60 then return ("%ds"):format(seconds // 1) end
  if seconds < 3600 then return ("%dm%02ds"):format(seconds // 60, seconds % 60 // 1) end
  return ("%dh%02dm"):format(seconds // 3600, seconds % 3600 // 60)
end

-- ---- progress ----

---@class nebula.ui.Bar
local Bar = {}
Bar.__index = Bar

local REDRAW, PLAIN_EVERY = 0.1, 5 -- seconds

--- A progress bar on standard error; on no terminal a plain line every 5 seconds, or a line of JSON.
---@param opts {label?: string, total?: number, unit?: string, json?: boolean}
---@return nebula.ui.Bar
function ui.progress(opts)
  local now = nebula.time.monotonic()
  return setmetatable({ label = opts.label or "", total = opts.total, unit = opts.unit or "", done = 0,
    started = now, drawn = now, json = opts.json,
    terminal = not opts.json and ui.terminal "stderr" and os.getenv "TERM" ~= "dumb" }, Bar)
end

local function amount(self, value)
  if self.unit == "bytes" then return ui.bytes(value) end
  return math.type(value) == "integer" and tostring(value) or ("%.0f"):format(value)
end

-- {label, done, total, unit, elapsed and eta in seconds, rate a second}
local function json_line(self, now)
  local elapsed = now - self.started
  local rate = elapsed > 0 and self.done / elapsed or 0
  return nebula.json.encode { label = self.label, done = self.done, total = self.total, unit = self.unit,
    elapsed = elapsed, rate = rate, eta = self.total and rate > 0 and (self.total - self.done) / rate or nil }
end

function Bar:text(now)
  local elapsed = math.max(now - self.started, 1e-6)
  local rate = self.done / elapsed
  local unit = (self.unit ~= "" and self.unit ~= "bytes") and " " .. self.unit or ""
  local parts = { self.label }
  if self.total and self.total > 0 then
    local share = math.min(self.done / self.total, 1)
    if self.terminal then
      local cells = math.floor(share * 24)
      parts[#parts + 1] = ("█"):rep(cells) .. ("░"):rep(24 - cells)
    end
    parts[#parts + 1] = ("%3d%%"):format(share * 100 // 1)
    parts[#parts + 1] = ("%s/%s%s"):format(amount(self, self.done), amount(self, self.total), unit)
  else
    parts[#parts + 1] = amount(self, self.done) .. unit
  end
  parts[#parts + 1] = amount(self, rate) .. (unit ~= "" and unit or "") .. "/s"
  if self.total and rate > 0 and self.done < self.total then
    parts[#parts + 1] = "ETA " .. ui.duration((self.total - self.done) / rate)
  end
  return table.concat(parts, "  ")
end

--- Tells how much is done; draws at most ten times a second.
---@param done number
---@param total? number where it has become known
function Bar:update(done, total)
  self.done, self.total = done, total or self.total
  local now = nebula.time.monotonic()
  if now - self.drawn < (self.terminal and REDRAW or PLAIN_EVERY) then return end
  self.drawn = now
  if self.terminal then
    io.stderr:write("\r\27[K", ui.fit(self:text(now), ui.width() - 1))
  else
    io.stderr:write(self.json and json_line(self, now) or self:text(now), "\n")
  end
end

--- Draws the final state and ends the line.
function Bar:finish()
  if self.finished then return end
  self.finished = true
  local now = nebula.time.monotonic()
  local elapsed = ui.duration(now - self.started)
  if self.terminal then
    io.stderr:write("\r\27[K", ui.fit(self:text(now) .. "  in " .. elapsed, ui.width() - 1), "\n")
  elseif self.json then
    io.stderr:write(json_line(self, now), "\n")
  else
    io.stderr:write(self:text(now), "  in ", elapsed, "\n")
  end
end

Bar.__close = Bar.finish

return ui
