-- remote_credentials_spec.lua: keys that a service gives for a while: a web identity at STS, a
-- container's endpoint, a machine's metadata service. The services are played by the fault proxy;
-- each host is a process of its own, and uses the keys against a real S3 server.
local nebula = require "nebula"
local host = require "spec.support.nebula"
local http_proxy = require "spec.support.http_proxy"
local server = require "spec.support.s3"

local service, bucket

setup(function()
  service = http_proxy.start()
  bucket = server.bucket()
end)

teardown(function() service:close() end)

local function from_now(seconds) return os.date("!%Y-%m-%dT%H:%M:%SZ", os.time() + seconds) end

local function keys_json(expires, changes)
  local keys = {
    Code = "Success", AccessKeyId = server.access_key_id, SecretAccessKey = server.secret_access_key,
    Expiration = from_now(expires),
  }
  for name, value in pairs(changes or {}) do keys[name] = value end
  return nebula.json.encode(keys)
end

local function keys_xml(expires)
  return ("<AssumeRoleWithWebIdentityResponse xmlns='https://sts.amazonaws.com/doc/2011-06-15/'>"
    .. "<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s"
    .. "</SecretAccessKey><Expiration>%s</Expiration></Credentials></AssumeRoleWithWebIdentityResult>"
    .. "</AssumeRoleWithWebIdentityResponse>"):format(server.access_key_id, server.secret_access_key, from_now(expires))
end

-- What a host with this environment says; its code knows `bucket`.
local function say(env, code, endpoint)
  local where = host.scratch()
  host.write(where, {
    ["token"] = "the web identity's token\n",
    ["config"] = ("[profile web]\nrole_arn = arn:aws:iam::1:role/r\n"
      .. "web_identity_token_file = %s/token\n"):format(where),
    ["ask.lua"] = ([[
      local nebula = require "nebula"
      local bucket = nebula.s3.connect { endpoint = %q, bucket = %q }
      local ok, err = nebula.try(function() %s end)
      if err then print(err.kind .. ": " .. err.message) end
    ]]):format(endpoint or server.endpoint(), bucket, code or "print(bucket:exists 'absent')"),
  })
  local full = { HOME = where, AWS_CONFIG_FILE = where .. "/config" }
  for name, value in pairs(env) do full[name] = value:gsub("@", where) end
  local ran = host.run { args = { where .. "/ask.lua" }, env = full }
  assert.equal(0, ran.status, ran.stderr)
  return ran.stdout
end

local WEB = { AWS_WEB_IDENTITY_TOKEN_FILE = "@/token", AWS_ROLE_ARN = "arn:aws:iam::1:role/r" }

local function web(changes)
  local env = { AWS_ENDPOINT_URL_STS = service.url }
  for name, value in pairs(WEB) do env[name] = value end
  for name, value in pairs(changes or {}) do env[name] = value end
  return env
end

describe("a web identity", function()
  it("is exchanged for keys at STS", function()
    service:rules { { ["do"] = "answer", body = keys_xml(3600) } }
    assert.equal("false\n", say(web { AWS_ROLE_SESSION_NAME = "here" }))
    local log = service:log()
    assert.equal(1, #log)
    assert.equal("POST", log[1].method)
    assert.equal("Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr"
      .. "&RoleSessionName=here&WebIdentityToken=the%20web%20identity%27s%20token", log[1].body)
  end)

  it("may stand in a profile", function()
    service:rules { { ["do"] = "answer", body = keys_xml(3600) } }
    assert.equal("false\n", say { AWS_PROFILE = "web", AWS_ENDPOINT_URL_STS = service.url })
  end)

  it("is exchanged again after a failure of the service", function()
    service:rules { { ["do"] = "answer", status = 503, times = 2 }, { ["do"] = "answer", body = keys_xml(3600) } }
    assert.equal("false\n", say(web()))
    assert.equal(3, #service:log())
  end)

  it("that is refused is a matter of configuration, and no secret is told", function()
    service:rules {
      { ["do"] = "answer", status = 400, body = "<ErrorResponse><Error><Code>InvalidIdentityToken</Code>"
        .. "<Message>no: the web identity's token</Message></Error></ErrorResponse>" },
    }
    assert.equal("config: STS gave no credentials: status 400 InvalidIdentityToken\n", say(web()))
    assert.equal("config: AWS_WEB_IDENTITY_TOKEN_FILE is set, but AWS_ROLE_ARN is not: name the role\n",
      say(web { AWS_ROLE_ARN = "" }))
    assert.truthy(say(web { AWS_WEB_IDENTITY_TOKEN_FILE = "@/none" }):find("@?token file .*/none cannot be read"))
  end)
end)

describe("a container's endpoint", function()
  it("is asked with its authorization", function()
    service:rules { { path = "/v2/credentials", ["do"] = "answer", body = keys_json(3600) } }
    assert.equal("false\n", say {
      AWS_CONTAINER_CREDENTIALS_FULL_URI = service.url .. "/v2/credentials",
      AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE = "@/token",
    })
    assert.equal("the web identity's token", service:log()[1].headers.authorization)
  end)

  it("is not asked in the clear on another machine", function()
    assert.truthy(say { AWS_CONTAINER_CREDENTIALS_FULL_URI = "http://192.0.2.1/x" }
      :find("config: AWS_CONTAINER_CREDENTIALS_FULL_URI must be https", 1, true))
  end)

  it("that answers nonsense says so", function()
    for _, body in ipairs { "", "no JSON", "[]", '{"AccessKeyId":7}', ('{"a":'):rep(100) } do
      service:rules { { ["do"] = "answer", body = body } }
      assert.truthy(say { AWS_CONTAINER_CREDENTIALS_FULL_URI = service.url .. "/" }
        :find("config: the container's credentials endpoint gave no credentials: its answer has no keys", 1, true))
    end
  end)
end)

describe("the metadata service", function()
  local function machine(changes)
    local env = { AWS_EC2_METADATA_DISABLED = "false", AWS_EC2_METADATA_SERVICE_ENDPOINT = service.url .. "/" }
    for name, value in pairs(changes or {}) do env[name] = value end
    return env
  end

  local function play(...)
    local rules = {
      { method = "PUT", path = "/latest/api/token", ["do"] = "answer", body = "a session" },
      { path = "/security-credentials/a%20role", ["do"] = "answer", body = keys_json(...) },
      { path = "/security-credentials/", ["do"] = "answer", body = "a role\n" },
    }
    service:rules(rules)
  end

  it("gives the keys of the machine's role for a session", function()
    play(3600)
    assert.equal("false\n", say(machine()))
    local log = service:log()
    assert.equal("21600", log[1].headers["x-aws-ec2-metadata-token-ttl-seconds"])
    assert.equal("a session", log[2].headers["x-aws-ec2-metadata-token"])
    assert.equal("a session", log[3].headers["x-aws-ec2-metadata-token"])
    assert.equal(3, #log)
  end)

  it("is asked once for all that wait", function()
    play(3600)
    assert.equal("nil\n", say(machine(), [[
      print(nebula.task.map({ 1, 2, 3, 4 }, function() return bucket:exists "absent" end)[5])
    ]]))
    assert.equal(3, #service:log())
  end)

  it("is asked again before the keys expire, while requests go on", function()
    play(4)
    assert.equal("true\n", say(machine(), ([[
      local count, last = 0, nebula.time.monotonic() + 60
      repeat
        bucket:exists "absent"
        local log = nebula.http.request { url = "%s/_log" }.body
        count = select(2, log:gsub("x%%-at:", ""))
      until count >= 6 or nebula.time.monotonic() > last
      print(count >= 6)
    ]]):format(service.url)))
  end)

  it("gives the keys of a presigned URL, too", function()
    play(3600)
    assert.equal("200 403\n", say(machine(), [[
      local put = bucket:presign("presigned", { method = "PUT" })
      local answers = {}
      for i, url in ipairs { put, (put:gsub(".$", function(last) return last == "a" and "b" or "a" end)) } do
        answers[i] = nebula.http.request { method = "PUT", url = url, body = "x" }.status
      end
      print(table.concat(answers, " "))
    ]]))
  end)

  it("may have a clock of its own: keys that seem to have expired are tried", function()
    play(-3600)
    assert.equal("false\n", say(machine()))
    assert.equal(3, #service:log())
  end)

  it("is asked once more when a server calls the keys expired", function()
    local expired <close> = http_proxy.start(server.endpoint())
    expired:rules { { times = 1, ["do"] = "answer", status = 400, body = "<Error><Code>ExpiredToken</Code></Error>" } }
    play(3600)
    assert.equal("nil\n", say(machine(), "print((bucket:get 'absent'))", expired.url))
    assert.equal(2, #expired:log())
    assert.equal(6, #service:log())
  end)

  it("is asked once more also where the server's answer has no text", function()
    local expired <close> = http_proxy.start(server.endpoint())
    expired:rules { { times = 2, ["do"] = "answer", status = 400, body = "<Error><Code>ExpiredToken</Code></Error>" } }
    play(3600)
    assert.equal("false\n", say(machine(), "print(bucket:exists 'absent')", expired.url))
    assert.equal("HEAD", expired:log()[1].method)
    assert.equal(6, #service:log())
  end)

  it("that has no role leaves the chain without keys", function()
    service:rules { { ["do"] = "answer", status = 404 } }
    local said = say(machine())
    assert.truthy(said:find("^config: no S3 credentials: set S3_ACCESS_KEY_ID"), said)
    assert.truthy(said:find("(the instance metadata service gave no credentials: status 404)", 1, true), said)
  end)
end)
