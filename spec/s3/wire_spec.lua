-- wire_spec.lua: what goes over the wire where the S3 server of the specs cannot show it: encryption by
-- key services, storage classes; and nebula.http where a server misbehaves.
local nebula = require "nebula"
local http_proxy = require "spec.support.http_proxy"
local server = require "spec.support.s3"

local service

local function failure(fn, ...)
  local _, err = nebula.try(fn, ...)
  return err
end

local function answer(status, changes)
  local rule = { ["do"] = "answer", status = status }
  for field, value in pairs(changes or {}) do rule[field] = value end
  return rule
end

setup(function() service = http_proxy.start(server.endpoint()) end)

teardown(function() service:close() end)

describe("a Bucket", function()
  local bucket

  setup(function()
    local options = server.options("nebula-wire")
    options.endpoint, options.attempts = service.url, 1
    bucket = nebula.s3.connect(options)
  end)

  it("asks for encryption and a storage class wherever an object begins", function()
    local options = { sse = "aws:kms", sse_kms_key_id = "arn:aws:kms:k", storage_class = "STANDARD_IA" }
    local copy = "<CopyObjectResult><ETag>&quot;e&quot;</ETag></CopyObjectResult>"
    local begins = {
      { function() bucket:put("x", "y", options) end, answer(200, { headers = { 'ETag: "e"' } }) },
      { function() bucket:copy("x", "y", options) end, answer(200, { body = copy }) },
      {
        function() failure(bucket.put, bucket, "x", ("y"):rep(6 << 20), options) end,
        answer(403, { path = "?uploads" }),
      },
    }
    for _, begin in ipairs(begins) do
      service:rules { begin[2] }
      begin[1]()
      local headers = service:log()[1].headers
      assert.equal("aws:kms", headers["x-amz-server-side-encryption"])
      assert.equal("arn:aws:kms:k", headers["x-amz-server-side-encryption-aws-kms-key-id"])
      assert.equal("STANDARD_IA", headers["x-amz-storage-class"])
      assert.truthy(headers.authorization:find("x-amz-server-side-encryption", 1, true))
    end
    service:rules { answer(200, { headers = { 'ETag: "e"' } }) }
    bucket:put("x", "y", { sse = "AES256" })
    assert.equal("AES256", service:log()[1].headers["x-amz-server-side-encryption"])
  end)

  it("does not take a web page for the news that an object is stored", function()
    service:rules { answer(200, { body = "<html></html>" }) }
    local err = failure(bucket.put, bucket, "x", "y")
    assert.same({ "s3", "MalformedAnswer" }, { err.kind, err.code })
    assert.truthy(err.message:find("an S3 service? check S3_ENDPOINT", 1, true), err.message)
  end)

  it("does not take the ETag of what a key service encrypts for an MD5", function()
    local etag = 'ETag: "' .. ("0"):rep(32) .. '"'
    service:rules { answer(200, { body = "y", headers = { etag, "x-amz-server-side-encryption: aws:kms" } }) }
    assert.equal("y", (bucket:get "x"))
    service:rules { answer(200, { body = "y", headers = { etag } }) }
    assert.equal("BadDigest", failure(bucket.get, bucket, "x").code)
  end)

  it("tells no secret, whatever the server quotes", function()
    local quoted = ("<Error><Code>AccessDenied</Code><Message>%s AWS4-HMAC</Message></Error>"):format(
      server.secret_access_key)
    service:rules { answer(403, { body = quoted }) }
    local err = failure(bucket.get, bucket, "x")
    assert.equal("AccessDenied", err.code)
    assert.is_nil(err.message:find(server.secret_access_key, 1, true))
  end)
end)

describe("nebula.http.request", function()
  local function ask(options)
    options.url = service.url .. "/x"
    return failure(nebula.http.request, options)
  end

  it("ends at its deadline, whatever the server does", function()
    for _, rule in ipairs { { ["do"] = "hold" }, { stop = 10 }, { rate = 10 } } do
      service:rules { rule }
      assert.equal("timeout", ask { deadline = 0.3 }.kind)
    end
  end)

  it("tells an answer that is cut short or longer than it says", function()
    for _, rule in ipairs { { cut = 10 }, { length = 5 }, { ["do"] = "reset" }, { ["do"] = "lose" } } do
      service:rules { rule }
      local err = ask {}
      assert.equal("io", err.kind, tostring(err))
      assert.is_true(err.retryable)
    end
  end)

  it("does not repeat what may have had an effect", function()
    service:rules { { ["do"] = "lose" } }
    ask { method = "POST", body = "x" }
    assert.equal(1, #service:log())
  end)
end)
