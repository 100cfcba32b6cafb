-- plot.lua: charts in the terminal: `plot(rows, x, y)` draws bars, `plot.sparkline` a line of text,
-- `plot.histogram` how values are distributed; and `plot.svg`, bars as a picture.
local nebula = require "nebula"
local svg = require "nebula.svg"
local ui = require "nebula.ui"

local plot = {}

local EIGHTHS = { "▏", "▎", "▍", "▌", "▋", "▊", "▉" }
local HEIGHTS = { "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█" }
local MOST_BINS = 100

local function bar(share, cells)
  local eighths = math.floor(share * cells * 8 + 0.5)
  return ("█"):rep(eighths // 8) .. (EIGHTHS[eighths % 8] or "")
end

local function fail(message, ...)
  error(nebula.error { kind = "validation", message = message:format(...) }, 0)
end

-- The numbers of a list, or of one column of rows; what is none is left out.
local function numbers_of(list, column, call)
  if type(list) ~= "table" then fail("%s: the values are a list, not a %s", call, type(list)) end
  local numbers = {}
  for _, value in ipairs(list) do
    if type(value) == "table" and column == nil then fail("%s: rows want the name of their column", call) end
    local number = tonumber(column and value[column] or value)
    if number and number == number and math.abs(number) < math.huge then numbers[#numbers + 1] = number end
  end
  return numbers
end

--- Prints rows as bars, one a line, scaled to the widest.
---@param rows table[]
---@param x string the column that labels a bar
---@param y string the column with its length: numbers, or their text
---@param write? fun(line: string) default: print
function plot.bars(rows, x, y, write)
  if type(rows) ~= "table" then fail("plot: the rows are a list, not a %s", type(rows)) end
  if x == nil or y == nil then fail 'plot wants two columns, labels and lengths: plot(rows, "status", "count")' end
  write = write or print
  local labels, values, most, left, right = {}, {}, 0, 0, 0
  for i, row in ipairs(rows) do
    labels[i] = ui.fit(ui.printable(tostring(row[x] == nil and "" or row[x])), 32)
    values[i] = tonumber(row[y]) or 0
    most = math.max(most, values[i])
    left = math.max(left, ui.text_width(labels[i]))
    right = math.max(right, #tostring(row[y]))
  end
  local cells = math.max(10, ui.width() - left - right - 4)
  for i, row in ipairs(rows) do
    local share = most > 0 and math.max(values[i], 0) / most or 0
    local gap = (" "):rep(left - ui.text_width(labels[i]))
    write(("%s%s  %s %s"):format(labels[i], gap, bar(share, cells), tostring(row[y])))
  end
end

--- Values as one line of blocks, lowest to highest.
---@param list number[]|table[] numbers, or rows
---@param column? string of the rows
---@return string
function plot.sparkline(list, column)
  local numbers = numbers_of(list, column, "plot.sparkline")
  if #numbers == 0 then return "" end
  local least, most = math.huge, -math.huge
  for _, number in ipairs(numbers) do least, most = math.min(least, number), math.max(most, number) end
  for i, number in ipairs(numbers) do
    local share = most > least and (number - least) / (most - least) or 0
    numbers[i] = HEIGHTS[math.floor(share * (#HEIGHTS - 1) + 0.5) + 1]
  end
  return table.concat(numbers)
end

--- Prints how values are distributed: a bar for each of `bins` equal ranges.
---@param list number[]|table[] numbers, or rows
---@param column? string of the rows
---@param bins? integer 1 to 100, default 10
---@param write? fun(line: string) default: print
function plot.histogram(list, column, bins, write)
  bins = bins or 10
  if math.type(bins) ~= "integer" or bins < 1 or bins > MOST_BINS then
    fail("plot.histogram: bins are 1 to %d", MOST_BINS)
  end
  local numbers = numbers_of(list, column, "plot.histogram")
  if #numbers == 0 then return end
  local least, most = math.huge, -math.huge
  for _, number in ipairs(numbers) do least, most = math.min(least, number), math.max(most, number) end
  local rows, step = {}, (most - least) / bins
  for i = 1, bins do
    rows[i] = { range = ("%.4g to %.4g"):format(least + (i - 1) * step, least + i * step), count = 0 }
  end
  for _, number in ipairs(numbers) do
    local row = rows[step > 0 and math.min(bins, (number - least) // step + 1 | 0) or 1]
    row.count = row.count + 1
  end
  plot.bars(rows, "range", "count", write)
end

local PICTURE, LEFT, RIGHT, TOP, STEP = 720, 200, 90, 36, 20 -- pixels

--- Rows as bars of an SVG picture, as plot.bars draws them.
---@param rows table[]
---@param x string the column that labels a bar
---@param y string the column with its length
---@param title string
---@return string
function plot.svg(rows, x, y, title)
  local most = 0
  for _, row in ipairs(rows) do most = math.max(most, tonumber(row[y]) or 0) end
  local out, top = { svg.text(16, 20, title, ' font-size="14"') }, TOP
  for _, row in ipairs(rows) do
    local share = most > 0 and math.max(tonumber(row[y]) or 0, 0) / most or 0
    local width = share * (PICTURE - LEFT - RIGHT)
    out[#out + 1] = svg.text(LEFT - 8, top + 12, ui.fit(tostring(row[x]), 28), ' text-anchor="end"')
    out[#out + 1] = ('<rect x="%d" y="%d" width="%.1f" height="14" fill="#4477aa"/>'):format(LEFT, top, width)
    out[#out + 1] = svg.text(LEFT + width // 1 + 6 | 0, top + 12, tostring(row[y]))
    top = top + STEP
  end
  return svg.document(PICTURE, top + 12, out)
end

return setmetatable(plot, { __call = function(_, ...) plot.bars(...) end })
