-- object_spec.lua: a Bucket's methods for single objects, against a real S3 server.
local nebula = require "nebula"
local server = require "spec.support.s3"

local bucket

local function failure(fn, ...)
  local _, err = nebula.try(fn, ...)
  return err
end

setup(function() bucket = nebula.s3.connect(server.options()) end)

describe("bucket:put and bucket:get", function()
  it("give back every byte that was stored", function()
    local all = {}
    for i = 0, 255 do all[#all + 1] = string.char(i) end
    local data = table.concat(all):rep(1000)
    local stored = bucket:put("bytes", data)
    assert.equal(#data, stored.size)
    assert.equal(nebula.http.request { url = stored.url }.status, 403) -- it is private
    assert.equal(data, (bucket:get("bytes")))
  end)

  it("store an empty object", function()
    assert.equal(0, bucket:put("empty", "").size)
    local data, info = bucket:get("empty")
    assert.equal("", data)
    assert.equal(0, info.size)
  end)

  it("keep what is said about an object", function()
    bucket:put("described", "{}", {
      content_type = "application/json", cache_control = "max-age=60", content_disposition = "attachment",
      metadata = { run = "17", ["made-by"] = "a spec" },
    })
    local _, info = bucket:get("described")
    assert.equal("application/json", info.content_type)
    assert.equal("max-age=60", info.cache_control)
    assert.equal("attachment", info.content_disposition)
    assert.same({ run = "17", ["made-by"] = "a spec" }, info.metadata)
    assert.truthy(info.last_modified:match("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%dZ$"))
  end)

  it("take keys with any character", function()
    for _, key in ipairs {
      "a b", "a+b", "a%20b", "ü/ሴ/😀", "a//b", "/a", "a/", "../a", "a/../b", "./a", "q?x=1&y=2#z", "quote'\"<&>",
      "a\nb\r\nc", "~-._*!()", ("k"):rep(1024),
    } do
      bucket:put(key, key)
      assert.equal(key, (bucket:get(key)))
      assert.equal(key, bucket:head(key).key)
      bucket:delete(key)
      assert.is_false(bucket:exists(key))
    end
  end)

  it("refuse keys that S3 cannot have", function()
    for _, key in ipairs { "", ("k"):rep(1025), "a\0b" } do
      assert.equal("validation", failure(bucket.put, bucket, key, "x").kind)
    end
    assert.equal("validation", failure(bucket.get, bucket, 7).kind)
  end)

  it("read a range", function()
    bucket:put("range", "0123456789")
    local data, info = bucket:get("range", { range = { 2, 4 } })
    assert.equal("234", data)
    assert.equal(10, info.size)
    assert.equal("89", (bucket:get("range", { range = { 8 } })))
    assert.equal("789", (bucket:get("range", { range = { -3 } })))
    assert.equal("InvalidRange", failure(bucket.get, bucket, "range", { range = { 20, 30 } }).code)
    assert.equal("validation", failure(bucket.get, bucket, "range", { range = { 4, 2 } }).kind)
  end)

  it("refuse an object that is larger than the caller's limit", function()
    bucket:put("large", ("x"):rep(5000))
    local err = failure(bucket.get, bucket, "large", { max_bytes = 4999 })
    assert.equal("limit", err.kind)
    assert.truthy(err.message:find("4999 bytes", 1, true))
    assert.equal(5000, #bucket:get("large", { max_bytes = 5000 }))
  end)

  it("run in many tasks at once", function()
    local keys = {}
    for i = 1, 200 do keys[i] = ("many/%03d"):format(i) end
    nebula.task.map(keys, function(key) bucket:put(key, key:rep(100)) end, { concurrency = 32 })
    local read = nebula.task.map(keys, function(key) return (bucket:get(key)) == key:rep(100) end, { concurrency = 32 })
    for i = 1, 200 do assert.is_true(read[i]) end
  end)
end)

describe("a condition", function()
  it("creates an object only where there is none", function()
    bucket:put("once", "first", { if_none_match = "*" })
    local err = failure(bucket.put, bucket, "once", "second", { if_none_match = "*" })
    assert.equal("conflict", err.kind)
    assert.equal("s3", err.source)
    assert.equal("PreconditionFailed", err.code)
    assert.equal("first", (bucket:get("once")))
  end)

  it("replaces only the version that was read", function()
    local first = bucket:put("swap", "1")
    bucket:put("swap", "2", { if_match = first.etag })
    assert.equal("conflict", failure(bucket.put, bucket, "swap", "3", { if_match = first.etag }).kind)
    assert.equal("2", (bucket:get("swap")))
  end)

  it("tells that an object has not changed", function()
    local stored = bucket:put("same", "x")
    assert.equal("NotModified", failure(bucket.get, bucket, "same", { if_none_match = stored.etag }).code)
    assert.equal("x", (bucket:get("same", { if_match = stored.etag })))
  end)
end)

describe("an absent object", function()
  it("is nil", function()
    assert.is_nil((bucket:get("absent")))
    assert.is_nil(bucket:head("absent"))
    assert.is_false(bucket:exists("absent"))
  end)

  it("is deleted already", function() assert.has_no.errors(function() bucket:delete("absent") end) end)
end)

describe("bucket:copy", function()
  it("keeps the bytes and what is said about them", function()
    bucket:put("from ü", "data", { content_type = "text/x", metadata = { a = "1" } })
    local stored = bucket:put("ignored", "data")
    assert.equal(stored.etag, bucket:copy("from ü", "to ü").etag)
    local data, info = bucket:get("to ü")
    assert.equal("data", data)
    assert.equal("text/x", info.content_type)
    assert.same({ a = "1" }, info.metadata)
  end)

  it("replaces what is said where that is given", function()
    bucket:put("from", "data", { metadata = { a = "1" } })
    bucket:copy("from", "to", { metadata = { b = "2" } })
    assert.same({ b = "2" }, bucket:head("to").metadata)
  end)
end)

describe("a failure names its remedy and no secret:", function()
  local function connected(changes)
    local options = server.options("nebula-missing")
    for name, value in pairs(changes) do options[name] = value end
    return nebula.s3.connect(options)
  end

  local function expect(err, kind, code, remedy)
    assert.equal(kind, err.kind)
    assert.equal(code, err.code)
    assert.truthy(err.message:find(remedy, 1, true), err.message)
    local text = tostring(err) .. tostring(err.detail) .. tostring(err.traceback)
    assert.is_nil(text:find(server.access_key_id, 1, true))
    assert.is_nil(text:find(server.secret_access_key, 1, true))
    assert.is_nil(text:find("Signature=", 1, true))
  end

  it("a bucket that does not exist", function()
    local other = connected {}
    expect(failure(other.get, other, "x"), "s3", "NoSuchBucket", "correct S3_BUCKET")
    expect(failure(other.put, other, "x", "y"), "s3", "NoSuchBucket", "correct S3_BUCKET")
    expect(failure(other.head, other, "x"), "s3", "NoSuchBucket", "correct S3_BUCKET")
    expect(failure(other.exists, other, "x"), "s3", "NoSuchBucket", "correct S3_BUCKET")
  end)

  it("a wrong secret key", function()
    local other = connected { secret_access_key = "wrong" }
    expect(failure(other.get, other, "x"), "s3", "SignatureDoesNotMatch", "check S3_SECRET_ACCESS_KEY")
  end)

  it("an unknown access key", function()
    local other = connected { access_key_id = "UNKNOWN" }
    expect(failure(other.get, other, "x"), "s3", "InvalidAccessKeyId", "check S3_ACCESS_KEY_ID")
  end)

  it("an endpoint where nobody listens", function()
    local other = connected { endpoint = "http://127.0.0.1:9", attempts = 2 }
    local err = failure(other.get, other, "x")
    expect(err, "s3", "EndpointUnreachable", "check S3_ENDPOINT")
    assert.is_true(err.retryable)
    other = connected { proxy = "http://127.0.0.1:9", attempts = 1 }
    expect(failure(other.get, other, "x"), "s3", "EndpointUnreachable", "the proxy (option proxy, or http_proxy)")
    other = connected { endpoint = "http://127.0.0.1:9", path_style = false, attempts = 1 }
    expect(failure(other.get, other, "x"), "s3", "EndpointUnreachable", "S3_USE_PATH_STYLE")
  end)

  it("another bucket that an object is to be copied from", function()
    bucket:put("here", "x")
    expect(failure(bucket.copy, bucket, "here", "there", { from_bucket = "nebula-missing" }), "s3", "NoSuchBucket",
      'S3 copy of "here" in bucket "nebula-missing": there is no such bucket')
  end)

  it("encryption in the clear", function()
    expect(failure(bucket.put, bucket, "x", "y", { sse = "AES256" }), "s3", "InvalidRequest", "use an https endpoint")
    local options = server.options(bucket:url():match "([^/]+)$")
    options.endpoint, options.ca_file = server.tls_endpoint(), server.ca_file()
    nebula.s3.connect(options):put("encrypted", "y", { sse = "AES256" })
    assert.equal("y", (bucket:get "encrypted"))
  end)

  it("options that cannot work", function()
    for _, options in ipairs {
      { bucket = "a" }, { bucket = "Nebula!" }, {}, { bucket = "abc", endpoint = "nonsense" },
      { bucket = "abc", access_key_id = "x" }, { bucket = "abc", endpoint = "http://user:pw@host" },
    } do
      assert.equal("config", failure(nebula.s3.connect, options).kind)
    end
    assert.truthy(failure(nebula.s3.connect, { buckets = "abc" }).message:find("did you mean 'bucket'", 1, true))
  end)
end)

describe("a Bucket", function()
  it("works over TLS with an authority of its own", function()
    local options = server.options()
    options.endpoint, options.ca_file = server.tls_endpoint(), server.ca_file()
    local secure = nebula.s3.connect(options)
    secure:put("tls", "data")
    assert.equal("data", (secure:get("tls")))
    options.ca_file = nil
    local blind = nebula.s3.connect(options)
    local err = failure(blind.get, blind, "tls")
    assert.equal("UntrustedCertificate", err.code)
    assert.truthy(err.message:find("name its authority by ca_file (AWS_CA_BUNDLE)", 1, true), err.message)
    assert.is_false(err.retryable)
  end)

  it("is found by the name of its host, through a proxy", function()
    local options = server.options(bucket:url():match "([^/]+)$")
    options.endpoint, options.path_style = "http://" .. server.dns_name, false
    options.proxy = server.endpoint() -- the gateway takes requests as a proxy gets them
    local hosted = nebula.s3.connect(options)
    assert.truthy(hosted:url("a"):find("^http://spec%-[%d-]+%." .. server.dns_name .. "/a$"))
    hosted:put("ü/hosted", "data")
    assert.equal("data", (bucket:get("ü/hosted")))
    assert.is_true(hosted:bucket_exists())
    assert.equal("ü/hosted", hosted:list { prefix = "ü/" }().key)
    hosted:tag("ü/hosted", { a = "b" })
    assert.same({ a = "b" }, hosted:tag("ü/hosted"))
    hosted:put("hosted/parts", ("x"):rep(6 << 20))
    hosted:copy("hosted/parts", "hosted/copy", { part_size = 5 << 20 })
    assert.equal(6 << 20, bucket:head("hosted/copy").size)
    assert.same({}, hosted:uploads { prefix = "hosted/" })
    assert.equal(2, hosted:delete_many { "hosted/parts", "hosted/copy" })
    assert.is_false(bucket:exists("hosted/copy"))
    local url = hosted:presign("ü/hosted")
    assert.truthy(url:find(hosted:url("ü/hosted") .. "?", 1, true))
  end)

  it("with dots in its name stays in the path where TLS would not know its host", function()
    local function url(endpoint, path_style)
      local options = server.options("a.b.c")
      options.endpoint, options.path_style = endpoint, path_style
      return nebula.s3.connect(options):url("k")
    end
    assert.equal("https://s3.example/a.b.c/k", url("https://s3.example", false))
    assert.equal("http://a.b.c.s3.example/k", url("http://s3.example", false))
  end)

  it("is created, found and deleted", function()
    local options = server.options("nebula-created")
    local created = nebula.s3.connect(options)
    assert.is_false(created:bucket_exists())
    created:create_bucket()
    assert.is_true(created:bucket_exists())
    created:put("x", "y")
    assert.equal("conflict", failure(created.delete_bucket, created).kind)
    created:delete("x")
    created:delete_bucket()
    assert.is_false(created:bucket_exists())
  end)

  it("ends an operation at its deadline, and a cancelled task's", function()
    local task = nebula.task.spawn(function() return bucket:get("absent") end)
    task:cancel()
    assert.is_false((pcall(task.join, task)))
    assert.is_nil((bucket:get("absent"))) -- the next one is not disturbed
  end)
end)
