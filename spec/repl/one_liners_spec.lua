-- Each line of examples/repl-one-liners.lua works at the prompt, and through `nebula -e`.
local child = require "spec.support.child"
local core = require "nebula"
local nebula = require "spec.support.nebula"
local postgres = require "spec.support.postgres"
local prompts = require "spec.repl.prompt"

-- The statements of the file: lines that are indented, or only close what is open, go on with the one before.
local function statements()
  local list = {}
  for line in (child.read_file "examples/repl-one-liners.lua"):gmatch "[^\n]+" do
    if not line:find "^%-%-" then
      if line:find "^%s" or line:find "^end" then
        list[#list] = list[#list] .. "\n" .. line
      else
        list[#list + 1] = line
      end
    end
  end
  return list
end

-- What the statement answers, by how it begins.
local ANSWERS = {
  ['sql "SELECT'] = "status", ["db:one"] = "nil", ["storage:get_workflow"] = "version = 2",
  ["storage:list_jobs"] = "timeout at the bank", ["storage:requeue_jobs"] = "1", ["queue.push"] = "id = ",
  ["queue.stats"] = "scheduled = ", ["for object"] = "archive/2026.zst", ["task.map"] = "true", ["plot("] = "█",
}

local function answer_to(statement)
  for begin, answer in pairs(ANSWERS) do
    if statement:sub(1, #begin) == begin then return answer end
  end
  error("what does it answer? " .. statement)
end

describe("the one-liners", function()
  local env, home, blobs, storage

  lazy_setup(function()
    env = { DATABASE_URL = postgres.database() }
    storage = require("nebula.storage").new { database_url = env.DATABASE_URL }
    storage:run_migrations { log = function() end }
    home, blobs = nebula.scratch(), nebula.scratch()
    nebula.write(home, { ["nebula.conf.lua"] = ("return { blobs = 'file:%s' }"):format(blobs) })
  end)

  lazy_teardown(function() storage:close() end)

  before_each(function()
    storage.db:exec "TRUNCATE workflow_jobs, executions, workflows CASCADE"
    for version = 1, 2 do
      storage.db:exec([[
        INSERT INTO workflows (id, name, version, definition, status, created_at, updated_at)
        VALUES ($1, 'inventory', $2, '{}', 'active', now(), now())
      ]], core.crypto.uuid_v7(), version)
    end
    local id = core.crypto.uuid_v7()
    storage.db:exec([[
      INSERT INTO executions (id, workflow_id, status, started_at, state, created_at, updated_at)
      SELECT $1, id, 'failed', now(), '{}', now(), now() FROM workflows WHERE version = 2
    ]], id)
    storage.db:exec([[
      INSERT INTO workflow_jobs (id, workflow_id, execution_id, scheduled_at, status, payload, error, created_at)
      VALUES ($1, $1, $1, now(), 'dead', '{"handler": "invoice"}', 'timeout at the bank', now())
    ]], core.crypto.uuid_v7())
    local given = { env = env, cwd = home, args = { "-e",
      ("blobs:upload('archive/2026.zst', 'x') blobs:upload('logs/%s', 'x')"):format(id) } }
    assert.equal(0, nebula.run(given).status)
  end)

  it("work one after another at the prompt", function()
    local prompt <close> = prompts.open(env, nil, home)
    for _, statement in ipairs(statements()) do
      prompt:type((statement:gsub("\n", "\r") .. "\r"))
      prompt:expect(answer_to(statement))
      prompt:expect(prompt.prompt)
    end
    prompt:line("_error == nil", "true")
  end)

  it("work through -e", function()
    for _, statement in ipairs(statements()) do
      local result = nebula.run { args = { "-e", statement }, env = env, cwd = home }
      assert.equal(0, result.status, statement .. "\n" .. result.stderr)
      assert.truthy(result.stdout:find(answer_to(statement), 1, true), statement .. "\n" .. result.stdout)
    end
  end)
end)
