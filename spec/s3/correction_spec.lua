-- correction_spec.lua: what one more request sets right is set right for all that are under way, and for
-- those that follow.
local directory = require "spec.support.directory"
local host = require "spec.support.nebula"
local http_proxy = require "spec.support.http_proxy"
local nebula = require "nebula"
local server = require "spec.support.s3"

local MANY = 16

describe("a machine's clock that is wrong", function()
  local CODE = [[
    local nebula = require "nebula"
    local bucket = nebula.s3.connect { endpoint = %q, bucket = %q, access_key_id = %q, secret_access_key = %q }
    local keys = {}
    for i = 1, %d do keys[i] = "key" .. i end
    nebula.task.map(keys, function(key) bucket:put(key, key) end, { concurrency = #keys })
    print(#bucket:get "key1", bucket:exists "key2")
  ]]

  for _, skew in ipairs { 1200, -1200 } do
    it(("by %d s is corrected"):format(skew), function()
      local first = os.getenv "NEBULA_SPEC_PRELOAD" -- the sanitizer's
      local preload = (first and first .. ":" or "") .. nebula.fs.realpath(directory.build .. "/skewed_clock.so")
      local ran = host.run {
        args = { "-e", CODE:format(server.endpoint(), server.bucket(), server.access_key_id, server.secret_access_key,
          MANY) },
        env = { LD_PRELOAD = preload, NEBULA_SPEC_SKEW = tostring(skew) },
      }
      assert.equal("4\ttrue\n", ran.stdout, ran.stderr)
    end)
  end
end)

describe("a region that is wrong", function()
  local proxy, options

  setup(function()
    proxy = http_proxy.start()
    options = server.options "artifacts"
    options.endpoint = proxy.url
  end)

  teardown(function() proxy:close() end)

  it("is corrected once it is told", function()
    local keys, rules = {}, {}
    for i = 1, MANY do
      keys[i] = ("key%02d"):format(i)
      rules[i] = { path = keys[i], times = 1, ["do"] = "answer", status = 400,
        body = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-north-1</Region></Error>" }
    end
    rules[#rules + 1] = { ["do"] = "answer", body = "data" }
    proxy:rules(rules)
    local bucket = nebula.s3.connect(options)
    local all = nebula.task.map(keys, function(key) return (bucket:get(key)) end, { concurrency = MANY })
    for i = 1, MANY do assert.equal("data", all[i]) end
    local log = proxy:log()
    assert.equal(2 * MANY, #log)
    local right = 0
    for _, entry in ipairs(log) do
      if entry.headers.authorization:find("/eu-north-1/s3/", 1, true) then right = right + 1 end
    end
    assert.equal(MANY, right)
  end)

  it("is corrected in the name of the endpoint's host, too", function()
    proxy:rules {
      { times = 1, ["do"] = "answer", status = 301, headers = { "x-amz-bucket-region: eu-north-1" } },
      { ["do"] = "answer", body = "data" },
    }
    local named = server.options "artifacts"
    named.endpoint, named.proxy, named.path_style = "http://s3.us-east-1.example.test", proxy.url, false
    local bucket = nebula.s3.connect(named)
    assert.equal("data", (bucket:get "x"))
    local log = proxy:log()
    assert.equal("http://artifacts.s3.us-east-1.example.test/x", log[1].target)
    assert.equal("http://artifacts.s3.eu-north-1.example.test/x", log[2].target)
    assert.equal("http://artifacts.s3.eu-north-1.example.test/x", bucket:url "x")
  end)

  it("is corrected in the host of what waits to be tried again, too", function()
    proxy:rules {
      { path = "waits", times = 1, ["do"] = "answer", status = 503, headers = { "Retry-After: 4" } },
      { path = "news", times = 1, ["do"] = "answer", status = 301, headers = { "x-amz-bucket-region: eu-north-1" } },
      { ["do"] = "answer", body = "data" },
    }
    local named = server.options "artifacts"
    named.endpoint, named.proxy, named.path_style = "http://s3.us-east-1.example.test", proxy.url, false
    local bucket = nebula.s3.connect(named)
    local waits = nebula.task.spawn(function() return (bucket:get "waits") end)
    nebula.task.deadline(60, function() while #proxy:log() == 0 do nebula.task.sleep(0.02) end end)
    assert.equal("data", (bucket:get "news"))
    assert.equal("data", waits:join())
    assert.equal("http://artifacts.s3.eu-north-1.example.test/waits", proxy:log()[4].target)
  end)

  it("leaves the host as it is where only the signature's region was refused", function()
    proxy:rules {
      { times = 1, ["do"] = "answer", status = 400,
        body = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>default</Region></Error>" },
      { ["do"] = "answer", body = "data" },
    }
    local named = server.options "artifacts"
    named.endpoint, named.proxy, named.path_style = "http://s3.us-east-1.example.test", proxy.url, false
    assert.equal("data", (nebula.s3.connect(named):get "x"))
    assert.equal("http://artifacts.s3.us-east-1.example.test/x", proxy:log()[2].target)
  end)
end)
