-- ui.lua: what a person sees: aligned tables, progress bars, colours; plain lines where it is no
-- terminal. Widths count characters of UTF-8, wide ones double.
local system = require "nebula.system"
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
---@param text string
---@param stream? "stdout"|"stderr"
---@return string
function ui.paint(name, text, stream)
  if not ui.colour(stream) then return text end
  return ("\27[%dm%s\27[0m"):format(CODES[name], text)
end

-- ---- text ----

-- Ranges of characters that take two columns (East Asian wide, emoji), and none (combining).
local WIDE = { { 0x1100, 0x115F }, { 0x2E80, 0xA4CF }, { 0xAC00, 0xD7A3 }, { 0xF900, 0xFAFF }, { 0xFE30, 0xFE6F },
  { 0xFF00, 0xFF60 }, { 0xFFE0, 0xFFE6 }, { 0x1F300, 0x1F64F }, { 0x1F900, 0x1F9FF }, { 0x20000, 0x3FFFD } }
local NONE = { { 0x0300, 0x036F }, { 0x200B, 0x200F }, { 0xFE00, 0xFE0F } }

local function within(ranges, code)
  for _, range in ipairs(ranges) do
    if code < range[1] then return false end
    if code <= range[2] then return true end
  end
  return false
end

local function code_width(code)
  if code < 0x300 then return 1 end
  return within(NONE, code) and 0 or within(WIDE, code) and 2 or 1
end

--- Columns the text takes; bytes that are no UTF-8 count one each.
---@param text string
---@return integer
function ui.text_width(text)
  if not text:find "[\x80-\xff]" then return #text end
  if not utf8.len(text) then return #text end
  local width = 0
  for _, code in utf8.codes(text) do width = width + code_width(code) end
  return width
end

--- The text cut to `width` columns, with an ellipsis where something was cut.
---@param text string
---@param width integer
---@return string
function ui.fit(text, width)
  if #text <= width or ui.text_width(text) <= width then return text end
  if not utf8.len(text) then return text:sub(1, math.max(0, width - 1)) .. "…" end
  local used, last = 0, 0
  for position, code in utf8.codes(text) do
    used = used + code_width(code)
    if used > width - 1 then break end
    last = utf8.offset(text, 2, position) - 1
  end
  return text:sub(1, last) .. "…"
end

local ESCAPES = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

-- One line, and nothing in it that a terminal would obey.
local function printable(text)
  if not text:find "[%c\x7f\xc2]" then return text end
  text = text:gsub("[%c\x7f]", function(c) return ESCAPES[c] or ("\\x%02x"):format(c:byte()) end)
  return (text:gsub("\xc2[\x80-\x9f]", function(c) return ("\\u%04x"):format(utf8.codepoint(c)) end))
end
ui.printable = printable

-- ---- tables ----

local function cell_text(value)
  if value == nil then return "" end
  if type(value) == "table" and not (getmetatable(value) or {}).__tostring then
    local ok, json = pcall(require("nebula").json.encode, value)
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

-- Takes width from the widest columns until the table fits.
local function shrink(widths, available)
  local total = 0
  for _, width in ipairs(widths) do total = total + width end
  while total > available do
    local widest = 1
    for i, width in ipairs(widths) do
      if width > widths[widest] then widest = i end
    end
    if widths[widest] <= 8 then return end
    local cut = math.min(widths[widest] - 8, math.max(1, (total - available) // 2))
    widths[widest], total = widths[widest] - cut, total - cut
  end
end

--- Rows as an aligned table: a header, a rule, numbers to the right.
---@param rows table[] rows by column name
---@param opts? {columns?: string[], width?: integer} width: 0 never cuts; default: the terminal's
---@return string
function ui.table(rows, opts)
  opts = opts or {}
  local names = opts.columns or columns_of(rows)
  local widths, right, cells = {}, {}, {}
  for c, name in ipairs(names) do widths[c], right[c] = ui.text_width(tostring(name)), #rows > 0 end
  for r, row in ipairs(rows) do
    local line = {}
    for c, name in ipairs(names) do
      local value = row[name]
      line[c] = cell_text(value)
      if value ~= nil and not math.type(value) then right[c] = false end
      widths[c] = math.max(widths[c], ui.text_width(line[c]))
    end
    cells[r] = line
  end
  local available = opts.width or (ui.terminal() and ui.width() or 0)
  if available > 0 then shrink(widths, available - 2 * (#names - 1)) end

  local function format(line, header)
    local out = {}
    for c, text in ipairs(line) do
      text = ui.fit(text, widths[c])
      local gap = (" "):rep(widths[c] - ui.text_width(text))
      out[c] = (right[c] and not header) and gap .. text or (header and right[c]) and gap .. text or text .. gap
    end
    return (table.concat(out, "  "):gsub("%s+$", ""))
  end

  local header, rule = {}, {}
  for c, name in ipairs(names) do
    header[c] = tostring(name)
    rule[c] = ("─"):rep(widths[c])
  end
  local lines = { format(header, true), table.concat(rule, "  ") }
  for r, line in ipairs(cells) do lines[r + 2] = format(line) end
  return table.concat(lines, "\n")
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
