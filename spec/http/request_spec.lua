-- request_spec.lua: nebula.http.request, against the S3 server's plain HTTP.
local nebula = require "nebula"
local server = require "spec.support.s3"

local request = nebula.http.request

local function failure(options)
  local _, err = nebula.try(request, options)
  return err
end

-- A request that the server takes without a key of its own.
local function presigned(method, key)
  return nebula.s3.sign {
    method = method, url = nebula.s3.connect(server.options(server.shared_bucket)):url(key), query = true,
    access_key_id = server.access_key_id, secret_access_key = server.secret_access_key,
  }.url
end

setup(function() server.shared_bucket = server.bucket() end)

describe("nebula.http.request", function()
  it("gives status, headers by lower-case name, and body", function()
    local answer = request { url = server.endpoint() .. "/" }
    assert.equal(200, answer.status)
    assert.equal("application/xml", answer.headers["content-type"])
    assert.truthy(answer.body:find("<ListAllMyBucketsResult", 1, true))
  end)

  it("sends a body and headers", function()
    assert.equal(200, request { method = "PUT", url = presigned("PUT", "a"), body = "data\0more",
      headers = { ["Content-Type"] = "text/plain", ["x-amz-meta-b"] = "c" } }.status)
    local answer = request { url = presigned("GET", "a") }
    assert.equal("data\0more", answer.body)
    assert.equal("text/plain", answer.headers["content-type"])
    assert.equal("c", answer.headers["x-amz-meta-b"])
  end)

  it("sends JSON", function()
    request { method = "PUT", url = presigned("PUT", "json"), json = { a = { 1, 2 } }, expect = 200 }
    local answer = request { url = presigned("GET", "json") }
    assert.same({ a = { 1, 2 } }, nebula.json.decode(answer.body))
    assert.equal("application/json", answer.headers["content-type"])
  end)

  it("sends an empty body with its length", function()
    request { method = "PUT", url = presigned("PUT", "empty"), expect = 200 }
    assert.equal("", request { url = presigned("GET", "empty"), expect = 200 }.body)
  end)

  it("asks for the head alone", function()
    local answer = request { method = "HEAD", url = presigned("HEAD", "a"), expect = { 200, 204 } }
    assert.equal("9", answer.headers["content-length"])
    assert.equal("", answer.body)
  end)

  it("raises another status than the expected one, with the start of the body", function()
    local err = failure { url = server.endpoint() .. "/nebula-missing/x?secret=1", expect = 200 }
    assert.equal("404", err.code)
    assert.truthy(err.message:find("/nebula-missing/x answered 404: <?xml", 1, true))
    assert.is_nil(tostring(err):find("secret", 1, true))
    assert.is_false(err.retryable)
  end)

  it("refuses an answer over the limit", function()
    local err = failure { url = presigned("GET", "a"), max_bytes = 8 }
    assert.equal("limit", err.kind)
    assert.equal(9, #request { url = presigned("GET", "a"), max_bytes = 9 }.body)
  end)

  it("tells where nobody listens", function()
    local err = failure { url = "http://127.0.0.1:9/x?token=secret" }
    assert.equal("io", err.kind)
    assert.is_true(err.retryable)
    assert.truthy(err.message:find("GET http://127.0.0.1:9/x: ", 1, true))
    assert.is_nil(err.message:find("secret", 1, true))
  end)

  it("refuses an authority that it does not know, and takes one that it is given", function()
    assert.equal("io", failure { url = server.tls_endpoint() .. "/" }.kind)
    assert.equal(200, request { url = server.tls_endpoint() .. "/", ca_file = server.ca_file() }.status)
  end)

  it("refuses what is no request, by name", function()
    for options, message in pairs {
      [{}] = "url is missing",
      [{ url = "ftp://h/" }] = "url must be http",
      [{ url = "http://h/a b" }] = "url must be http",
      [{ url = "http://h/", method = "A B" }] = "method must be one word",
      [{ url = "http://h/", headers = { A = "x\nB: y" } }] = "header 'A'",
      [{ url = "http://h/", body = "x", json = {} }] = "body or json, not both",
      [{ url = "http://h/", expect = "200" }] = "expect must be",
      [{ url = "http://h/", uri = "x" }] = "has no option 'uri'",
    } do
      local err = failure(options)
      assert.equal("validation", err.kind)
      assert.truthy(err.message:find(message, 1, true), err.message)
    end
  end)

  it("ends with its task", function()
    local task = nebula.task.spawn(request, { url = server.endpoint() .. "/" })
    task:cancel()
    assert.is_false((pcall(task.join, task)))
    assert.equal(200, request { url = server.endpoint() .. "/" }.status)
  end)
end)
