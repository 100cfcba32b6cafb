-- credentials_spec.lua: where the keys come from when the script gives none; each in a process of its own.
local host = require "spec.support.nebula"
local server = require "spec.support.s3"

local script

-- What a host with this environment says about an object that is not there.
local function say(env, options)
  local where = host.scratch()
  host.write(where, {
    ["ask.lua"] = script:format(server.endpoint(), server.shared_bucket, options or ""),
    ["aws/credentials"] = ("[default]\naws_access_key_id = NOBODY\naws_secret_access_key = nothing\n\n# ours\n"
      .. "[spec]\naws_access_key_id=%s\naws_secret_access_key = %s\n"):format(
      server.access_key_id, server.secret_access_key),
    ["aws/config"] = ("[profile in-config]\nregion = x\naws_access_key_id = %s\naws_secret_access_key = %s\n"):format(
      server.access_key_id, server.secret_access_key),
  })
  local full = {
    HOME = where, AWS_SHARED_CREDENTIALS_FILE = where .. "/aws/credentials", AWS_CONFIG_FILE = where .. "/aws/config",
    AWS_ACCESS_KEY_ID = "", AWS_SECRET_ACCESS_KEY = "", AWS_SESSION_TOKEN = "", AWS_PROFILE = "",
  }
  for name, value in pairs(env) do full[name] = value end
  local ran = host.run { args = { where .. "/ask.lua" }, env = full }
  assert.equal(0, ran.status, ran.stderr)
  return ran.stdout
end

setup(function()
  server.shared_bucket = server.bucket()
  script = [[
    local nebula = require "nebula"
    local bucket = nebula.s3.connect { endpoint = %q, bucket = %q, %s }
    local answers = nebula.task.map({ 1, 2, 3 }, function()
      local found, err = nebula.try(bucket.exists, bucket, "absent")
      return err and (err.kind .. ": " .. err.message) or tostring(found)
    end)
    assert(answers[1] == answers[2] and answers[2] == answers[3])
    print(answers[1])
  ]]
end)

describe("credentials", function()
  it("come from the environment", function()
    assert.equal("false\n", say {
      AWS_ACCESS_KEY_ID = server.access_key_id, AWS_SECRET_ACCESS_KEY = server.secret_access_key,
    })
  end)

  it("come from a profile named in the environment", function()
    assert.equal("false\n", say { AWS_PROFILE = "spec" })
  end)

  it("come from a profile named by the script, before the environment", function()
    assert.equal("false\n", say({ AWS_ACCESS_KEY_ID = "NOBODY", AWS_SECRET_ACCESS_KEY = "x" }, 'profile = "spec"'))
  end)

  it("come from the configuration file as well", function()
    assert.equal("false\n", say { AWS_PROFILE = "in-config" })
  end)

  it("come from the default profile", function()
    assert.truthy(say({}):find("^s3: .*check S3_ACCESS_KEY_ID")) -- its keys are nobody's
  end)

  it("that are nowhere are a matter of configuration", function()
    local said = say { AWS_PROFILE = "none" }
    assert.truthy(said:find("^config: no S3 credentials: set S3_ACCESS_KEY_ID"), said)
    assert.truthy(said:find('write profile "none" with aws_access_key_id', 1, true), said)
  end)
end)
