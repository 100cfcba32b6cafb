-- svg.lua: the little of SVG that the charts need.
local ui = require "nebula.ui"

local svg = {}

local ENTITIES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }

--- A text whose left end of the base line is at x, y, in pixels; `extra` are more attributes.
---@param x integer
---@param y integer
---@param content any
---@param extra? string
---@return string
function svg.text(x, y, content, extra)
  local escaped = ui.printable(tostring(content)):gsub('[&<>"]', ENTITIES)
  return ('<text x="%d" y="%d"%s>%s</text>'):format(x, y, extra or "", escaped)
end

--- A whole picture on white.
---@param width integer
---@param height integer
---@param parts string[] elements
---@return string
function svg.document(width, height, parts)
  return ('<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">\n'
    .. '<rect width="100%%" height="100%%" fill="white"/>\n%s\n</svg>\n'):format(width, height,
    table.concat(parts, "\n"))
end

return svg
