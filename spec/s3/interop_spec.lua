-- Objects of awscli and rclone read with ours, and ours with theirs, byte for byte.
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local nebula = require "nebula"
local s3 = require "spec.support.s3"

local SIZES = { small = 1, empty = 0, ["with space+plus"] = 1000, ["ünï/cödé"] = 5000, parts = 20 << 20 }

describe("objects of other clients", function()
  local bucket, options, path

  setup(function()
    options = s3.options()
    bucket, path = nebula.s3.connect(options), directory.make "interop"
  end)
  teardown(function() bucket:close() end)

  local function bytes_of(size)
    return size > 0 and nebula.crypto.random(1 << 10):rep(size // 1024 + 1):sub(1, size) or ""
  end

  local CLIENTS = {
    awscli = {
      env = function()
        return { AWS_ACCESS_KEY_ID = options.access_key_id, AWS_SECRET_ACCESS_KEY = options.secret_access_key,
          AWS_DEFAULT_REGION = "us-east-1", AWS_CA_BUNDLE = false, AWS_CONFIG_FILE = "/dev/null" }
      end,
      put = function(file, key)
        return { "aws", "--endpoint-url", options.endpoint, "s3", "cp", "--quiet", file,
          ("s3://%s/%s"):format(options.bucket, key) }
      end,
      get = function(key, file)
        return { "aws", "--endpoint-url", options.endpoint, "s3", "cp", "--quiet",
          ("s3://%s/%s"):format(options.bucket, key), file }
      end,
    },
    rclone = {
      env = function()
        return { RCLONE_CONFIG_IT_TYPE = "s3", RCLONE_CONFIG_IT_PROVIDER = "Ceph", AWS_CA_BUNDLE = false,
          RCLONE_CONFIG_IT_ENDPOINT = options.endpoint, RCLONE_CONFIG_IT_ACCESS_KEY_ID = options.access_key_id,
          RCLONE_CONFIG_IT_SECRET_ACCESS_KEY = options.secret_access_key, RCLONE_CONFIG = "/dev/null" }
      end,
      put = function(file, key) return { "rclone", "copyto", file, ("it:%s/%s"):format(options.bucket, key) } end,
      get = function(key, file) return { "rclone", "copyto", ("it:%s/%s"):format(options.bucket, key), file } end,
    },
  }

  for name, client in pairs(CLIENTS) do
    local function run(command)
      child.must { file = command[1], args = table.move(command, 2, #command, 1, {}), env = client.env() }
    end

    it("of " .. name .. " are read by us", function()
      for label, size in pairs(SIZES) do
        local key, data = name .. "/theirs/" .. label, bytes_of(size)
        nebula.fs.write(path .. "/file", data)
        run(client.put(path .. "/file", key))
        assert.is_true(bucket:get(key) == data, key)
        bucket:download(key, { file = path .. "/ours" })
        assert.is_true(nebula.fs.read(path .. "/ours") == data, key)
      end
    end)

    it("of ours are read by " .. name, function()
      for label, size in pairs(SIZES) do
        local key, data = name .. "/ours/" .. label, bytes_of(size)
        bucket:put(key, data)
        run(client.get(key, path .. "/theirs"))
        assert.is_true(nebula.fs.read(path .. "/theirs") == data, key)
      end
    end)
  end
end)
