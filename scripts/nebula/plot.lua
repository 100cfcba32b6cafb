-- plot.lua: rows as a bar chart in the terminal: one line a row, the bar scaled to the widest.
local ui = require "nebula.ui"

local EIGHTHS = { "▏", "▎", "▍", "▌", "▋", "▊", "▉" }

local function bar(share, cells)
  local eighths = math.floor(share * cells * 8 + 0.5)
  return ("█"):rep(eighths // 8) .. (EIGHTHS[eighths % 8] or "")
end

--- Prints rows as bars.
---@param rows table[]
---@param x string the column that labels a bar
---@param y string the column with its length; numbers, or their text
return function(rows, x, y)
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
    print(("%s%s  %s %s"):format(labels[i], gap, bar(share, cells), tostring(row[y])))
  end
end
