-- The house itself: every rule finds a file that breaks it, and the tree breaks none.
local rules = require "spec.house.rules"

-- The names of the rules that a file of this content breaks.
local function broken(path, text)
  local names = {}
  for _, finding in ipairs(rules.check(path, text)) do names[#names + 1] = finding.rule end
  return table.concat(names, " ")
end

local HEAD = "// thing.c: a thing.\n"
local LUA_HEAD = "-- thing.lua: a thing.\n"

describe("the rules of the house", function()
  it("let a clean file pass", function()
    local text = HEAD .. '#include "base/lua_error.h"\n\nint f(void) {\n  return 1;\n}\n'
    assert.equal("", broken("bindings/pg/lua_thing.c", text))
    assert.equal("", broken("scripts/nebula/thing.lua", LUA_HEAD .. "return {}\n"))
  end)

  it("bound a file's length", function()
    assert.equal("", broken("host/thing.c", HEAD .. ("int x;\n"):rep(599)))
    assert.equal("file-length", broken("host/thing.c", HEAD .. ("int x;\n"):rep(600)))
  end)

  it("bound a line's length in characters, not bytes", function()
    assert.equal("", broken("host/thing.c", HEAD .. "// " .. ("ä"):rep(97) .. "\n"))
    assert.equal("line-length", broken("host/thing.c", HEAD .. "// " .. ("ä"):rep(98) .. "\n"))
  end)

  it("bound a C function's length", function()
    local function c_function(lines)
      return HEAD .. "static int f(int a,\n             int b) {\n" .. ("  a++;\n"):rep(lines - 3) .. "}\n"
    end
    assert.equal("", broken("host/thing.c", c_function(80)))
    assert.equal("function-length", broken("host/thing.c", c_function(81)))
    assert.equal("", broken("host/thing.c", HEAD .. "static const int X[] = {\n" .. ("  1,\n"):rep(90) .. "};\n"))
  end)

  it("bound a Lua function's length, apart from blocks that group specs", function()
    local function block(head, tail)
      return LUA_HEAD .. head .. "\n" .. ("  x = 1\n"):rep(80) .. tail .. "\n"
    end
    assert.equal("function-length", broken("scripts/thing.lua", block("local function f(a)", "end")))
    assert.equal("function-length", broken("spec/a_spec.lua", block('it("x", function()', "end)")))
    assert.equal("", broken("spec/a_spec.lua", block('describe("x", function()', "end)")))
  end)

  it("keep bindings/ apart from host/, pg/ from s3/, and Lua in the glue", function()
    assert.equal("bindings-apart-from-host", broken("bindings/base/lua_x.c", HEAD .. '#include "host/main.h"\n'))
    assert.equal("pg-and-s3-apart", broken("bindings/pg/lua_x.c", HEAD .. '#include "s3/request.h"\n'))
    assert.equal("pg-and-s3-apart", broken("bindings/s3/lua_x.c", HEAD .. '#include "pg/pool.h"\n'))
    for _, header in ipairs { "<lua.h>", "<lua5.4/lauxlib.h>", '"base/lua_error.h"', '"async/task.h"' } do
      assert.equal("lua-in-glue-alone", broken("bindings/pg/pool.c", HEAD .. "#include " .. header .. "\n"))
      assert.equal("", broken("bindings/pg/lua_pool.c", HEAD .. "#include " .. header .. "\n"))
    end
    assert.equal("", broken("bindings/async/task.c", HEAD .. "#include <lua.h>\n"))
  end)

  it("refuse shells in scripts, leftovers, and specs that do not run", function()
    assert.equal("no-shell", broken("scripts/x.lua", LUA_HEAD .. "os.exec" .. "ute('ls')\n"))
    assert.equal("no-shell", broken("migrations/V1__x.lua", LUA_HEAD .. "io.po" .. "pen('ls')\n"))
    assert.equal("nothing-left-to-do", broken("host/x.c", HEAD .. "// TO" .. "DO: more\n"))
    assert.equal("every-spec-runs", broken("spec/x_spec.lua", LUA_HEAD .. 'pend' .. 'ing("later")\n'))
  end)

  it("want a head comment, spaces, and no space at a line's end", function()
    assert.equal("head-comment", broken("host/x.c", "int x;\n"))
    assert.equal("", broken("bindings/meta/x.lua", "---@meta\n-- x: a thing.\n"))
    assert.equal("no-tabs", broken("host/x.c", HEAD .. "\tint x;\n"))
    assert.equal("no-trailing-space", broken("host/x.c", HEAD .. "int x; \n"))
  end)
end)
