-- What a failed command says, and what becomes of output that nobody takes.
local child = require "spec.support.child"
local nebula = require "spec.support.nebula"
local postgres = require "spec.support.postgres"

describe("a failed command", function()
  local url = postgres.database()

  local function run(...)
    return nebula.run { args = { ... }, env = { DATABASE_URL = url }, cwd = nebula.scratch() }
  end

  -- The program under a shell that redirects it.
  local function shell(line)
    return child.run { file = "/bin/sh", args = { "-c", ('"$0" %s'):format(line), nebula.program },
      env = { DATABASE_URL = url } }
  end

  it("names the migrations that the database lacks, where they are what a statement misses", function()
    for _, words in ipairs { { "queue", "stats" }, { "queue", "push", "x" }, { "policy", "list" } } do
      local answer = run(table.unpack(words))
      assert.equal(1, answer.status)
      assert.matches("does not exist", answer.stderr)
      assert.matches("migrations are not applied to this database, run `nebula migrate up`", answer.stderr, 1, true)
      assert.falsy(answer.stderr:find("statement", 1, true), answer.stderr)
    end
    assert.equal(0, run("migrate", "up").status)
    local answer = run("sql", "SELECT * FROM nowhere")
    assert.matches("nowhere", answer.stderr)
    assert.falsy(answer.stderr:find("migrat", 1, true))
  end)

  it("ends with status 2 where its words are wrong", function()
    for words, told in pairs {
      [{ "queue", "show", "x" }] = 'ID wants a UUID, not "x"',
      [{ "queue", "list", "--after", "x" }] = "%-%-after wants a UUID",
      [{ "queue", "push", "x", "[1]" }] = "the payload is a JSON object",
      [{ "policy", "check", "fifoo" }] = "did you mean fifo%?",
      [{ "policy", "check", "fifo", "--set", "x=1" }] = "unknown option x",
      [{ "policy", "use", "fifo", "--previous" }] = "no name beside it",
      [{ "worker", "--policy", "fifoo", "--drain" }] = "did you mean fifo%?",
      [{ "sql", "SELECT 1", "--csv", "--json" }] = "one of them",
      [{ "sql", " ; " }] = "wants a statement",
      [{ "task", "--json", "stats" }] = "behind its name",
    } do
      local answer = run(table.unpack(words))
      assert.equal(2, answer.status, answer.stderr)
      assert.matches(told, answer.stderr)
    end
  end)

  it("shows a traceback where a file of its user is in it, and none of the host's frames alone", function()
    local project = nebula.scratch()
    nebula.write(project, { ["policies/.keep"] = "", ["tasks/broken.lua"] = "return {\n" })
    local missing = { "queue", "cancel", "00000000-0000-4000-8000-000000000000" }
    for _, words in ipairs { missing, { "task", "broken" } } do
      local answer = nebula.run { args = words, env = { DATABASE_URL = url }, cwd = project }
      assert.equal(1, answer.status)
      assert.falsy(answer.stderr:find("traceback", 1, true), answer.stderr)
    end
    assert.matches("%(command line%):1:", run("-e", "local job = storage:get_job 'x'").stderr)
  end)

  it("says that standard output took not everything, and fails", function()
    for _, line in ipairs { "-e 'print(1)' >/dev/full", "sql 'SELECT 1' --json >/dev/full", "--help >&-" } do
      local answer = shell(line)
      assert.equal(1, answer.status, line)
      assert.matches("^nebula: standard output: ", answer.stderr)
    end
  end)

  it("is none where the reader of a pipe has left", function()
    local answer = shell [[-e 'for i = 1, 100000 do print(i) end io.stderr:write "done"' | head -n 1]]
    assert.same({ "1\n", "done" }, { answer.stdout, answer.stderr })
  end)

  it("works with descriptors that were closed", function()
    assert.same({ 0, "1\n" }, { shell("-e 'print(1)' <&-").status, shell("-e 'print(1)' 2>&-").stdout })
  end)
end)
