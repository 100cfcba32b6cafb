-- A policy's file that is edited while a worker uses it.
local core = require "nebula"
local child = require "spec.support.child"
local nebula = require "spec.support.nebula"
local postgres = require "spec.support.postgres"
local storages = require "nebula.storage"
local Watched = require "nebula.policy.watched"

local LONG = 60 -- seconds that nothing here should take
local EDITS = os.getenv "NEBULA_SPEC_LONG" == "1" and 1000 or 300

describe("a policy's file that is edited", function()
  local project

  before_each(function() project = nebula.scratch() .. "/policies" end)

  local function write(name, text) nebula.write(project, { [name .. ".lua"] = text }) end

  local GOOD = [[return { claim = function() return { order = { "%s" }, limit = %d } end }]]

  it("is read again at the next look, and so are the policies it loads", function()
    write("base", "return { summary = 'one' }")
    write("mine", "return { summary = policy('base').summary }")
    local watched = Watched.new(project .. "/mine.lua")
    assert.is_nil(watched:look())
    write("base", "return { summary = 'two' }")
    assert.equal("two", watched:look().summary)
    assert.is_nil(watched:look())
    write("mine", "return { summary = 'own' }")
    assert.equal("own", watched:look().summary)
  end)

  it("is refused where it is broken, and works on as it was until it is mended", function()
    write("mine", GOOD:format("priority", 1))
    local watched = Watched.new(project .. "/mine.lua")
    for _, broken in ipairs { "", "return {", "return { claim = 7 }", GOOD:format("payload", 1), "error 'x'" } do
      write("mine", broken)
      assert.is_nil(watched:look())
      assert.equal(1, watched.policy:plan(5).limit)
    end
    core.fs.remove(project .. "/mine.lua")
    assert.is_nil(watched:look())
    write("mine", GOOD:format("priority", 3))
    assert.equal(3, watched:look():plan(5).limit)
  end)

  -- A worker of the program with that policy, on a fresh database.
  local function working(log_level)
    local url = postgres.database()
    local storage = storages.with_pool_config(url, { max_size = 4 })
    storage:run_migrations { log = function() end }
    nebula.write(project, { ["handlers/fail.lua"] = "return function() error 'no' end" })
    local log = project .. "/log"
    local process = nebula.spawn {
      args = { "worker", "--policy", project .. "/mine.lua", "--handlers", project .. "/handlers", "--poll", "0.01" },
      cwd = project, env = { DATABASE_URL = url, NEBULA_LOG = log_level }, stdout = log, stderr = "stdout",
    }
    return setmetatable({ storage = storage, process = process, log = log }, { __close = function()
      process:kill(15)
      process:wait()
      storage:close()
    end })
  end

  it("is refused by a worker with file and line in its log", function()
    write("mine", GOOD:format("priority", 1))
    local worker <close> = working "info"
    local function logged(text) return (child.read_file(worker.log) or ""):find(text) ~= nil end
    child.await("the start", LONG, function() return logged "policy in force" end, worker.process)
    write("mine", "return {\n  claim = = }")
    child.await("the refusal", LONG, function() return logged "was refused.*mine%.lua:2:" end, worker.process)
  end)

  it("is whole or not at all, however often it is rewritten under load", function()
    -- Each version names itself in each of its parts; a mixture would not match.
    local function version(n)
      local word = ("%06d"):format(n)
      return ("local first = '%s'\nreturn { claim = function() return { limit = %d } end,\nretry = function() "
        .. "return 'dead', first .. ':%s' end, summary = '%s' }"):format(word, n % 7 + 1, word, word)
    end
    local function rewrite(text)
      local file <close> = assert(io.open(project .. "/mine.lua", "wb"))
      file:write(text)
    end
    write("mine", version(0))
    local worker <close> = working "off"
    local db = worker.storage.db
    worker.storage:push_job { payload = { handler = "fail" } }
    child.await("the start, which refuses half a file", LONG, function()
      return db:value "SELECT count(*) FROM workflow_jobs WHERE status = 'dead'" == 1
    end, worker.process)
    for n = 1, EDITS do
      if n % 5 == 0 then rewrite(version(n):sub(1, n % 80)) end -- an editor that writes in pieces
      rewrite(version(n))
      local list = {}
      for i = 1, 4 do list[i] = { payload = { handler = "fail" } } end
      worker.storage:push_jobs(list)
    end
    child.await("every job", LONG, function()
      return db:value "SELECT count(*) FROM workflow_jobs WHERE status = 'dead'" == EDITS * 4 + 1
    end, worker.process)
    local seen = db:one [[
      SELECT count(*) FILTER (WHERE error !~ '^(\d{6}):\1$') AS mixed,
        count(DISTINCT error) AS versions
      FROM workflow_jobs
    ]]
    assert.equal(0, seen.mixed)
    assert.is_true(seen.versions > 1)
    child.await("the last version", LONG, function()
      worker.storage:push_job { payload = { handler = "fail" } }
      return db:value("SELECT count(*) FROM workflow_jobs WHERE error LIKE $1", ("%%:%06d"):format(EDITS)) > 0
    end, worker.process)
  end)
end)
