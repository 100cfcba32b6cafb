-- blocks.lua: the examples of a Markdown document, so that a spec can run them as they stand.
--
-- A fenced block's first word is its language; what follows are words for its reader here:
--   ```lua                    a script
--   ```lua file=tasks/a.lua   a file of the project that the later blocks work in
--   ```screen                 what is typed at the prompt, and the screen that it makes
--   ```sh                     commands, run in that project
--   ```sh by-hand             commands that a spec cannot run (they install, or want a terminal)
local child = require "spec.support.child"

local blocks = {}

--- The blocks of a document in their order.
---@param path string
---@return { language: string, words: table<string, string|boolean>, text: string, line: integer, heading: string }[]
function blocks.read(path)
  local found, open, heading, number = {}, nil, "", 0
  for line in (assert(child.read_file(path), path) .. "\n"):gmatch("(.-)\n") do
    number = number + 1
    local fence = line:match("^```(.*)$")
    if fence and open then
      open.text = table.concat(open.lines, "\n") .. "\n"
      found[#found + 1], open = open, nil
    elseif fence then
      open = { language = fence:match("^%w*"), words = {}, lines = {}, line = number, heading = heading }
      for word in fence:gsub("^%w*", ""):gmatch("%S+") do
        local name, value = word:match("^([%w-]+)=(.*)$")
        open.words[name or word] = value or true
      end
    elseif open then
      open.lines[#open.lines + 1] = line
    else
      heading = line:match("^#+%s+(.*)$") or heading
    end
  end
  assert(not open, path .. " ends inside a block")
  return found
end

return blocks
