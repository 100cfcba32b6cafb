-- What people and programs get to see: tables, plots, progress, and `nebula sql` in its formats.
local nebula = require "spec.support.nebula"
local postgres = require "spec.support.postgres"
local ui = require "nebula.ui"

describe("ui.table", function()
  it("aligns columns, numbers to the right, wide characters too", function()
    local text = ui.table({ { n = 1, s = "ä" }, { n = 222, s = "漢字x" } }, { columns = { "n", "s" }, width = 0 })
    assert.equal("  n  s\n───  ─────\n  1  ä\n222  漢字x", text)
  end)

  it("lets nothing through that a terminal would obey", function()
    assert.equal("a\\x1b[31mb\\nc\\u009b", ui.printable "a\27[31mb\nc\xc2\x9b")
  end)

  it("cuts the widest columns to fit", function()
    local text = ui.table({ { a = ("x"):rep(100), b = "short" } }, { columns = { "a", "b" }, width = 40 })
    for line in text:gmatch "[^\n]+" do assert.is_true(ui.text_width(line) <= 40) end
    assert.truthy(text:find("short", 1, true))
  end)
end)

describe("output without a terminal", function()
  it("has plain lines for progress", function()
    local answer = nebula.run { args = { "-e", [[
      local bar = nebula.ui.progress { label = "copy", total = 10, unit = "files" }
      bar:update(5) bar:update(10) bar:finish()]] } }
    assert.truthy(answer.stderr:find "^copy  100%%  10/10 files  [^\r\27]*\n$")
    assert.equal("", answer.stdout)
  end)

  it("draws a sparkline and a histogram", function()
    local plot = require "nebula.plot"
    assert.equal("▁▃█", plot.sparkline({ { n = 1 }, { n = "3" }, { n = 8 }, {} }, "n"))
    assert.equal("", plot.sparkline {})
    local answer = nebula.run { args = { "-e", "plot.histogram({ 0, 1, 9, 10 }, nil, 2)" } }
    assert.truthy(answer.stdout:find "^0 to 5   [^ ]+ 2\n5 to 10  [^ ]+ 2\n$")
    assert.truthy(nebula.run { args = { "-e", "plot.histogram({ {} })" } }.stderr:find("name of their column", 1, true))
  end)

  it("plots rows as bars", function()
    local answer = nebula.run { args = { "-e", "plot({ { x = 'a', y = 1 }, { x = 'bb', y = 2 } }, 'x', 'y')" } }
    assert.truthy(answer.stdout:find "^a   [^ ]+ 1\nbb  [^ ]+ 2\n$")
  end)
end)

describe("nebula sql", function()
  local env
  setup(function() env = { DATABASE_URL = postgres.database() } end)
  local function sql(...) return nebula.run { args = { "sql", ... }, env = env } end

  it("prints a table, CSV or JSON lines", function()
    local statement = [[SELECT 1 AS one, 'a,"b' AS text, NULL AS nothing UNION ALL SELECT 22, 'c', 'd' ORDER BY 1]]
    assert.truthy(sql(statement).stdout:find("one  text  nothing\n", 1, true))
    assert.equal('one,text,nothing\r\n1,"a,""b",\r\n22,c,d\r\n', sql("--csv", statement).stdout)
    local first = require("nebula").json.decode(sql("--json", statement).stdout:match "^[^\n]+")
    assert.equal(1, first.one)
    assert.equal('a,"b', first.text)
  end)

  it("binds parameters, reads standard input", function()
    assert.equal("x\r\n5\r\n", sql("--csv", "SELECT $1::int AS x", "5").stdout)
    assert.equal("x\r\n6\r\n", nebula.run { args = { "sql", "--csv" }, env = env, stdin = "SELECT 6 AS x" }.stdout)
  end)

  it("names an error of the server, with status 1", function()
    local answer = sql "SELECT nonsense"
    assert.equal(1, answer.status)
    assert.truthy(answer.stderr:find("nonsense", 1, true))
    assert.truthy(answer.stderr:find("42703", 1, true))
  end)
end)
