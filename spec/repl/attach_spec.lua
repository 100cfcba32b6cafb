-- `nebula attach`: the prompt inside of a running worker, over its unix socket.
local child = require "spec.support.child"
local core = require "nebula"
local frames = require "repl.frames"
local nebula = require "spec.support.nebula"
local postgres = require "spec.support.postgres"
local prompts = require "spec.repl.prompt"
local socket = require "nebula.socket"
local system = require "nebula.system"

-- What curl ends with where the worker's queue of connections is full, and where it closed the
-- connection: before the request was sent (55, or 56 once it was), or before there was an answer (52).
local COULD_NOT_CONNECT = 7
local CLOSED_UNANSWERED = { [52] = true, [55] = true, [56] = true }

describe("nebula attach", function()
  local env, db, runtime, worker, log

  lazy_setup(function()
    runtime = nebula.scratch()
    env = { DATABASE_URL = postgres.database(), XDG_RUNTIME_DIR = runtime, TMPDIR = runtime } -- no other worker's
    db = core.pg.connect { url = env.DATABASE_URL }
    local storage = require("nebula.storage").new { database_url = env.DATABASE_URL }
    storage:run_migrations()
    storage:close()
    worker = nebula.spawn { args = { "worker" }, env = env, cwd = nebula.scratch(), stderr = "pipe" }
    log = ""
    core.task.spawn(function()
      for chunk in function() return worker:read "stderr" end do log = log .. chunk end
    end)
    child.await("the worker's socket", 60, function()
      return system.stat(("%s/nebula/%d.sock"):format(runtime, worker.pid)) and log:find("worker started", 1, true)
    end, worker)
  end)

  lazy_teardown(function()
    worker:kill()
    worker:wait()
    db:close()
  end)

  local function attach(args) return prompts.open(env, { "attach", table.unpack(args or {}) }) end

  local function sleeping(seconds)
    return db:value([[SELECT count(*) FROM pg_stat_activity
      WHERE datname = current_database() AND state = 'active' AND query = $1]], ("SELECT pg_sleep(%d)"):format(seconds))
  end

  it("runs lines in the worker, and shows what they return and print there", function()
    local prompt <close> = attach()
    assert.equal(("nebula[%d] "):format(worker.pid), prompt.prompt:match "^nebula%[%d+%] ")
    prompt:line("nebula.system.ids().pid", tostring(worker.pid))
    prompt:line("for i = 1, 2 do\rprint('line ' .. i)\rend", "line 1\r\nline 2\r\n")
    prompt:line("storage.db:value 'SELECT 41 + 1'", "42")
    prompt:line("_ + 1", "43")
    prompt:line(".tasks", "waits for")
    prompt:line("queue.stats()", "scheduled = 0")
    prompt:line("help(storage.get_job)", "A job with all its columns, or nil.")
    prompt:line("error 'over there'", "over there")
    prompt:line("_error.message", "over there")
    prompt:line("x = = 1", "unexpected symbol")
    prompt:line(".read-only", "the worker's own")
    prompt:line("storage.db:value 'SELECT 40 + 4'", "44")
    prompt:type "storage.li\tjo\t"
    prompt:expect "list_jobs("
    prompt:type "\21.quit\r"
    assert.equal(0, prompt.process:wait(60).status)
    assert.falsy(log:find("line 1", 1, true))
  end)

  it("keeps its globals from the worker and from other prompts", function()
    local one <close> = attach()
    local other <close> = attach { tostring(worker.pid) }
    one:line("mine = 7", "")
    one:line("mine", "7")
    other:line("mine", "nil")
  end)

  it("interrupts a wait with Ctrl-C, also of a query at the server", function()
    local prompt <close> = attach()
    for _, line in ipairs { "task.sleep(1000)", "db:value 'SELECT pg_sleep(1000)'" } do
      prompt:type("print('be' .. 'gun') " .. line .. "\r")
      prompt:expect "begun\r\n"
      prompt:type "\3"
      prompt:expect "interrupted"
      prompt:expect(prompt.prompt)
    end
    child.await("the query to be gone", 60, function()
      return sleeping(1000) == 0
    end)
  end)

  it("ends a line that computes for longer than the limit", function()
    local prompt <close> = attach { "--limit", "1.5s" }
    prompt:line("while true do end", "1.5")
    prompt:line("1 + 1", "2")
  end)

  it("ends a line whose prompt is gone", function()
    do
      local prompt <close> = attach()
      prompt:type "db:value 'SELECT pg_sleep(999)'\r"
      child.await("the query", 60, function()
        return sleeping(999) == 1
      end)
    end
    child.await("the query to be gone", 60, function()
      return sleeping(999) == 0
    end)
  end)

  it("is for the worker's own user: directory 0700, and the peer's credentials are looked at", function()
    assert.equal(448, system.stat(runtime .. "/nebula").mode)
    local open = nebula.scratch()
    child.must { file = "mkdir", args = { "-m", "755", open .. "/nebula" } }
    local started = nebula.spawn { args = { "worker", "--drain" }, cwd = open, stderr = "pipe",
      env = { DATABASE_URL = env.DATABASE_URL, XDG_RUNTIME_DIR = open } }
    local _, said = started:read_all()
    assert.truthy(said:find("is not this user's alone", 1, true))
    if not child.is_root then return end
    -- Another user who gets as far as the socket is not answered.
    system.chmod(runtime .. "/nebula", 511)
    system.chmod(runtime, 511)
    local path = ("%s/nebula/%d.sock"):format(runtime, worker.pid)
    system.chmod(path, 511)
    local answer = child.await("a connection", 60, function()
      local tried = child.run { file = "curl", user = "postgres",
        args = { "-sS", "--max-time", "10", "--unix-socket", path, "http://worker/" } }
      return tried.status ~= COULD_NOT_CONNECT and tried
    end)
    system.chmod(runtime .. "/nebula", 448)
    assert.is_true(CLOSED_UNANSWERED[answer.status], ("%s: %s"):format(answer.status, answer.stderr))
    assert.equal("", answer.stdout)
  end)

  it("trusts no directory behind a link, and cuts no path off", function()
    local open = nebula.scratch()
    child.must { file = "mkdir", args = { "-m", "700", open .. "/own" } }
    child.must { file = "ln", args = { "-s", open .. "/own", open .. "/nebula" } }
    assert.is_true(frames.is_private(open .. "/own"))
    assert.is_false(frames.is_private(open .. "/nebula"))
    for _, call in ipairs { "listen", "connect" } do
      local _, err = core.try(socket[call], open .. "/" .. ("x"):rep(108))
      assert.equal("config", err.kind)
      assert.truthy(err.message:find("at most 107 bytes", 1, true))
    end
    for name in core.fs.list(open) do assert.is_nil(name:find "^x") end
  end)

  -- A line in the worker, without a prompt around it.
  local function begin(code)
    local peer = socket.connect(("%s/nebula/%d.sock"):format(runtime, worker.pid))
    frames.send(peer, "P", "1 " .. core.json.encode { code })
    frames.send(peer, "X", "2 ")
    return peer
  end

  it("makes a line wait whose prompt does not take what it prints", function()
    local peer <close> = begin "while true do print(('x'):rep(100000)) end" -- luacheck: ignore 211
    local prompt <close> = attach()
    prompt:line("repeat task.sleep(0.01); local held; for _, t in ipairs(task.list()) do "
      .. "held = held or t.waits_for == 'socket:flush' end until held; print('it wa' .. 'its')", "it waits")
    prompt:line("collectgarbage 'count' < 60000", "true")
  end)

  it("ends a line whose prompt says what is no frame", function()
    local peer <close> = begin "db:value 'SELECT pg_sleep(998)'"
    child.await("the query", 60, function() return sleeping(998) == 1 end)
    peer:write(("no frame"):rep(10))
    child.await("the query to be gone", 60, function() return sleeping(998) == 0 end)
    while peer:read() do end
  end)

  it("names what can be attached to, and says when nothing can", function()
    local answer = nebula.run { args = { "attach", "1" }, env = env }
    assert.equal(1, answer.status)
    assert.truthy(answer.stderr:find(tostring(worker.pid), 1, true))
    local nobody = nebula.scratch()
    answer = nebula.run { args = { "attach" }, env = { XDG_RUNTIME_DIR = nobody, TMPDIR = nobody } }
    assert.equal(1, answer.status)
    assert.truthy(answer.stderr:find("no worker of this user runs here", 1, true))
  end)

  it("says that the worker has ended", function()
    local short = nebula.spawn { args = { "worker" }, env = env, cwd = nebula.scratch(), stderr = "pipe" }
    core.task.spawn(function() short:read_all() end)
    local path = ("%s/nebula/%d.sock"):format(runtime, short.pid)
    child.await("its socket", 60, function() return system.stat(path) end, short)
    local prompt <close> = attach { tostring(short.pid) }
    prompt:line("1 + 1", "2")
    short:kill()
    short:wait()
    assert.is_nil((system.stat(path)))
    prompt:type "1 + 1\r"
    prompt:expect "the process has ended"
    assert.equal(1, prompt.process:wait(60).status)
  end)
end)
