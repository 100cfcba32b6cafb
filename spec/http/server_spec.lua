-- nebula.httpd: requests, answers, and what a client sees when there is none.
local httpd = require "nebula.httpd"
local child = require "spec.support.child"
local nebula = require "nebula"
local program = require "spec.support.nebula"

describe("nebula.httpd", function()
  local server, url

  before_each(function()
    server = httpd.listen { max_body = 1000 }
    url = ("http://127.0.0.1:%d"):format(server:port())
  end)
  after_each(function() server:close() end)

  -- Sends requests while each is answered by fn, and returns the first's answer.
  local function answered(fn, options, count)
    local task = nebula.task.spawn(function()
      for _ = 1, count or 1 do fn(server:accept()) end
    end)
    options.url = url .. (options.url or "/")
    options.deadline = 60
    local answer = nebula.http.request(options)
    task:join()
    return answer
  end

  it("gives method, path, headers and body, and sends status, headers and body", function()
    local seen
    local answer = answered(function(request)
      seen = { request.method, request.path, request.headers["x-a"], request.body }
      request:answer { status = 201, headers = { ["X-B"] = "c" }, body = "data\0more" }
    end, { url = "/p?q=1", method = "PUT", headers = { ["X-A"] = "b" }, body = "sent\0too" })
    assert.same({ "PUT", "/p", "b", "sent\0too" }, seen)
    assert.equal(201, answer.status)
    assert.equal("c", answer.headers["x-b"])
    assert.equal("data\0more", answer.body)
  end)

  it("answers many at once, in whatever order", function()
    local requests = {}
    local task = nebula.task.spawn(function()
      for i = 1, 20 do requests[i] = server:accept() end
      for i = 20, 1, -1 do requests[i]:answer { body = requests[i].path } end
    end)
    local paths = {}
    for i = 1, 20 do paths[i] = "/" .. i end
    local bodies = nebula.task.map(paths, function(path)
      return nebula.http.request({ url = url .. path, deadline = 60 }).body
    end, { concurrency = 20 })
    task:join()
    bodies.n = nil
    assert.same(paths, bodies)
  end)

  it("answers for a script that does not: 500 where the request is let go, 503 at the end", function()
    local answer = answered(function(request) local _ <close> = request end, {})
    assert.equal(500, answer.status)
    local held
    local task = nebula.task.spawn(function() held = server:accept() end)
    local client = nebula.task.spawn(nebula.http.request, { url = url, deadline = 60 })
    task:join()
    server:close()
    assert.equal(503, client:join().status)
    held:answer { body = "too late" }
    assert.matches("answered already", select(2, nebula.try(held.answer, held, {})).message)
  end)

  it("refuses a body that is too long, headers that are none, an address that is taken", function()
    assert.equal(413, nebula.http.request({ url = url, body = ("x"):rep(2000), deadline = 60 }).status)
    local _, err
    answered(function(request)
      err = select(2, nebula.try(request.answer, request, { headers = { ["a\nb"] = "c" } }))
      request:answer {}
    end, {})
    assert.equal("validation", err.kind)
    _, err = nebula.try(httpd.listen, { port = server:port() })
    assert.equal("io", err.kind)
    assert.matches("Address already in use", err.message)
    _, err = nebula.try(httpd.listen, { host = "example.org" })
    assert.matches("not a numeric address", err.message)
  end)

  it("ends also where a request has come that it has not read", function()
    local turned, sent = program.scratch() .. "/turned", program.scratch() .. "/sent"
    local serving = program.spawn { stdout = "pipe", stderr = "pipe", args = { "-e", ([[
      local server = require("nebula.httpd").listen {}
      print(server:port())
      io.stdout:flush()
      server:accept():answer { body = "first\n" }
      while not nebula.fs.exists %q do nebula.task.sleep(0.001) end
      for _ = 1, 100 do nebula.task.sleep(0) end -- turns of the loop, after which the server has nothing to do
      print "the loop stands still"
      io.stdout:flush()
      repeat until io.open %q -- in which nothing turns
      server:close()
      print "closed"]]):format(turned, sent) } }
    local client = child.spawn { stdin = "pipe", stdout = "pipe", file = "bash", args = { "-c", ([[
      exec 3<>/dev/tcp/127.0.0.1/%d
      ask() { printf 'GET / HTTP/1.1\r\nHost: here\r\n\r\n' | cat >&3; } # in one write
      ask; sed -un '/first/q' <&3; echo answered; read; ask; echo sent; cat <&3]])
      :format(serving:read():match "%d+") } }
    assert.equal("answered\n", client:read())
    nebula.fs.write(turned, "")
    assert.equal("the loop stands still\n", serving:read())
    client:write "ask\n"
    assert.equal("sent\n", client:read())
    nebula.fs.write(sent, "")
    local said, complained = serving:read_all()
    assert.equal("closed\n", said, complained)
    assert.equal(0, serving:wait(60).status)
    client:kill()
    client:wait()
  end)

  it("outlives clients that go away, and a task that stops waiting", function()
    local waiting = nebula.task.spawn(server.accept, server)
    nebula.task.sleep(0)
    waiting:cancel()
    local client = nebula.task.spawn(nebula.http.request, { url = url, deadline = 60 })
    local request = server:accept()
    client:cancel()
    nebula.try(client.join, client)
    request:answer { body = "nobody listens" }
    assert.equal("ok", answered(function(next) next:answer { body = "ok" } end, {}).body)
  end)
end)
