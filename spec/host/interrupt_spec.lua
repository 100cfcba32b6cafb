-- Ctrl-C, wherever the script is: it ends with 130, and what it holds is closed.
local nebula = require "spec.support.nebula"

-- `guard` prints "closed" when it is closed, after a wait; `busy` never returns.
local PRELUDE = [[
  local function closing(fn) return setmetatable({}, { __close = fn }) end
  local function ready() io.write "ready\n" io.flush() end
  local function busy() ready() while true do end end
  local guard <close> = closing(function() task.sleep(0) io.write "closed" end)
]]

local function interrupted(code)
  local process = nebula.spawn { args = { "-e", PRELUDE .. code } }
  local output = ""
  while not output:find "ready" do output = output .. assert(process:read(), "it ended too early: " .. output) end
  process:kill("INT")
  local ended = assert(process:wait(60), "it did not end")
  assert.equal(130, ended.status)
  assert.equal("ready\nclosed", output .. process:read_all())
end

describe("Ctrl-C", function()
  it("ends a loop", function() interrupted "busy()" end)

  it("ends a loop that swallows errors", function()
    interrupted "ready() while true do pcall(function() while true do end end) end"
  end)

  it("ends a recursion through tail calls on one line", function()
    interrupted "local function again() return again() end ready() again()"
  end)

  it("ends a loop of one line that holds <close> variables", function()
    interrupted [[
      local permits = task.semaphore(1)
      ready()
      while true do local permit <close> = permits:acquire() end]]
  end)

  it("ends a wait, and a wait in a pcall", function()
    interrupted "ready() task.sleep(1000)"
    interrupted "ready() pcall(task.sleep, 1000) print 'swallowed'"
  end)

  it("ends a loop, a wait and a suspended generator's consumer", function()
    interrupted "for _ in coroutine.wrap(busy) do end"
    interrupted "for _ in task.generator(function() ready() task.sleep(1000) end) do end"
    interrupted "for _ in task.generator(function() coroutine.yield(1) end) do busy() end"
  end)

  it("ends a loop in a <close> handler", function()
    interrupted "do local slow <close> = closing(busy) end"
  end)

  it("ends a loop in a sort's comparator", function()
    interrupted "table.sort({ 1, 2, 3 }, busy)"
  end)

  it("ends a loop in another task, and the main task that waits for it", function()
    interrupted "task.spawn(busy):join()"
    interrupted "task.scope(function(scope) scope:spawn(busy) end)"
  end)

  it("ends a deadline's loop before its time", function()
    interrupted "task.deadline(1000, busy)"
  end)

  it("ends tasks that wait for one that sleeps", function()
    interrupted [[
      local sleeper = task.spawn(task.sleep, 1000)
      task.map({ 1, 2, 3 }, function(i) if i == 3 then ready() end sleeper:join() end)]]
  end)
end)

describe("the end of a script", function()
  it("comes though clean-ups spawn tasks that spawn tasks", function()
    local answer = nebula.run {
      timeout = 60,
      args = { "-e", [[
        local function again()
          local _ <close> = setmetatable({}, { __close = function() task.spawn(again) end })
          task.sleep(1000)
        end
        task.spawn(again)
        task.yield()]] },
    }
    assert.equal(0, answer.status)
  end)

  it("has the status of an os.exit in a clean-up", function()
    local answer = nebula.run { args = { "-e", [[
      local _ <close> = setmetatable({}, { __close = function() os.exit(7, true) print "went on" end })
      os.exit(3, true)]] } }
    assert.equal(7, answer.status)
    assert.equal("", answer.stdout)
  end)

  it("closes what every task holds, from a generator of another task too", function()
    local answer = nebula.run { args = { "-e", [[
      local function closing(name)
        return setmetatable({}, { __close = function() task.sleep(0) print(name) end })
      end
      task.spawn(function()
        local _ <close> = closing "other"
        task.sleep(1000)
      end)
      task.spawn(function()
        local _ <close> = closing "exiting"
        for _ in task.generator(function()
          local _ <close> = closing "generator"
          task.yield()
          os.exit(5, true)
        end) do end
      end)
      local _ <close> = closing "main"
      task.sleep(1000)]] } }
    assert.equal(5, answer.status)
    local lines = {}
    for line in answer.stdout:gmatch "%w+" do lines[#lines + 1] = line end
    table.sort(lines)
    assert.same({ "exiting", "generator", "main", "other" }, lines)
  end)
end)
