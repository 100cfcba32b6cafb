-- tasks/health.lua: nebula task health [--json]: exit status 1 where something is critical.
local health = require "nebula.health"
local ui = require "nebula.ui"

local LARGEST = 10

local function report(ctx, before)
  local findings, sizes = health.look(ctx.db), health.sizes(ctx.db, before)
  local shown, fine = {}, true
  for i = 1, math.min(#sizes, LARGEST) do
    local row = sizes[i]
    shown[i] = { table = row.table, rows = row.rows, size = ui.bytes(row.bytes), bytes = row.bytes,
      growth = row.growth and ui.bytes(math.abs(row.growth)) .. (row.growth < 0 and " less" or "") .. " a day" or nil }
  end
  for _, finding in ipairs(findings) do fine = fine and finding.severity ~= "critical" end
  return {
    sections = {
      { title = "Findings", name = "findings", rows = findings,
        columns = { "severity", "check", "object", "finding", "remedy" } },
      { title = "Largest tables", name = "tables", rows = shown, columns = { "table", "rows", "size", "growth" } },
    },
  }, fine, sizes
end

return {
  summary = "What slowly goes wrong: bloat, old transactions, wraparound, useless indexes, a queue that stands",

  preview = function(ctx) return (report(ctx)) end,

  -- The sizes are kept, so that the next run can tell what grew.
  run = function(ctx)
    local result, fine, sizes = report(ctx, ctx.checkpoint:load())
    ctx.checkpoint:save(health.remember(sizes))
    return result, fine
  end,
}
