-- The built-in handler `http`: jobs worked by whoever answers at a URL.
local httpd = require "nebula.httpd"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local program = require "spec.support.nebula"
local storages = require "nebula.storage"

describe("the handler http", function()
  local storage, url, server, endpoint, directory

  setup(function()
    url = postgres.database()
    storage = storages.with_pool_config(url, { max_size = 4 })
    storage:run_migrations { log = function() end }
    directory = program.scratch()
    program.write(directory, { ["nebula.conf.lua"] = "return {}" })
  end)
  teardown(function() storage:close() end)
  before_each(function()
    storage.db:exec "TRUNCATE workflow_jobs"
    server = httpd.listen {}
    endpoint = ("http://127.0.0.1:%d"):format(server:port())
  end)
  after_each(function() server:close() end)

  local function push(fields)
    fields.handler = "http"
    return storage:push_job({ payload = fields, max_retries = 100 }).id
  end

  -- Works what is due, each request answered by the next of the answers; returns the requests.
  local function work(answers, secret)
    local requests = {}
    local task = nebula.task.spawn(function()
      for i, answer in ipairs(answers) do
        local request = server:accept()
        requests[i] = { method = request.method, path = request.path, headers = request.headers, body = request.body }
        request:answer(answer)
      end
    end)
    local out = program.run { args = { "worker", "--drain" }, cwd = directory,
      env = { DATABASE_URL = url, NEBULA_WEBHOOK_SECRET = secret } }
    assert.equal(0, out.status)
    task:cancel()
    nebula.try(task.join, task)
    if secret then assert.is_nil(out.stderr:find(secret, 1, true)) end
    return requests
  end

  it("posts the body, signed as Standard Webhooks says, and keeps the answer as the result", function()
    local keys = { "first secret key", "second secret" }
    local id = push {
      url = endpoint .. "/jobs", body = { invoice_id = 9007199254740993 }, headers = { ["X-Tenant"] = "a" },
    }
    local answer = { status = 202, headers = { ["Content-Type"] = "application/json" }, body = '{"done":true}' }
    local request = work({ answer },
      ("whsec_%s whsec_%s"):format(nebula.crypto.base64(keys[1]), nebula.crypto.base64(keys[2])))[1]
    assert.equal("POST", request.method)
    assert.equal("/jobs", request.path)
    assert.equal('{"invoice_id":9007199254740993}', request.body)
    assert.equal("application/json", request.headers["content-type"])
    assert.equal("a", request.headers["x-tenant"])
    assert.equal("1", request.headers["nebula-attempt"])
    assert.equal(id, request.headers["webhook-id"])
    local stamp = request.headers["webhook-timestamp"]
    assert.is_true(math.abs(tonumber(stamp) - nebula.time.now()) < 120)
    local expected = {}
    for i, key in ipairs(keys) do
      expected[i] = "v1," .. nebula.crypto.base64(nebula.crypto.hmac(key,
        ("%s.%s.%s"):format(id, stamp, request.body), { raw = true }))
    end
    assert.equal(table.concat(expected, " "), request.headers["webhook-signature"])
    local row = storage:get_job(id)
    assert.equal("completed", row.status)
    assert.equal(202, row.result.status)
    assert.is_true(row.result.body.done)
  end)

  it("signs as the specification's own example does", function()
    local secret = nebula.crypto.unbase64 "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    local text = 'msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}'
    assert.equal("g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
      nebula.crypto.base64(nebula.crypto.hmac(secret, text, { raw = true })))
  end)

  it("fails where the answer is no success, and comes again when Retry-After says", function()
    local seconds, date = push { url = endpoint }, push { url = endpoint }
    local later = os.date("!%a, %d %b %Y %H:%M:%S GMT", os.time() + 7200)
    work {
      { status = 503, headers = { ["Retry-After"] = "3600" }, body = "busy" },
      { status = 429, headers = { ["Retry-After"] = later } },
    }
    local waits = {}
    for _, id in ipairs { seconds, date } do
      local row = storage:get_job(id)
      assert.equal("pending", row.status)
      assert.equal("io", row.failures[1].kind)
      waits[#waits + 1] = nebula.time.parse(row.scheduled_at) - nebula.time.now()
    end
    table.sort(waits)
    assert.is_true(waits[1] > 3400 and waits[1] <= 3600)
    assert.is_true(waits[2] > 7000 and waits[2] <= 7200)
  end)

  it("names what is wrong with a job, and keeps it", function()
    local wrong = {
      [push { url = "ftp://nowhere/" }] = "http",
      [push {}] = "payload.url wants text",
      [push { url = endpoint, timeot = 1 }] = "did you mean timeout",
      [push { url = endpoint, timeout = "soon" }] = "wants a duration",
      [push { url = "http://127.0.0.1:1/" }] = "127.0.0.1:1",
    }
    work {}
    for id, message in pairs(wrong) do
      local row = storage:get_job(id)
      assert.equal("pending", row.status)
      assert.truthy(row.error:find(message, 1, true), row.error)
    end
  end)

  it("ends at its timeout", function()
    local id = push { url = endpoint, timeout = 1 }
    local held = nebula.task.spawn(server.accept, server)
    work {}
    held:cancel() -- where a busy machine has not even asked by then
    local request = nebula.try(held.join, held)
    if request then request:answer {} end
    assert.equal("timeout", storage:get_job(id).failures[1].kind)
  end)
end)
