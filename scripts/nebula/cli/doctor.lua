-- cli/doctor.lua: `nebula doctor`: what is configured, reachable, migrated, and what is wrong.
local COLOURS = { ok = "green", warning = "yellow", failed = "red" }

local function print_report(found)
  local ui = require "nebula.ui"
  if #found.settings > 0 then
    print(ui.table(found.settings, { columns = { "setting", "value", "from" } }))
    print ""
  end
  for _, finding in ipairs(found.findings) do
    print(("%s  %s: %s"):format(ui.paint(COLOURS[finding.status], ("%-7s"):format(finding.status)), finding.check,
      finding.message))
    if finding.remedy then print("         remedy: " .. finding.remedy) end
  end
end

return {
  summary = "Tell what is configured, reachable, migrated, and what is wrong, each with its remedy",
  description = [[
Shows the settings in force and where each comes from, then looks at the database, its replica and the blob store.
The database is only read; in the blob store one small object is written, read and deleted.
Exit status: 0 where nothing failed (warnings do not count), else 1.]],
  options = { json = { type = "boolean", help = "print one JSON object" } },
  run = function(opts)
    local found = require("nebula.doctor").examine()
    if opts.json then
      local nebula = require "nebula"
      nebula.json.array(found.settings)
      print(nebula.json.encode(found))
    else
      print_report(found)
    end
    return found.healthy and 0 or 1
  end,
}
