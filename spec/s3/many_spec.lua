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
