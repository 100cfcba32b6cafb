-- nebula.options: one way to declare options, for command lines and for tables.
local core = require "nebula"
local nebula = require "spec.support.nebula"
local options = require "nebula.options"

local DECLARED = {
  older_than = { type = "duration", default = "14d", help = "age" },
  status = { type = "list", choices = { "completed", "failed" }, default = { "completed" } },
  limit = { default = 100, min = 1, max = 1000, short = "n" },
  share = { default = 0.5 },
  colour = { default = true },
  force = { type = "boolean" },
  size = { type = "size" },
  set = { type = "map" },
  name = { required = true },
}

local function parse(...) return options.parse(DECLARED, { "--name", "x", ... }) end

local function refusal(...)
  local _, err = core.try(parse, ...)
  assert.equal("validation", err and err.kind)
  return err.message
end

describe("options.parse", function()
  it("reads every type, in each of its forms", function()
    local opts, rest = parse("--older-than=1h30m", "--status", "failed", "--status=completed", "-n5", "--share", "1",
      "--no-colour", "--force", "--size", "64M", "--set", "a=1", "--set", "b=2,c=3", "one", "--", "--two")
    assert.same({ older_than = 5400, status = { "failed", "completed" }, limit = 5, share = 1, colour = false,
      force = true, size = 64 << 20, set = { a = "1", b = "2", c = "3" }, name = "x" }, opts)
    assert.same({ "one", "--two" }, rest)
  end)

  it("fills in defaults of the declared type", function()
    local opts = parse()
    assert.equal(14 * 86400, opts.older_than)
    assert.same({ "completed" }, opts.status)
    assert.equal(100, opts.limit)
    assert.is_nil(opts.force)
  end)

  it("names what is wrong, and what was meant", function()
    assert.truthy(refusal("--older-then", "5d"):find("--older-than", 1, true))
    assert.truthy(refusal("--older-than", "soon"):find("duration", 1, true))
    assert.truthy(refusal("--status", "complete"):find("completed", 1, true))
    assert.truthy(refusal("--limit", "0"):find("at least 1", 1, true))
    assert.truthy(refusal("--limit", "1.5"):find("whole number", 1, true))
    assert.truthy(refusal("--limit"):find("wants a value", 1, true))
    assert.truthy(refusal("--set", "novalue"):find("KEY=VALUE", 1, true))
    local _, err = core.try(options.parse, DECLARED, {})
    assert.equal("--name is required", err.message)
  end)

  it("reads durations exactly", function()
    for text, seconds in pairs { ["90"] = 90, ["90s"] = 90, ["250ms"] = 0.25, ["1h30m"] = 5400, ["2w"] = 1209600 } do
      assert.equal(seconds, options.duration(text))
    end
    for _, text in ipairs { "", "d", "5x", "-1s", "1h 30m", "1e9", "nan" } do assert.is_nil(options.duration(text)) end
  end)
end)

describe("options.coerce", function()
  it("checks a table by the same declaration", function()
    assert.equal(60, options.coerce(DECLARED, { name = "x", older_than = "1m" }).older_than)
    local _, err = core.try(options.coerce, DECLARED, { name = "x", stat = {} }, "policy tenants")
    assert.truthy(err.message:find("policy tenants: unknown option stat", 1, true))
  end)
end)

describe("nebula.args", function()
  local function script(...)
    local where = nebula.scratch()
    nebula.write(where, { ["job.lua"] = [[
      local nebula = require "nebula"
      local opts = nebula.args { summary = "Do the job", options = {
        older_than = { type = "duration", default = "30d", help = "age since completion" } },
        arguments = { { name = "table", required = true } } }
      print(opts.older_than, opts.table)]] })
    return nebula.run { args = { where .. "/job.lua", ... }, cwd = where }
  end

  it("gives a script its options and arguments", function()
    assert.equal("3600\tjobs\n", script("--older-than", "1h", "jobs").stdout)
  end)

  it("prints help, and refuses mistakes with status 2", function()
    local help = script "--help"
    assert.equal(0, help.status)
    assert.truthy(help.stdout:find("usage: job.lua [OPTIONS] TABLE", 1, true))
    assert.truthy(help.stdout:find("--older-than TIME", 1, true))
    assert.truthy(help.stdout:find("default 30d", 1, true))
    local wrong = script("--older", "1h", "jobs")
    assert.equal(2, wrong.status)
    assert.truthy(wrong.stderr:find("--older-than", 1, true))
    assert.equal(2, script().status)
  end)
end)
