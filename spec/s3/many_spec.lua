-- many_spec.lua: deleting many objects, tags, presigned URLs, unfinished uploads; a real S3 server.
local nebula = require "nebula"
local server = require "spec.support.s3"

local bucket

local function failure(fn, ...)
  local _, err = nebula.try(fn, ...)
  return err
end

setup(function() bucket = nebula.s3.connect(server.options()) end)

describe("bucket:delete_many", function()
  it("deletes more keys than one request may name, whatever is in them", function()
    local keys = { "absent", "a&b<c>\"d'", "ü/ +%", "line\nbreak" }
    for i = 1, 1100 do keys[#keys + 1] = ("many/%04d"):format(i) end
    nebula.task.map(keys, function(key)
      if key ~= "absent" then bucket:put(key, "x") end
    end, { concurrency = 16 })
    bucket:put("kept", "x")
    assert.equal(#keys, bucket:delete_many(keys))
    local left = {}
    for object in bucket:list() do left[#left + 1] = object.key end
    assert.same({ "kept" }, left)
  end)

  it("tells which could not be deleted, and deletes the others", function()
    local keys = { "locked/1", "free/1", "locked/2" }
    for _, key in ipairs(keys) do bucket:put(key, "x") end
    local name = bucket:url():match "([^/]+)$"
    local policy = nebula.json.encode {
      Version = "2012-10-17",
      Statement = { { Effect = "Deny", Principal = "*", Action = { "s3:DeleteObject" },
        Resource = ("arn:aws:s3:::%s/locked/*"):format(name) } },
    }
    local signed = nebula.s3.sign { method = "PUT", url = bucket:url() .. "?policy", body = policy,
      access_key_id = server.access_key_id, secret_access_key = server.secret_access_key }
    local headers = {}
    for _, header in ipairs(signed.headers) do headers[header[1]] = header[2] end
    nebula.http.request { method = "PUT", url = signed.url, headers = headers, body = policy, expect = 204 }
    local err = failure(bucket.delete_many, bucket, keys)
    assert.same({ "s3", "AccessDenied" }, { err.kind, err.code })
    assert.matches("2 of 3 objects could not be deleted", err.message)
    local told = {}
    for line in err.detail:gmatch "[^\n]+" do told[#told + 1] = line end
    table.sort(told)
    assert.same({ "locked/1: AccessDenied", "locked/2: AccessDenied" }, told)
    assert.same({ true, false, true },
      { bucket:exists "locked/1", bucket:exists "free/1", bucket:exists "locked/2" })
  end)

  it("has nothing to do for no keys", function() assert.equal(0, bucket:delete_many {}) end)

  it("refuses what is no key before it deletes anything", function()
    bucket:put("stays", "x")
    assert.equal("validation", failure(bucket.delete_many, bucket, { "stays", 7 }).kind)
    local keys = {}
    for i = 1, 1500 do keys[i] = "stays" end
    keys[1400] = ""
    assert.equal("validation", failure(bucket.delete_many, bucket, keys).kind)
    assert.is_true(bucket:exists("stays"))
  end)
end)

describe("bucket:tag", function()
  it("sets and reads tags", function()
    bucket:put("tagged", "x", { tags = { first = "1 & 2" } })
    assert.same({ first = "1 & 2" }, bucket:tag("tagged"))
    bucket:tag("tagged", { a = "<b>", c = "" })
    assert.same({ a = "<b>", c = "" }, bucket:tag("tagged"))
    bucket:tag("tagged", {})
    assert.same({}, bucket:tag("tagged"))
    assert.is_nil(bucket:tag("absent"))
  end)
end)

describe("bucket:presign", function()
  it("makes URLs that need no key", function()
    local key = "shared/ü +.txt"
    local put = bucket:presign(key, { method = "PUT", expires = "5m" })
    nebula.http.request { method = "PUT", url = put, body = "by url", expect = 200 }
    assert.equal("by url", nebula.http.request { url = bucket:presign(key), expect = 200 }.body)
    assert.equal(403, nebula.http.request { method = "DELETE", url = bucket:presign(key) }.status)
    assert.equal("validation", failure(bucket.presign, bucket, key, { expires = "8d" }).kind)
  end)
end)

describe("bucket:uploads", function()
  it("lists what was begun and not finished, and abort removes it", function()
    local writer = bucket:writer("left")
    for _ = 1, 6 do writer:write(("x"):rep(1 << 20)) end
    local begun
    repeat
      begun = bucket:uploads { prefix = "left" }
    until #begun == 1
    assert.equal("left", begun[1].key)
    bucket:abort(begun[1])
    assert.same({}, bucket:uploads { prefix = "left" })
    writer:close()
    assert.same({}, bucket:uploads { prefix = "other" })
  end)
end)

describe("a closed Bucket", function()
  it("says so", function()
    local other = nebula.s3.connect(server.options("nebula-missing"))
    other:close()
    other:close()
    assert.truthy(failure(other.get, other, "x").message:find("closed", 1, true))
  end)
end)
