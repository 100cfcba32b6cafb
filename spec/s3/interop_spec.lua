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

  -- Each moves a whole directory: to start one takes longer than to move it.
  local CLIENTS = {
    awscli = {
      env = function()
        return { AWS_ACCESS_KEY_ID = options.access_key_id, AWS_SECRET_ACCESS_KEY = options.secret_access_key,
          AWS_DEFAULT_REGION = "us-east-1", AWS_CA_BUNDLE = false, AWS_CONFIG_FILE = "/dev/null" }
      end,
      copy = function(from, to)
        return { "aws", "--endpoint-url", options.endpoint, "s3", "cp", "--quiet", "--recursive", from, to }
      end,
      place = function(prefix) return ("s3://%s/%s"):format(options.bucket, prefix) end,
    },
    rclone = {
      env = function()
        return { RCLONE_CONFIG_IT_TYPE = "s3", RCLONE_CONFIG_IT_PROVIDER = "Ceph", AWS_CA_BUNDLE = false,
          RCLONE_CONFIG_IT_ENDPOINT = options.endpoint, RCLONE_CONFIG_IT_ACCESS_KEY_ID = options.access_key_id,
          RCLONE_CONFIG_IT_SECRET_ACCESS_KEY = options.secret_access_key, RCLONE_CONFIG = "/dev/null" }
      end,
      copy = function(from, to) return { "rclone", "copy", from, to } end,
      place = function(prefix) return ("it:%s/%s"):format(options.bucket, prefix) end,
    },
  }

  for name, client in pairs(CLIENTS) do
    local function run(command)
      child.must { file = command[1], args = table.move(command, 2, #command, 1, {}), env = client.env() }
    end

    it("of " .. name .. " are read by us", function()
      local from, data = path .. "/from-" .. name, {}
      for label, size in pairs(SIZES) do
        data[label] = bytes_of(size)
        nebula.fs.mkdir((from .. "/" .. label):match "^(.*)/", { parents = true })
        nebula.fs.write(from .. "/" .. label, data[label])
      end
      run(client.copy(from, client.place(name .. "/theirs")))
      for label in pairs(SIZES) do
        local key = name .. "/theirs/" .. label
        assert.is_true(bucket:get(key) == data[label], key)
        bucket:download(key, { file = path .. "/ours" })
        assert.is_true(nebula.fs.read(path .. "/ours") == data[label], key)
      end
    end)

    it("of ours are read by " .. name, function()
      local to, data = path .. "/to-" .. name, {}
      for label, size in pairs(SIZES) do
        data[label] = bytes_of(size)
        bucket:put(name .. "/ours/" .. label, data[label])
      end
      run(client.copy(client.place(name .. "/ours"), to))
      for label in pairs(SIZES) do assert.is_true(nebula.fs.read(to .. "/" .. label) == data[label], label) end
    end)
  end
end)
