-- nebula.process: child processes that are waited for like anything else.
local core = require "nebula"
local process = require "nebula.process"
local nebula = require "spec.support.nebula"
local system = require "nebula.system"

local function sh(script, options)
  local all = { file = "sh", args = { "-c", script } }
  for name, value in pairs(options or {}) do all[name] = value end
  return process.run(all)
end

describe("process.run", function()
  it("gives status, signal and both outputs", function()
    assert.same({ status = 3, stdout = "out", stderr = "err" }, sh "printf out; printf err >&2; exit 3")
    assert.equal(15, sh("kill -TERM $$").signal)
  end)

  it("passes arguments, environment, directory and standard input as they are", function()
    local answer = process.run { file = "sh",
      args = { "-c", 'printf "%s|" "$@" "$X"; pwd; cat', "sh", "a b", "$(c)", "" },
      env = { X = "ä\n\"'" }, cwd = "/usr", stdin = ("x"):rep(300000) }
    assert.equal("a b|$(c)||ä\n\"'|/usr\n" .. ("x"):rep(300000), answer.stdout)
  end)

  it("adds to the environment, takes out with false, or replaces it", function()
    assert.equal("yes /", sh("printf '%s %s' $A ${HOME:-/}", { env = { A = "yes", HOME = false } }).stdout)
    local alone = process.run { file = "/usr/bin/env", env = { ONLY = "this" }, clear_env = true }
    assert.equal("ONLY=this\n", alone.stdout)
  end)

  it("keeps two full outputs apart without a deadlock", function()
    local answer = sh "head -c 2000000 /dev/zero; head -c 2000000 /dev/zero >&2"
    assert.equal(2000000, #answer.stdout)
    assert.equal(2000000, #answer.stderr)
  end)

  it("joins standard error to standard output in their order", function()
    assert.equal("1\n2\n3\n", sh("echo 1; echo 2 >&2; echo 3", { stderr = "stdout" }).stdout)
  end)

  it("sends output to a file", function()
    local path = nebula.scratch() .. "/log"
    sh("echo 1; echo 2 >&2", { stdout = path, stderr = "stdout" })
    local file <close> = assert(io.open(path))
    assert.equal("1\n2\n", file:read "a")
  end)

  it("ends a program that takes too long or says too much", function()
    local _, err = core.try(sh, "exec sleep 1000", { timeout = 0.05 })
    assert.equal("timeout", err.kind)
    _, err = core.try(sh, "yes", { max_bytes = 100000 })
    assert.equal("limit", err.kind)
  end)

  it("takes its program along when it is cancelled", function()
    local path = nebula.scratch() .. "/pid"
    local task = core.task.spawn(sh, "echo $$ > " .. path .. "; exec sleep 1000")
    local pid
    core.task.deadline(60, function()
      repeat
        core.task.sleep(0.01)
        local file = io.open(path)
        pid = file and file:read "n"
        if file then file:close() end
      until pid
    end)
    task:cancel()
    core.try(task.join, task)
    core.task.deadline(60, function()
      while system.kill(pid, 0) do core.task.sleep(0.01) end
    end)
  end)

  it("names a program that is missing, and a wrong option", function()
    local _, err = core.try(process.run, { file = "no-such-program" })
    assert.equal("io", err.kind)
    assert.equal("ENOENT", err.code)
    assert.truthy(err.message:find("no-such-program", 1, true))
    _, err = core.try(process.run, { file = "true", arguments = {} })
    assert.equal("validation", err.kind)
    _, err = core.try(process.run, { file = "true", args = { "a\0b" } })
    assert.equal("validation", err.kind)
    _, err = core.try(process.run, { file = "true", stdout = "nowhere" })
    assert.truthy(err.message:find("stdout", 1, true))
  end)
end)

describe("process.spawn", function()
  it("reads and writes while the program runs", function()
    local cat = process.spawn { file = "cat", stdin = "pipe" }
    for i = 1, 3 do
      cat:write("line " .. i .. "\n")
      assert.equal("line " .. i .. "\n", cat:read())
    end
    cat:end_input()
    assert.is_nil(cat:read())
    assert.same({ status = 0 }, cat:wait())
    assert.is_false(cat:kill())
  end)

  it("waits no longer than told, from several tasks at once", function()
    local sleeper = process.spawn { file = "sleep", args = { 1000 } }
    assert.is_nil(sleeper:wait(0.01))
    local ends = core.task.map({ 1, 2, 3 }, function(i)
      if i == 3 then sleeper:kill "KILL" end
      return sleeper:wait(60).signal
    end)
    assert.same({ 9, 9, 9 }, table.move(ends, 1, 3, 1, {}))
  end)

  it("reads no further ahead than it must", function()
    local yes = process.spawn { file = "yes" }
    core.task.sleep(0.05)
    local total = 0
    for _ = 1, 20 do total = total + #yes:read() end
    assert.is_true(total > 0)
    yes:kill "KILL"
    yes:wait()
  end)

  it("gives a program a terminal", function()
    local answer = process.spawn { file = "sh", args = { "-c", "stty size; test -t 0 && : </dev/tty && echo terminal" },
      pty = { rows = 30, columns = 70 } }
    assert.equal("30 70\r\nterminal\r\n", (answer:read_all()))
    assert.equal(0, answer:wait().status)
  end)

  it("reaps what nobody holds", function()
    local pid = process.spawn({ file = "true" }).pid
    collectgarbage()
    core.task.deadline(60, function()
      while system.stat("/proc/" .. pid) do core.task.sleep(0.01) end
    end)
  end)
end)
