-- spec/greet_spec.lua: run by `nebula test`, on a throwaway database beside the configured one.
local policy = require "nebula.policy"
local tasks = require "nebula.tasks"
local testing = require "nebula.testing"

describe("handler greet", function()
  it("writes the greeting down", function()
    local storage = testing.storage() -- migrated, and empty
    local job = testing.work("greet", { name = "world" })
    assert.equal("completed", job.status)
    assert.same({ greeted = "world" }, job.result)
    assert.equal("Hello, world!", storage.db:value "SELECT text FROM greetings")
  end)

  it("refuses a payload without a name", function()
    local job = testing.work("greet", {})
    assert.equal("dead", job.status)
    assert.truthy(job.error:find("no name", 1, true))
  end)
end)

describe("policy steady", function()
  it("waits longer each time, and gives up at once on bad input", function()
    local steady = policy.load("steady", { first = "1s", longest = "3s" })
    assert.equal(2, steady:retry({ retry_count = 1 }, { kind = "io", message = "unreachable" }))
    assert.equal(3, steady:retry({ retry_count = 9 }, { kind = "io", message = "unreachable" }))
    assert.equal("dead", (steady:retry({ retry_count = 0 }, { kind = "validation", message = "no name" })))
  end)
end)

describe("task forget-greetings", function()
  it("deletes what is old, and only that", function()
    local storage = testing.storage()
    storage.db:exec [[
      INSERT INTO greetings (name, text, greeted_at)
      VALUES ('old', 'Hello', now() - interval '40 days'), ('new', 'Hello', now())
    ]]
    local result = tasks.run(storage, tasks.load "forget-greetings", { older_than = "30d" })
    assert.equal(1, result.deleted)
    assert.equal("new", storage.db:value "SELECT name FROM greetings")
  end)
end)
