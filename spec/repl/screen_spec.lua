-- What a person at the prompt sees: the screen after output, keys and signals, in a pseudo-terminal.
local child = require "spec.support.child"
local core = require "nebula"
local nebula = require "spec.support.nebula"
local postgres = require "spec.support.postgres"
local prompts = require "spec.repl.prompt"
local proxy = require "spec.support.proxy"
local s3 = require "spec.support.s3"

describe("the prompt's screen", function()
  local env, db

  lazy_setup(function()
    env = { DATABASE_URL = postgres.database() }
    db = core.pg.connect { url = env.DATABASE_URL }
  end)

  lazy_teardown(function() db:close() end)

  local function open(more, size, home, args)
    local given = { DATABASE_URL = env.DATABASE_URL }
    for name, value in pairs(more or {}) do given[name] = value end
    return prompts.open(given, args, home, size)
  end

  it("names the database", function()
    local prompt <close> = open()
    assert.equal(("nebula %s> "):format(db:value "SELECT current_database()"), prompt.prompt)
    local other <close> = open { DATABASE_URL = "postgresql://me:hunter2@db1.example.org:5432/orders" }
    assert.equal("nebula orders@db1.example.org> ", other.prompt)
    assert.falsy(other.output:find "hunter2")
  end)

  it("keeps background output apart from the line that is typed, one that wraps included", function()
    local prompt <close> = open(nil, { rows = 24, columns = 60 })
    prompt:line("t = task.spawn(function() while not nebula.system.stat 'go' do task.sleep(0.01) end "
      .. "for i = 1, 50 do print('output ' .. i) end end)", "")
    local typed = ("0123456789"):rep(9)
    prompt:type("x = '" .. typed:sub(1, 60))
    prompt:shows "x = '01234"
    nebula.write(prompt.home, { ["go/on"] = "" })
    prompt:shows "output 50"
    prompt:type(typed:sub(61) .. "'")
    local line = prompt.prompt .. "x = '" .. typed .. "'"
    prompt:shows(function(screen) return screen:gsub("\n", ""):find(line, 1, true) end)
    local all = prompt.screen:all()
    assert.equal(2, select(2, all:gsub(prompt.prompt, "")), all) -- no remains of the line among the output
    for i = 1, 50 do assert.truthy(all:find("\noutput " .. i .. "\n", 1, true), all) end
  end)

  it("draws the line again after a resize", function()
    local prompt <close> = open(nil, { rows = 24, columns = 100 })
    prompt:type "x = 'some text that is typed'"
    prompt:shows "typed'"
    prompt.screen.columns = 40
    prompt.process:resize(24, 40)
    prompt:type "\21'a' .. 'b'\r"
    prompt:shows "\nab\n"
    prompt:line("nebula.ui.width()", "40")
  end)

  it("completes a word where it stands, and leaves one line of it", function()
    local prompt <close> = open()
    for typed, line in pairs { [".expl\tain"] = ".explainain", ["string.for\t'%d'"] = "string.format('%d'" } do
      prompt:type("\21" .. typed)
      prompt:shows(function(screen) return screen:match "[^\n]*$" == prompt.prompt .. line end)
    end
  end)

  it("takes a paste of 200 lines whole and in order", function()
    local prompt <close> = open()
    local lines = { "pasted = 0; do" }
    for i = 2, 199 do lines[i] = ("  pasted = pasted + %d -- a line of what is pasted at once"):format(i) end
    lines[200] = "end"
    prompt:type(table.concat(lines, "\r") .. "\r")
    prompt:line("pasted", tostring(199 * 200 // 2 - 1))
  end)

  it("takes what is pasted as text: a tab in it completes nothing, an Escape is no key", function()
    local prompt <close> = open()
    assert.truthy(prompt.output:find("\27[?2004h", 1, true))
    prompt:type "\27[200~pasted = {\n\tstring.re\trep,\27\n}\27[201~\r"
    prompt:expect(prompt.prompt)
    prompt:type "string.for\t\27[D\27[D\21"
    prompt:expect "string.format("
    prompt:type "\27[200~#'a\tb'\27[201~\r"
    prompt:shows "\n3\n"
    assert.falsy(prompt.screen:all():find("reverse", 1, true), prompt.screen:all())
    prompt:type "\4"
    prompt:expect "\27[?2004l"
  end)

  it("edits wide characters and accents in place", function()
    local prompt <close> = open()
    prompt:type "x = 'ä漢字é'\27[D\27[D\127"
    prompt:shows "x = 'ä漢é'"
    prompt:type "\5\rutf8.len(x)\r"
    prompt:shows "\n3\n"
  end)

  it("searches the history backwards with Ctrl-R", function()
    local prompt <close> = open()
    prompt:line("first = 'needle in it'", "")
    prompt:line("second = 2", "")
    prompt:type "\18needle"
    prompt:shows "bck:needle"
    prompt:type "\27"
    prompt:shows(function(screen) return screen:find("> first = 'needle in it'$") end)
    prompt:type "\r"
    prompt:line("first", "needle in it")
  end)

  it("shows a value of 10 MB shortened, and goes on", function()
    local prompt <close> = open()
    prompt:line("('x'):rep(10000000)", "… (10000000 bytes)")
    prompt:line("db:query([[SELECT repeat('y', 10000000) AS big, 1 AS one]])", "(1 row)")
    prompt:line("{ ('z'):rep(10000000) }", "(10000000 bytes)")
    assert.is_true(#prompt.output < 100000)
  end)

  it("interrupts a query at the server with Ctrl-C", function()
    local prompt <close> = open()
    prompt:type "db:value 'SELECT pg_sleep(998)'\r"
    local function running()
      return db:value [[SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND query = 'SELECT pg_sleep(998)' AND state = 'active']]
    end
    child.await("the query", 60, function() return running() == 1 end)
    prompt:type "\3"
    prompt:expect "interrupted"
    child.await("its end at the server", 60, function() return running() == 0 end)
    prompt:expect(prompt.prompt)
    prompt:line("db:value 'SELECT 7 * 6'", "42")
  end)

  it("interrupts a transfer of S3 with Ctrl-C", function()
    local given = s3.environment()
    local between <close> = proxy.start { port = math.tointeger(given.S3_ENDPOINT:match ":(%d+)$") }
    given.S3_ENDPOINT = "http://127.0.0.1:" .. between.port
    local prompt <close> = open(given)
    prompt:line("blobs:upload('large', ('x'):rep(4 << 20))", "large")
    between:set("down", { bandwidth = 20000 })
    local before = between:counts().down
    prompt:type "#blobs:get 'large'\r"
    child.await("the transfer", 60, function() return between:counts().down > before + 10000 end)
    prompt:type "\3"
    prompt:expect "interrupted"
    prompt:expect(prompt.prompt)
    between:clear()
    prompt:line("#blobs:get 'large'", tostring(4 << 20))
  end)

  it("pages what is longer than the terminal, where there is a pager", function()
    local home = nebula.scratch()
    nebula.write(home, { ["bin/page"] = "#!/bin/sh\nlines=$(wc -l)\necho \"paged $lines lines\"\n" })
    child.must { file = "chmod", args = { "755", home .. "/bin/page" } }
    local prompt <close> = open({ PAGER = home .. "/bin/page" }, nil, home)
    prompt:line("sql 'SELECT g FROM generate_series(1, 100) g'", "paged 103 lines")
    prompt:line("sql 'SELECT 1 AS one'", "(1 row)")
  end)

  it("has no escapes on a dumb terminal, and pages nothing there", function()
    local prompt <close> = open { TERM = "dumb", NO_COLOR = "" }
    prompt:line("sql 'SELECT g, NULL AS n FROM generate_series(1, 60) g'", "(60 rows)")
    prompt:line("error 'broken'", "broken")
    assert.falsy(prompt.output:find "\27")
  end)

  it("completes among 10,000 tables without holding up a key", function()
    db:exec [[
      DO $$ BEGIN
        FOR i IN 1 .. 10000 LOOP EXECUTE format('CREATE TABLE many_%s (id int, col_%s int)', i, i); END LOOP;
      END $$
    ]]
    local prompt <close> = open()
    prompt:line("db:value 'SELECT 1'", "1")
    prompt:type "sql 'SELECT id FROM many_77\t"
    prompt:type "' -- typed on"
    prompt:shows "' -- typed on" -- whether the tables were there by then or not
    prompt:type "\21"
    child.await("the tables to be read", 60, function()
      prompt:type "sql 'SELECT col FROM many_7777\t"
      prompt:type " WHERE col_\t\21"
      core.task.sleep(0.05)
      return prompt.output:find("WHERE col_7777", 1, true)
    end)
  end)
end)
