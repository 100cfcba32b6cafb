-- The interactive prompt, driven through a pseudo-terminal: typed keys in, the screen's bytes out.
local child = require "spec.support.child"
local open = require("spec.repl.prompt").open

local SECONDS = 60

-- What a task prints once there is a directory `go`.
local BEHIND = "task.spawn(function() while not nebula.system.stat 'go' do task.sleep(0.01) end "
  .. "print('from ' .. 'behind') end)"

local function go(prompt) child.must { file = "mkdir", args = { prompt.home .. "/go" } } end

describe("the prompt", function()
  it("prints an expression's values, and runs statements over several lines", function()
    local prompt <close> = open()
    prompt:line("1 + 1, 'x'", "2\tx")
    prompt:line("= 6 * 7", "42")
    prompt:type "for i = 1, 2 do\r"
    prompt:expect "-> "
    prompt:type "print(i * 11)\r"
    prompt:expect "-> "
    prompt:type "end\r"
    prompt:expect "11"
    prompt:expect "22"
    prompt:line("{ { a = 1, b = 'x' }, { a = 22, b = 'y' } }", "(2 rows)")
  end)

  it("takes UTF-8, whatever the locale", function()
    local prompt <close> = open { LANG = "C" }
    prompt:line("#'äöü€'", "9")
  end)

  it("names an error and goes on", function()
    local prompt <close> = open()
    prompt:line("error 'broken'", "broken")
    prompt:line("x = = 1", "unexpected symbol")
    prompt:line("_error.message", "broken")
  end)

  it("interrupts a wait, a loop, and a loop in pcall with Ctrl-C", function()
    local prompt <close> = open()
    for _, code in ipairs {
      "task.sleep(1000)", "while true do end", "while true do pcall(function() while true do end end) end",
    } do
      prompt:type("print 'begun' " .. code .. "\r")
      prompt:expect "begun\r\n"
      prompt:type "\3"
      prompt:expect "interrupted"
      prompt:expect(prompt.prompt)
    end
    prompt:line("1 + 1", "2")
  end)

  it("returns at a second Ctrl-C from a line that takes long to clean up", function()
    local prompt <close> = open()
    prompt:type("local _ <close> = setmetatable({}, { __close = function() print 'clean' task.sleep(1000) end }) "
      .. "print 'begun' task.sleep(1000)\r")
    prompt:expect "begun\r\n"
    prompt:type "\3"
    prompt:expect "clean\r\n"
    prompt:type "\3"
    prompt:expect "left behind"
    prompt:expect(prompt.prompt)
    prompt:line("1 + 1", "2")
  end)

  it("drops a half-typed line on Ctrl-C, leaves on Ctrl-D", function()
    local prompt <close> = open()
    prompt:type "half typed"
    prompt:expect "half typed"
    prompt:type "\3"
    prompt:expect "^C"
    prompt:expect(prompt.prompt)
    prompt:line("1 + 1", "2")
    prompt:type "\4"
    assert.equal(0, prompt.process:wait(SECONDS).status)
  end)

  it("stays when a key leaves the line empty", function()
    local prompt <close> = open()
    prompt:type "x\127\127\27[4~\27[1~"
    prompt:line("1 + 1", "2")
  end)

  it("goes on with its tasks while Escape waits for another key", function()
    local prompt <close> = open()
    prompt:line(BEHIND, "task")
    prompt:type "\27"
    go(prompt)
    prompt:expect "from behind"
  end)

  it("completes globals, fields and modules with Tab", function()
    local prompt <close> = open()
    prompt:type "nebula.ta\t.sle\t0)\r"
    prompt:expect "nebula.task.sleep(0)"
    prompt:expect(prompt.prompt)
    prompt:type "string.re\t"
    prompt:expect "rep      reverse"
  end)

  it("shows what a background task prints while a line is typed", function()
    local prompt <close> = open()
    prompt:line(BEHIND, "task")
    prompt:type "6 *"
    prompt:expect "6 *"
    go(prompt)
    prompt:expect "from behind"
    prompt:expect "6 *" -- drawn again below
    prompt:line(" 7", "42")
  end)

  it("keeps its history, private to the user, without secrets", function()
    local prompt <close> = open()
    prompt:line("'remember me'", "remember me")
    prompt:line("password = 'hunter2'", "")
    prompt:line(" 'with a space before'", "with a space before")
    prompt:type "\4"
    prompt.process:wait(SECONDS)
    local path = prompt.home .. "/state/nebula/history"
    local text = child.read_file(path)
    assert.truthy(text:find("remember", 1, true))
    assert.falsy(text:find("hunter2", 1, true))
    assert.falsy(text:find("space", 1, true))
    assert.equal(384, require("nebula.system").stat(path).mode)
  end)

  it("works on a dumb terminal", function()
    local prompt <close> = open { TERM = "dumb" }
    prompt:line("6 * 7", "42")
  end)
end)
