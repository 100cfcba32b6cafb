-- lint.lua: shows every file of the tree to the rules beside it; `make lint` runs it at the root
-- with a stock lua5.4. Prints one finding a line and exits 1 where there is one.
package.path = "./?.lua;" .. package.path
local lfs = require "lfs"
local rules = require "spec.house.rules"

local ROOTS = { "bindings", "host", "scripts", "migrations", "spec", "examples" }

local function walk(path, visit)
  local mode = lfs.symlinkattributes(path, "mode")
  if mode == "file" then
    visit(path)
  elseif mode == "directory" then
    local names = {}
    for name in lfs.dir(path) do
      if name:sub(1, 1) ~= "." then names[#names + 1] = name end
    end
    table.sort(names)
    for _, name in ipairs(names) do walk(path .. "/" .. name, visit) end
  end
end

local files, findings = 0, 0
for _, root in ipairs(ROOTS) do
  walk(root, function(path)
    if not rules.covers(path) then return end
    local file <close> = assert(io.open(path, "rb"))
    files = files + 1
    for _, one in ipairs(rules.check(path, file:read("a"))) do
      findings = findings + 1
      print(("%s:%d: %s (%s)"):format(one.path, one.line, one.message, one.rule))
    end
  end)
end

if findings > 0 then
  io.stderr:write(("%d findings in %d files\n"):format(findings, files))
  os.exit(1)
end
