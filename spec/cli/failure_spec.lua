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
      assert.matches("migrations are not applied to this database: run `nebula migrate up`", answer.stderr, 1, true)
    end
    assert.equal(0, run("migrate", "up").status)
    local answer = run("sql", "SELECT * FROM nowhere")
    assert.matches("nowhere", answer.stderr)
    assert.falsy(answer.stderr:find("migrat", 1, true))
  end)

  it("shows a traceback where a file of its user is in it, and none of the host's frames alone", function()
    local project = nebula.scratch()
    nebula.write(project, { ["policies/.keep"] = "", ["tasks/broken.lua"] = "return {\n" })
    for _, words in ipairs { { "queue", "show", "x" }, { "task", "broken" } } do
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
