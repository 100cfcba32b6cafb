-- What nebula.conf.lua says of a worker, and the command line.
local nebula = require "spec.support.nebula"
local postgres = require "spec.support.postgres"

describe("the section worker of nebula.conf.lua", function()
  local url = postgres.database()

  local function work(conf, ...)
    local project = nebula.scratch()
    nebula.write(project, { ["policies/.keep"] = "", ["nebula.conf.lua"] = "return " .. conf })
    return nebula.run { args = { "worker", "--drain", ... }, env = { DATABASE_URL = url }, cwd = project }
  end

  setup(function() nebula.run { args = { "migrate", "up" }, env = { DATABASE_URL = url }, cwd = nebula.scratch() } end)

  it("is below the command line, also where that says the default", function()
    local conf = "{ worker = { concurrency = 3 } }"
    assert.matches("concurrency=3 ", work(conf).stderr)
    assert.matches("concurrency=16 ", work(conf, "--concurrency", "16").stderr)
  end)

  it("is refused by the file's name where a value is none", function()
    local answer = work "{ worker = { concurrency = 'x' } }"
    assert.equal(2, answer.status)
    assert.equal("nebula: nebula.conf.lua: worker: concurrency wants a whole number, not \"x\"\n", answer.stderr)
  end)
end)
