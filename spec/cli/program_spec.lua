-- The program as it is called: scripts, lines, standard input, help, exit statuses, and what it says
-- where its surroundings are wrong: one readable line with the remedy.
local child = require "spec.support.child"
local core = require "nebula"
local nebula = require "spec.support.nebula"
local postgres = require "spec.support.postgres"

local SECRET = "s3cr3t-of-the-spec"

describe("the program", function()
  local here

  lazy_setup(function() here = nebula.scratch() end)

  local function run(args, options)
    local all = { args = args, cwd = here }
    for name, value in pairs(options or {}) do all[name] = value end
    return nebula.run(all)
  end

  -- Runs it and compares the exit status; both outputs in one text.
  local function ends(status, args, options)
    local result = run(args, options)
    local output = result.stdout .. result.stderr
    assert.equal(status, result.status, output)
    return output
  end

  local function says(text, output) assert.truthy(output:find(text, 1, true), output) end

  it("runs a script with its arguments, a line, and standard input", function()
    nebula.write(here, { ["hello.lua"] = "print('hello', ..., arg[0], #arg)" })
    assert.equal("hello\tone\thello.lua\t2\n", (ends(0, { "hello.lua", "one", "two" }):gsub("two\t", "")))
    assert.equal("2\tx\n", ends(0, { "-e", "1 + 1, 'x'" }))
    assert.equal("42\n", ends(0, {}, { stdin = "print(6 * 7)\n" }))
  end)

  it("lets a script wait and end with a status of its own", function()
    nebula.write(here, { ["wait.lua"] = [[
      local task = require("nebula").task
      task.map({ 1, 2, 3 }, function() task.sleep(0.01) end)
      os.exit(7)
    ]] })
    ends(7, { "wait.lua" })
  end)

  it("reads a file of variables only where --env names it, below the environment", function()
    local home = nebula.scratch()
    nebula.write(home, {
      ["given.env"] = "# settings\nexport S3_REGION='eu west'\nNEBULA_ONE=\"a\\nb\" # two lines\nNEBULA_TWO=bare # x\n"
        .. "NEBULA_THREE=\n",
      [".env"] = "NEBULA_ONE=never\n", ["bad.env"] = "OK=1\nPASSWORD \"hunter2\"\n",
    })
    local code = "for _, n in ipairs { 'ONE', 'TWO', 'THREE' } do print(os.getenv('NEBULA_' .. n)) end"
    local function answer(...) return nebula.run { args = { ... }, cwd = home, env = { NEBULA_TWO = "mine" } } end
    assert.equal("nil\nmine\nnil\n", answer("-e", code).stdout)
    assert.equal("a\nb\nmine\n\n", answer("--env", "given.env", "-e", code).stdout)
    assert.equal("a\nb\nmine\n\n", answer("--env=given.env", "-e", code).stdout)
    local refused = answer("--env", "bad.env", "-e", code)
    assert.equal(2, refused.status)
    assert.truthy(refused.stderr:find("bad.env:2: wants NAME=value", 1, true))
    assert.falsy(refused.stderr:find("hunter2", 1, true))
    assert.equal(2, answer("--env", "none.env", "-e", code).status)
    assert.equal(2, answer("--env").status)
  end)

  it("finds modules beside a script that #! starts, and those of LuaRocks", function()
    local home = nebula.scratch()
    nebula.write(home, {
      ["bin/tool"] = "#!/usr/bin/env nebula\nprint(require('beside').name, require('rock').name, ...)\n",
      ["bin/beside.lua"] = "return { name = 'beside' }",
      ["bin/lua_modules/share/lua/5.4/rock.lua"] = "return { name = 'rock' }",
    })
    child.must { file = "chmod", args = { "755", home .. "/bin/tool" } }
    local directory = nebula.program:match "^(.*)/[^/]*$"
    local said = child.run { file = home .. "/bin/tool", args = { "one", "two" }, cwd = home,
      env = { PATH = directory .. ":" .. os.getenv "PATH" } }
    assert.equal("beside\trock\tone\ttwo\n", said.stdout, said.stderr)
  end)

  it("says where a script is wrong and exits 1", function()
    nebula.write(here, {
      ["broken.lua"] = "local x =\nlocal y = 2\n",
      ["raises.lua"] = "local function deep() error('boom') end\ndeep()\n",
    })
    says("broken.lua:2:", ends(1, { "broken.lua" }))
    local output = ends(1, { "raises.lua" })
    says("raises.lua:1: boom", output)
    says("stack traceback", output)
    says("raises.lua:2:", output)
    says("missing.lua", ends(1, { "missing.lua" }))
  end)

  it("prints help for each command and exits 0", function()
    local names = {}
    local listed = ends(0, { "--help" }):match("Commands:\n(.*)")
    for name in listed:gmatch("\n?  (%l[%w-]*) ") do names[#names + 1] = name end
    assert.is_true(#names > 3)
    for _, name in ipairs(names) do says("usage: nebula " .. name, ends(0, { name, "--help" })) end
  end)

  it("exits 2 on usage that it does not understand", function()
    says("unknown command", ends(2, { "nonsense" }))
    says("did you mean --json?", ends(2, { "sql", "--jsn", "SELECT 1" }))
    ends(2, { "dev", "sideways" })
  end)

  it("exits 130 where it is interrupted", function()
    nebula.write(here, { ["long.lua"] = "print 'begun' io.stdout:flush() require('nebula').task.sleep(600)" })
    local started = nebula.spawn { args = { "long.lua" }, cwd = here, stderr = "null" }
    assert.equal("begun\n", started:read())
    started:kill("INT")
    assert.equal(130, started:wait(60).status)
  end)

  it("runs SQL and prints a table, CSV or JSON", function()
    local env = { DATABASE_URL = postgres.database() }
    local sql = "SELECT 7 AS seven, 'a,b' AS text"
    says("seven", ends(0, { "sql", sql }, { env = env }))
    assert.equal('seven,text\n7,"a,b"\n', (ends(0, { "sql", sql, "--csv" }, { env = env }):gsub("\r", "")))
    assert.same({ seven = 7, text = "a,b" }, core.json.decode(ends(0, { "sql", sql, "--json" }, { env = env })))
    says("42601", ends(1, { "sql", "SELEC 1" }, { env = env }))
  end)

  it("names what is missing where no database is configured", function()
    local output = ends(2, { "sql", "SELECT 1" })
    says("DATABASE_URL", output)
    says("nebula dev up", output)
  end)

  it("refuses bad values by the variable's name", function()
    local url = postgres.url()
    for name, value in pairs {
      DATABASE_URL = "nonsense", DATABASE_MAX_CONNECTIONS = "many", DATABASE_CONNECT_TIMEOUT_SECONDS = "-1",
      ENABLE_STATEMENT_LOGGING = "perhaps",
    } do
      local env = { DATABASE_URL = url }
      env[name] = value
      says(name, ends(2, { "sql", "SELECT 1" }, { env = env }))
    end
  end)

  it("says which server, database or role is not there, and never a password", function()
    local url = postgres.url()
    for wrong, told in pairs {
      ["postgresql://nebula:" .. SECRET .. "@/x?host=/nowhere"] = "/nowhere",
      ["postgresql://nebula:" .. SECRET .. "@127.0.0.1:1/x"] = "127.0.0.1",
      [url:gsub("nebula@/nebula", "nebula:" .. SECRET .. "@/absent")] = "absent",
      [url:gsub("nebula@", "nobody:" .. SECRET .. "@")] = "nobody",
    } do
      local output = ends(1, { "sql", "SELECT 1" }, { env = { DATABASE_URL = wrong } })
      says(told, output)
      says(told == "absent" and "[3D000]" or told == "nobody" and "[28" or "[08001]", output)
      assert.is_nil(output:find(SECRET, 1, true))
      local _, lines = output:gsub("\n", "")
      assert.equal(1, lines, output)
    end
    local malformed = { ["postgresql://u:" .. SECRET .. "@[::1/x"] = 'matching "]"',
      ["user=me " .. SECRET .. " host=here"] = 'missing "=" after "..."' }
    for wrong, told in pairs(malformed) do
      local output = ends(2, { "sql", "SELECT 1" }, { env = { DATABASE_URL = wrong } })
      says(told, output)
      assert.is_nil(output:find(SECRET, 1, true))
    end
  end)
end)
