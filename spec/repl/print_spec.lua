-- How values look: tables, expanded rows, JSON, nested Lua, with and without colour.
local print_values = require "repl.print"

local function shown(values, how, style)
  local pieces = {}
  how.style = style or { colour = false, terminal = true, width = 60 }
  how.write = function(...) for i = 1, select("#", ...) do pieces[#pieces + 1] = (select(i, ...)) end end
  print_values.values(table.pack(table.unpack(values)), how)
  return table.concat(pieces)
end

describe("values at the prompt", function()
  it("are tables fitted to the terminal, numbers to the right, NULL told from nothing", function()
    local rows = setmetatable({ { n = 1, word = "漢字" }, { n = 20, word = "" }, {} },
      { __index = { fields = { "n", "word" } } })
    assert.equal("   n  word\n────  ────\n   1  漢字\n  20\nNULL  NULL\n(3 rows)\n", shown({ rows }, {}))
    local wide = shown({ { { a = ("x"):rep(100), b = "y" } } }, {})
    for line in wide:gmatch "[^\n]+" do assert.is_true(utf8.len(line) <= 60, line) end
  end)

  it("are expanded where a table would be too wide", function()
    local row = {}
    for i = 1, 9 do row["column_" .. i] = i end
    assert.truthy(shown({ { row } }, { expanded = "auto" }):find("column_9  9\n", 1, true))
    assert.truthy(shown({ { { a = { b = { 1, 2 } } } } }, { expanded = true }):find('a  {\n     "b": [\n', 1, true))
  end)

  it("have colours by their type, as Lua and as JSON", function()
    local style = { colour = true, terminal = true, width = 60 }
    assert.equal("{ \27[34ma\27[0m = \27[32m\"x\"\27[0m }\n", shown({ { a = "x" } }, {}, style))
    assert.equal('{\n  \27[34m"a\\""\27[0m: [\n    \27[36m-1.5\27[0m,\n    \27[35mtrue\27[0m\n  ]\n}\n',
      shown({ { ['a"'] = { -1.5, true } } }, { format = "json" }, style))
  end)

  it("end where they are too deep, too long, or circular", function()
    local deep, long = {}, {}
    local at = deep
    for _ = 1, 20 do
      at.next = {}
      at = at.next
    end
    for i = 1, 1000 do long[i] = i end
    long.own = long
    assert.truthy(shown({ deep }, {}):find("{...}", 1, true))
    assert.truthy(shown({ long }, {}):find("... 801 more", 1, true))
    assert.equal(("x"):rep(10000) .. "… (20000 bytes)\n", shown({ ("x"):rep(20000) }, {}))
  end)

  it("are no commands for the terminal", function()
    assert.falsy(shown({ "a\27[2Jb", { "c\27]0;d\7" }, { { e = "f\27g" } } }, {}):find "\27")
    assert.equal("a\27b\n", shown({ "a\27b" }, {}, { colour = false, terminal = false, width = 80 }))
  end)
end)
