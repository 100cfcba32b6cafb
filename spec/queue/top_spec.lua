-- `nebula queue top`: one look, looks as JSON, and the live view with its keys.
local child = require "spec.support.child"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local program = require "spec.support.nebula"
local storages = require "nebula.storage"

describe("nebula queue top", function()
  local storage, url, directory

  setup(function()
    url = postgres.database()
    storage = storages.with_pool_config(url, { max_size = 4 })
    storage:run_migrations { log = function() end }
    directory = program.scratch()
    program.write(directory, {
      ["nebula.conf.lua"] = "return {}",
      ["handlers/forever.lua"] = "return function() require('nebula').task.sleep(600) end",
    })
    for i = 1, 3 do storage:push_job { payload = { handler = "nobody" }, lane = "lane " .. i, scheduled_at = 0 } end
    storage:push_job { payload = { handler = "nobody" }, lane = "evil \27[2J", delay = 0 }
    storage:pause_queue "lane 2"
  end)
  teardown(function() storage:close() end)

  local function run(...)
    return program.run { args = { "queue", "top", ... }, env = { DATABASE_URL = url }, cwd = directory }
  end

  it("shows counts, lanes, the policy and what is paused in one look", function()
    local out = run "--once"
    assert.equal(0, out.status)
    assert.matches("4 due  0 scheduled  0 leased  0 dead", out.stdout)
    assert.matches("policy priority    paused: lane 2", out.stdout)
    assert.matches("lane 1 +1 +0", out.stdout)
    assert.is_nil(out.stdout:find("\27[2J", 1, true))
    assert.matches("4 due", run().stdout) -- without a terminal, one look as well
  end)

  it("shows the workers, and gives each look as a JSON object", function()
    storage:push_job { payload = { handler = "forever" }, lane = "busy", priority = 9 }
    storage:pause_queue()
    storage:resume_queue()
    for i = 1, 3 do storage:pause_queue("lane " .. i) end
    storage:pause_queue "evil \27[2J"
    local worker = program.spawn { args = { "worker", "--concurrency", "3" }, env = { DATABASE_URL = url },
      cwd = directory, stdout = "null", stderr = "stdout" }
    local seen
    child.await("the worker's job", 60, function()
      seen = nebula.json.decode(run("--once", "--json").stdout)
      return seen.workers[1] and seen.workers[1].state.leased == 1
    end)
    assert.equal(3, seen.workers[1].state.concurrency)
    assert.equal("busy", seen.lanes[1].running == 1 and seen.lanes[1].lane or seen.lanes[#seen.lanes].lane)
    assert.matches("1/3", run("--once").stdout)
    worker:kill(15)
    worker:kill(2)
    worker:wait()
    assert.matches('"workers":%[%]', run("--once", "--json").stdout)
  end)

  it("redraws in a terminal, pauses and resumes at a key, and leaves the terminal as it was", function()
    local view = program.spawn { args = { "queue", "top", "--interval", "0.2" }, cwd = directory,
      env = { DATABASE_URL = url, TERM = "xterm", NO_COLOR = "1" }, pty = { rows = 30, columns = 100 } }
    local output, from = "", 1
    local reader = nebula.task.spawn(function()
      for chunk in function() return view:read() end do output = output .. chunk end
    end)
    local function expect(text)
      child.await(text, 60, function()
        local _, last = output:find(text, from, true)
        from = last and last + 1 or from
        return last
      end)
    end
    expect "\27[?1049h"
    expect "q quit"
    view:write "p"
    expect "Pause the whole queue? y/n"
    view:write "n"
    expect "q quit"
    view:write "p"
    expect "Pause the whole queue? y/n"
    view:write "y"
    expect "THE QUEUE IS PAUSED"
    assert.is_true(storage:queue_stats().paused)
    view:write "p"
    expect "Resume the queue? y/n"
    view:write "y"
    child.await("its end", 60, function() return not storage:queue_stats().paused end)
    view:write " "
    expect "held"
    view:write "\3"
    assert.equal(0, view:wait().status)
    reader:join()
    assert.equal("\27[?25h\27[?1049l", output:sub(-#"\27[?25h\27[?1049l"))
  end)
end)
