-- sign_spec.lua: nebula.s3.sign against the signatures that AWS publishes.
local nebula = require "nebula"
local vectors = require "spec.s3.sign_vectors"

local sign = nebula.s3.sign

local function suite_request(vector)
  return {
    method = vector.method or "GET",
    url = "https://example.amazonaws.com" .. vector[2],
    headers = vector.headers or { vectors.host },
    body = vector.body,
    region = "us-east-1",
    service = "service",
    time = "2015-08-30T12:36:00Z",
    access_key_id = "AKIDEXAMPLE",
    secret_access_key = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    session_token = vector.session_token,
    omit_session_token = vector.omit_session_token,
    normalize_path = vector.normalize_path ~= false,
    sign_body = vector.sign_body,
  }
end

describe("nebula.s3.sign, AWS's test suite", function()
  for _, vector in ipairs(vectors.suite) do
    it("signs " .. vector[1] .. " in the header", function()
      local signed = sign(suite_request(vector))
      assert.equal(vector[3], signed.signature)
      assert.truthy(signed.headers.authorization:find("Signature=" .. vector[3], 1, true))
      assert.equal("20150830T123600Z", signed.headers["X-Amz-Date"])
    end)
    if vector[4] then
      it("signs " .. vector[1] .. " in the query", function()
        local request = suite_request(vector)
        request.query, request.expires = true, 3600
        local signed = sign(request)
        assert.equal(vector[4], signed.signature)
        assert.truthy(signed.url:find("&X-Amz-Signature=" .. vector[4], 1, true))
        assert.is_nil(signed.headers.authorization)
      end)
    end
  end
end)

describe("nebula.s3.sign, the examples of the S3 API Reference", function()
  for _, vector in ipairs(vectors.s3) do
    it("signs " .. vector[1], function()
      local request = {
        time = "2013-05-24T00:00:00Z", access_key_id = "AKIAIOSFODNN7EXAMPLE",
        secret_access_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
      }
      for name, value in pairs(vector[3]) do request[name] = value end
      assert.equal(vector[2], sign(request).signature)
    end)
  end
end)

describe("nebula.s3.sign", function()
  local function request(changes)
    local out = {
      url = "https://examplebucket.s3.amazonaws.com/test.txt", time = 1369353600,
      access_key_id = "AKIAIOSFODNN7EXAMPLE", secret_access_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    }
    for name, value in pairs(changes or {}) do out[name] = value end
    return out
  end

  it("shows what it signed", function()
    local signed = sign(request { headers = { { "Range", "bytes=0-9" } } })
    assert.equal(table.concat({
      "GET", "/test.txt", "", "host:examplebucket.s3.amazonaws.com", "range:bytes=0-9",
      "x-amz-content-sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
      "x-amz-date:20130524T000000Z", "", "host;range;x-amz-content-sha256;x-amz-date",
      "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    }, "\n"), signed.canonical_request)
    assert.equal(table.concat({
      "AWS4-HMAC-SHA256", "20130524T000000Z", "20130524/us-east-1/s3/aws4_request",
      "7344ae5b7ee6c3e7e6b0fe0640412a37625d1fbfff95c48bbb2dc43964946972",
    }, "\n"), signed.string_to_sign)
  end)

  it("encodes an S3 path once and any other service's twice", function()
    assert.equal("/a%20b", sign(request { url = "https://h.example/a%20b" }).canonical_request:match("\n([^\n]*)"))
    assert.equal("/a%2520b",
      sign(request { url = "https://h.example/a%20b", service = "sts" }).canonical_request:match("\n([^\n]*)"))
  end)

  it("keeps dots in an S3 path, which are part of the key", function()
    assert.equal("/a/../b", sign(request { url = "https://h.example/a/../b" }).canonical_request:match("\n([^\n]*)"))
  end)

  it("sends a session token that it does not sign", function()
    local signed = sign(request { session_token = "TOKEN", omit_session_token = true })
    assert.equal("TOKEN", signed.headers["x-amz-security-token"])
    assert.is_nil(signed.canonical_request:find("security-token", 1, true))
  end)

  it("leaves the port that is the scheme's own out of the host", function()
    assert.truthy(sign(request { url = "https://h.example:443/" }).canonical_request:find("host:h.example\n", 1, true))
    assert.truthy(sign(request { url = "http://h.example:8080/" }).canonical_request
      :find("host:h.example:8080\n", 1, true))
  end)

  it("folds a header of several lines into one", function()
    local signed = sign(request { headers = { { "My-Header", "a\tb   c" } } })
    assert.truthy(signed.canonical_request:find("my-header:a b c\n", 1, true))
  end)

  it("takes each line of a header as one more value of it", function()
    for _, break_ in ipairs { "\n", "\r\n" } do
      local folded = "value1" .. break_ .. "  value2" .. break_ .. "     value3"
      for _, headers in ipairs { { { "My-Header1", folded } }, { ["My-Header1"] = folded } } do
        local signed = sign(request { headers = headers })
        assert.truthy(signed.canonical_request:find("my-header1:value1,value2,value3\n", 1, true))
        assert.is_nil(signed.headers["my-header1"]:find "[\r\n]")
      end
    end
  end)

  it("takes the time as seconds or as text, in any offset", function()
    local wanted = sign(request()).signature
    for _, time in ipairs { "2013-05-24T00:00:00Z", "20130524T000000Z", "2013-05-24T02:00:00+02:00",
      "2013-05-24T00:00:00.999Z", 1369353600.75 } do
      assert.equal(wanted, sign(request { time = time }).signature)
    end
  end)

  it("leaves a date header out of a query form, where the query tells the time", function()
    local plain, dated = request { query = true }, request { query = true, headers = { ["X-Amz-Date"] = "x" } }
    assert.equal(sign(plain).signature, sign(dated).signature)
  end)

  it("signs empty values, repeated names and a plus of a query as they are sent", function()
    local signed = sign(request { url = "https://h.example/?b=2&a&b=1&c=&d=x+y&e=a%20b&=v" })
    assert.equal("=v&a=&b=1&b=2&c=&d=x%2By&e=a%20b", signed.canonical_request:match "^GET\n/\n([^\n]*)")
    assert.equal("https://h.example/?=v&a=&b=1&b=2&c=&d=x%2By&e=a%20b", signed.url)
  end)

  it("resolves dots and slashes of an S3 path only where that is asked for", function()
    local function path(normalize)
      return sign(request { url = "https://h.example/a//b/./../c%2e", normalize_path = normalize })
        .canonical_request:match "\n([^\n]*)"
    end
    assert.equal("/a//b/./../c.", path(nil))
    assert.equal("/a/c.", path(true))
  end)

  it("sends with the token signed or not, in header and query", function()
    for _, omit in ipairs { true, false } do
      for _, query in ipairs { true, false } do
        local signed = sign(request { session_token = "T/k=", omit_session_token = omit, query = query })
        local in_url = signed.url:match "X%-Amz%-Security%-Token=([^&]*)"
        local sent = query and in_url or signed.headers["x-amz-security-token"]
        assert.equal(query and "T%2Fk%3D" or "T/k=", sent)
        assert.equal(not omit, signed.canonical_request:lower():find("security-token", 1, true) ~= nil)
      end
    end
  end)

  it("refuses what it cannot sign, by name", function()
    local function refusal(changes)
      local _, err = nebula.try(sign, request(changes))
      return err.kind .. ": " .. err.message
    end
    assert.truthy(refusal { url = "ftp://h/" }:find("validation: s3.sign: url must be", 1, true))
    assert.truthy(refusal { time = "yesterday" }:find("validation: s3.sign: time must be", 1, true))
    assert.truthy(refusal { secret = "x" }:find("validation: s3.sign has no option 'secret'", 1, true))
    assert.truthy(refusal { headers = { { "A", "x\r\nB: y" } } }:find("validation: s3.sign: header 'A'", 1, true))
    assert.truthy(refusal { query = true, expires = "8d" }:find("at most 7 days", 1, true))
  end)
end)
