-- list_spec.lua: a Bucket's listings, against a real S3 server.
local nebula = require "nebula"
local host = require "spec.support.nebula"
local server = require "spec.support.s3"

local KEYS = os.getenv "NEBULA_SPEC_LONG" == "1" and 100000 or 3000
local MOST_MIB = os.getenv "NEBULA_SPEC_PRELOAD" and 500 or 16

local bucket

local function keys(options)
  local out = {}
  for object in bucket:list(options) do out[#out + 1] = object.key or object.prefix end
  return out
end

setup(function()
  bucket = nebula.s3.connect(server.options())
  local all = { "b/ü +%&<>", "b/x", "c\nd" }
  for i = 1, 25 do all[#all + 1] = ("a/%02d"):format(i) end
  nebula.task.map(all, function(key) bucket:put(key, key) end, { concurrency = 8 })
end)

describe("bucket:list", function()
  it("yields every object in the order of its key", function()
    local all = keys()
    assert.equal(28, #all)
    assert.equal("a/01", all[1])
    assert.equal("c\nd", all[28])
  end)

  it("tells size, etag and time", function()
    local object = bucket:list { prefix = "a/07" }()
    assert.equal("a/07", object.key)
    assert.equal(4, object.size)
    assert.equal(bucket:head("a/07").etag, object.etag)
    assert.truthy(object.last_modified:match("^%d%d%d%d%-%d%d%-%d%dT"))
  end)

  it("goes on from page to page", function()
    assert.same(keys(), keys { page_size = 3 })
    assert.same(keys(), keys { page_size = 28 })
  end)

  it("narrows to a prefix, and to what comes after a key", function()
    assert.same({ "b/x", "b/ü +%&<>" }, keys { prefix = "b/" })
    assert.same({ "a/24", "a/25" }, keys { prefix = "a/", start_after = "a/23" })
    assert.same({}, keys { prefix = "none/" })
  end)

  it("folds what lies below a delimiter", function() assert.same({ "a/", "b/", "c\nd" }, keys { delimiter = "/" }) end)

  it("stops at the limit", function()
    assert.same({ "a/01", "a/02" }, keys { limit = 2 })
    assert.equal(7, #keys { limit = 7, page_size = 3 })
  end)

  it("can be left at any time", function()
    for object in bucket:list { page_size = 5 } do
      if object.key == "a/03" then break end
    end
    assert.equal(28, #keys())
  end)

  it("takes little memory, however many keys there are", function()
    local environment = server.environment()
    local many, list = nebula.s3.connect(server.options(environment.S3_BUCKET)), {}
    for i = 1, KEYS do list[i] = ("key/%06d"):format(i) end
    nebula.task.map(list, function(key) many:put(key, "") end, { concurrency = 64 })
    local result = host.run { env = environment, args = { "-e", [[
      local function peak()
        for line in io.lines "/proc/self/status" do
          local kib = line:match "VmHWM:%s*(%d+)"
          if kib then return kib // 1024 end
        end
      end
      local env, count = os.getenv, 0
      local bucket = nebula.s3.connect { endpoint = env "S3_ENDPOINT", bucket = env "S3_BUCKET",
        access_key_id = env "S3_ACCESS_KEY_ID", secret_access_key = env "S3_SECRET_ACCESS_KEY" }
      bucket:list { limit = 1 }()
      local before = peak()
      for _ in bucket:list() do count = count + 1 end
      print(count, peak() - before)]] } }
    local count, mebibytes = result.stdout:match "^(%d+)\t(%d+)\n$"
    assert.equal(KEYS, tonumber(count), result.stderr)
    assert.is_true(tonumber(mebibytes) <= MOST_MIB, mebibytes)
  end)

  it("raises what the server says", function()
    local other = nebula.s3.connect(server.options("nebula-missing"))
    local _, err = nebula.try(function()
      for _ in other:list() do end
    end)
    assert.equal("NoSuchBucket", err.code)
  end)
end)
