-- terminal.lua: the screen that a program's output makes: a small terminal (the commands that libedit,
-- less and the host send under TERM=xterm), so that a spec sees what a person sees.
local terminal = {}

---@class spec.Terminal
---@field rows integer
---@field columns integer
---@field row integer the cursor's, from 1
---@field column integer
local Terminal = {}
Terminal.__index = Terminal

--- An empty screen.
---@param rows integer
---@param columns integer
---@return spec.Terminal
function terminal.new(rows, columns)
  local self = setmetatable({ rows = rows, columns = columns, row = 1, column = 1, lines = {}, scrolled = {},
    rest = "" }, Terminal)
  for i = 1, rows do self.lines[i] = {} end
  return self
end

function Terminal:scroll()
  self.scrolled[#self.scrolled + 1] = table.remove(self.lines, 1)
  self.lines[self.rows] = {}
end

function Terminal:line_feed()
  if self.row == self.rows then self:scroll() else self.row = self.row + 1 end
end

local text_width = require("nebula.text").width

-- A character at the cursor; past the last column it wraps when the next one comes, as terminals do.
function Terminal:put(character)
  local width = text_width(character)
  if width == 0 then return end
  if self.column + width - 1 > self.columns then
    self.column = 1
    self:line_feed()
  end
  local line = self.lines[self.row]
  for i = #line + 1, self.column - 1 do line[i] = " " end
  line[self.column] = character
  if width == 2 then line[self.column + 1] = "" end
  self.column = self.column + width
end

local CONTROLS = {
  ["\r"] = function(self) self.column = 1 end,
  ["\n"] = Terminal.line_feed,
  ["\b"] = function(self) self.column = math.max(1, math.min(self.column, self.columns) - 1) end,
  ["\t"] = function(self) self.column = math.min(self.columns, (self.column - 1) // 8 * 8 + 9) end,
  ["\7"] = function() end,
}

local function erase(line, from, to)
  for i = from, to do
    if line[i] then line[i] = " " end
  end
end

local COMMANDS = {
  A = function(self, n) self.row = math.max(1, self.row - n) end,
  B = function(self, n) self.row = math.min(self.rows, self.row + n) end,
  C = function(self, n) self.column = math.min(self.columns, self.column + n) end,
  D = function(self, n) self.column = math.max(1, self.column - n) end,
  G = function(self, n) self.column = n end,
  H = function(self, row, column) self.row, self.column = math.min(row, self.rows), column or 1 end,
  J = function(self, _, _, raw)
    if raw == "2" then
      for i = 1, self.rows do self.lines[i] = {} end
    else
      erase(self.lines[self.row], self.column, self.columns)
      for i = self.row + 1, self.rows do self.lines[i] = {} end
    end
  end,
  K = function(self, _, _, raw)
    local line = self.lines[self.row]
    if raw == "1" then erase(line, 1, self.column) else erase(line, raw == "2" and 1 or self.column, self.columns) end
  end,
  P = function(self, n)
    local line = self.lines[self.row]
    for _ = 1, n do
      if line[self.column] then table.remove(line, self.column) end
    end
  end,
  ["@"] = function(self, n)
    local line = self.lines[self.row]
    for _ = 1, n do table.insert(line, math.min(self.column, #line + 1), " ") end
  end,
}

--- Takes what the program wrote.
---@param bytes string
function Terminal:feed(bytes)
  bytes = self.rest .. bytes
  local at = 1
  while at <= #bytes do
    local parameters, final, after = bytes:match("^\27%[([%d;?]*)([%a@])()", at)
    if parameters then
      local first, second = parameters:match "^(%d*);?(%d*)"
      local command = COMMANDS[final]
      if command and not parameters:find "?" then
        command(self, tonumber(first) or 1, tonumber(second), first)
      end
    elseif bytes:byte(at) == 27 then
      after = bytes:match("^\27[^%[]()", at)
      if not after then break end -- more of it comes
    elseif CONTROLS[bytes:sub(at, at)] then
      CONTROLS[bytes:sub(at, at)](self)
      after = at + 1
    else
      local length = utf8.len(bytes, at, at) and utf8.offset(bytes, 2, at)
      if not length then
        if #bytes - at < 3 then break end
        length = at + 1
      end
      self:put(bytes:sub(at, length - 1))
      after = length
    end
    at = after
  end
  self.rest = bytes:sub(at)
end

--- One line of the screen, without the blanks at its end.
---@param row integer
---@return string
function Terminal:line(row) return (table.concat(self.lines[row]):gsub("%s+$", "")) end

--- The screen, without the empty lines at its end.
---@return string
function Terminal:text()
  local lines = {}
  for row = 1, self.rows do lines[row] = self:line(row) end
  return (table.concat(lines, "\n"):gsub("\n+$", ""))
end

--- Everything that was ever on it, what has scrolled away included.
---@return string
function Terminal:all()
  local lines = {}
  for i, line in ipairs(self.scrolled) do lines[i] = table.concat(line):gsub("%s+$", "") end
  lines[#lines + 1] = self:text()
  return table.concat(lines, "\n")
end

return terminal
