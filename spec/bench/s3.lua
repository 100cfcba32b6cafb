-- Objects to and from the same Ceph RGW, by whole processes: what each client costs in CPU seconds, wall
-- seconds and peak RSS.
--
--   NEBULA_BENCH_BYTES   size of the large object (256 MiB)
--   NEBULA_BENCH_SMALL   how many small ones (2000)
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local lfs = require "lfs"
local nebula = require "nebula"
local program = require("spec.support.nebula").program

local LARGE = tonumber(os.getenv "NEBULA_BENCH_BYTES") or 256 << 20
local COUNT = tonumber(os.getenv "NEBULA_BENCH_SMALL") or 2000
local SMALL, WIDE = 16 << 10, 32
local NODE = ("node %s/peers/s3.mjs"):format(directory.build)
local NODE_PACKAGE = "@aws-sdk/client-s3@3"

local function shell(line, env) return { file = "sh", args = { "-c", line }, env = env } end

-- Every client's way to do a thing, as the words of a shell line. %s: file, key; directory, prefix.
local function clients(options, path)
  local bucket, endpoint = options.bucket, options.endpoint
  local keys = { AWS_ACCESS_KEY_ID = options.access_key_id, AWS_SECRET_ACCESS_KEY = options.secret_access_key,
    AWS_DEFAULT_REGION = "us-east-1", AWS_CA_BUNDLE = false, AWS_CONFIG_FILE = "/dev/null" }
  local ours = { S3_ENDPOINT = endpoint, S3_BUCKET = bucket, S3_ACCESS_KEY_ID = options.access_key_id,
    S3_SECRET_ACCESS_KEY = options.secret_access_key }
  local rclone = { RCLONE_CONFIG = "/dev/null", AWS_CA_BUNDLE = false, RCLONE_CONFIG_IT_TYPE = "s3",
    RCLONE_CONFIG_IT_PROVIDER = "Ceph", RCLONE_CONFIG_IT_ENDPOINT = endpoint,
    RCLONE_CONFIG_IT_ACCESS_KEY_ID = options.access_key_id,
    RCLONE_CONFIG_IT_SECRET_ACCESS_KEY = options.secret_access_key }
  local aws = ("aws --endpoint-url %s s3 cp --quiet"):format(endpoint)
  local s3cmd = ("s3cmd --no-progress -q --access_key=%s --secret_key=%s --host=%s --host-bucket=%s --no-ssl"):format(
    options.access_key_id, options.secret_access_key, endpoint:gsub("^http://", ""), (endpoint:gsub("^http://", "")))
  local curl = ("curl -sSf --aws-sigv4 aws:amz:us-east-1:s3 -u %s:%s -H x-amz-content-sha256:UNSIGNED-PAYLOAD"):format(
    options.access_key_id, options.secret_access_key)
  local script = path .. "/unsigned.lua"
  nebula.fs.write(script, [[
    local nebula = require "nebula"
    local e = os.getenv
    local bucket = nebula.s3.connect { endpoint = e "S3_ENDPOINT", bucket = e "S3_BUCKET", unsigned_payload = true,
      access_key_id = e "S3_ACCESS_KEY_ID", secret_access_key = e "S3_SECRET_ACCESS_KEY", checksum = "crc32c" }
    if arg[1] == "put" then bucket:put(arg[3], { file = arg[2] }) else bucket:download(arg[3], { file = arg[2] }) end
  ]])
  local function url(key) return ("%s/%s/%s"):format(endpoint, bucket, key) end
  return {
    unsigned = { name = "nebula, CRC32C", env = ours,
      put = function(file, key) return ("%s %s put %s %s"):format(program, script, file, key) end,
      get = function(file, key) return ("%s %s get %s %s"):format(program, script, file, key) end },
    ours = { name = "nebula, signed", env = ours,
      put = function(file, key) return ("%s blob put %s %s"):format(program, file, key) end,
      get = function(file, key) return ("%s blob get %s %s"):format(program, key, file) end,
      put_all = function(dir, prefix)
        return ("%s blob put -r %s/ %s --concurrency %d"):format(program, dir, prefix, WIDE)
      end,
      get_all = function(dir, prefix)
        return ("%s blob get -r %s %s --concurrency %d"):format(program, prefix, dir, WIDE)
      end,
      list = function(prefix) return ("%s blob ls -r %s --json >/dev/null"):format(program, prefix) end,
      delete = function(prefix) return ("%s blob rm -r %s --yes"):format(program, prefix) end },
    curl = { name = "curl", env = {}, base = curl,
      put = function(file, key) return ("%s -T %s %s"):format(curl, file, url(key)) end,
      get = function(file, key) return ("%s -o %s %s"):format(curl, file, url(key)) end },
    node = { name = "node, AWS's SDK", env = { S3_ENDPOINT = endpoint, S3_BUCKET = bucket,
        AWS_ACCESS_KEY_ID = options.access_key_id, AWS_SECRET_ACCESS_KEY = options.secret_access_key,
        AWS_CA_BUNDLE = false },
      put_all = function(dir, prefix) return ("%s put %d %s/ %s"):format(NODE, WIDE, dir, prefix) end,
      get_all = function(dir, prefix) return ("%s get %d %s/ %s"):format(NODE, WIDE, dir, prefix) end },
    aws = { name = "awscli", env = keys,
      put = function(file, key) return ("%s %s s3://%s/%s"):format(aws, file, bucket, key) end,
      get = function(file, key) return ("%s s3://%s/%s %s"):format(aws, bucket, key, file) end,
      put_all = function(dir, prefix) return ("%s --recursive %s s3://%s/%s"):format(aws, dir, bucket, prefix) end,
      get_all = function(dir, prefix) return ("%s --recursive s3://%s/%s %s"):format(aws, bucket, prefix, dir) end,
      list = function(prefix)
        return ("aws --endpoint-url %s s3 ls --recursive s3://%s/%s >/dev/null"):format(endpoint, bucket, prefix)
      end,
      delete = function(prefix)
        return ("aws --endpoint-url %s s3 rm --quiet --recursive s3://%s/%s"):format(endpoint, bucket, prefix)
      end },
    rclone = { name = "rclone", env = rclone,
      put = function(file, key) return ("rclone copyto --ignore-times %s it:%s/%s"):format(file, bucket, key) end,
      get = function(file, key) return ("rclone copyto --ignore-times it:%s/%s %s"):format(bucket, key, file) end,
      put_all = function(dir, prefix)
        return ("rclone copy --ignore-times --transfers %d %s it:%s/%s"):format(WIDE, dir, bucket, prefix)
      end,
      get_all = function(dir, prefix)
        return ("rclone copy --ignore-times --transfers %d it:%s/%s %s"):format(WIDE, bucket, prefix, dir)
      end,
      list = function(prefix) return ("rclone lsf -R it:%s/%s >/dev/null"):format(bucket, prefix) end,
      delete = function(prefix) return ("rclone delete it:%s/%s"):format(bucket, prefix) end },
    s3cmd = { name = "s3cmd", env = { AWS_CA_BUNDLE = false },
      put = function(file, key) return ("%s put %s s3://%s/%s"):format(s3cmd, file, bucket, key) end,
      get = function(file, key) return ("%s get --force s3://%s/%s %s"):format(s3cmd, bucket, key, file) end,
      put_all = function(dir, prefix) return ("%s put -r %s/ s3://%s/%s"):format(s3cmd, dir, bucket, prefix) end,
      get_all = function(dir, prefix)
        return ("mkdir %s && %s get -r s3://%s/%s %s/"):format(dir, s3cmd, bucket, prefix, dir)
      end,
      list = function(prefix) return ("%s ls -r s3://%s/%s >/dev/null"):format(s3cmd, bucket, prefix) end,
      delete = function(prefix) return ("%s del -r --force s3://%s/%s"):format(s3cmd, bucket, prefix) end },
  }
end

local function install_node()
  local where = directory.build .. "/peers"
  if not lfs.attributes(where .. "/node_modules/@aws-sdk/client-s3", "mode") then
    nebula.fs.mkdir(where, { parents = true })
    child.must { file = "npm", args = { "install", "--prefix", where, "--no-audit", "--no-fund", "--loglevel=error",
      NODE_PACKAGE } }
  end
  child.must { file = "cp", args = { "spec/bench/s3/node.mjs", where .. "/s3.mjs" } }
end

local function write_large(path)
  local file <close> = assert(io.open(path, "wb"))
  local piece = nebula.crypto.random(1 << 20)
  for _ = 1, LARGE >> 20 do file:write(piece) end
end

-- CPU seconds that the SHA-256 of the large object takes, by OpenSSL's own measure.
local function sha256_cost()
  local out = child.must { file = "openssl", args = { "speed", "-seconds", "2", "-bytes", "16384", "sha256" } }
  return LARGE / 1000 / tonumber(out:match "sha256%s+([%d.]+)k")
end

local function large(bucket, compare, path)
  write_large(path .. "/large")
  local size = ("%d MiB"):format(LARGE >> 20)
  local order = { "ours", "unsigned", "curl", "aws", "rclone", "s3cmd" }
  print(("SHA-256 of %s, by openssl speed: %.2f s CPU"):format(size, sha256_cost()))
  compare(size .. " up", "put", order, { path .. "/large", "large" })
  compare(size .. " down", "get", order, { path .. "/down", "large" })
  bucket:delete "large"
end

local function small(bench, options, all, compare, path)
  local dir, put, get = path .. "/small", {}, {}
  nebula.fs.mkdir(dir)
  for i = 1, COUNT do
    nebula.fs.write(("%s/%04d"):format(dir, i), nebula.crypto.random(SMALL), { atomic = false })
    local url = ("%s/%s/small/%04d"):format(options.endpoint, options.bucket, i)
    put[i] = ('upload-file = "%s/%04d"\nurl = "%s"'):format(dir, i, url)
    get[i] = ('output = "%s/back/%04d"\nurl = "%s"'):format(path, i, url)
  end
  nebula.fs.write(path .. "/put.curl", table.concat(put, "\n"))
  nebula.fs.write(path .. "/get.curl", table.concat(get, "\n"))
  local parallel = ("%s --no-progress-meter --parallel --parallel-max %d"):format(all.curl.base, WIDE)
  function all.curl.put_all() return ("%s -K %s/put.curl"):format(parallel, path) end
  function all.curl.get_all(back) return ("mkdir %s && %s -K %s/get.curl"):format(back, parallel, path) end
  local label = ("%d objects of %d KiB, %d wide"):format(COUNT, SMALL >> 10, WIDE)
  local order = { "ours", "curl", "aws", "rclone", "s3cmd", "node" }
  compare(label .. ", up", "put_all", order, { dir, "small/" })
  compare(label .. ", down", "get_all", order, { path .. "/back", "small/" },
    function() nebula.fs.remove(path .. "/back", { recursive = true }) end)
  local others = { "ours", "aws", "rclone", "s3cmd" }
  compare(("list %d"):format(COUNT), "list", others, { "small/" })
  compare(("delete %d"):format(COUNT), "delete", others, { "small/" }, function()
    bench.cost(shell(all.ours.put_all(dir, "small/"), all.ours.env))
  end)
end

return function(bench)
  local options, path = bench.s3.options(), directory.make "bench-s3"
  local all = clients(options, path)
  local bucket = nebula.s3.connect(options)
  install_node()

  local function compare(name, way, order, arguments, prepare)
    local list = {}
    for _, id in ipairs(order) do
      local client = all[id]
      if client[way] then
        list[#list + 1] = { name = client.name, run = function()
          if prepare then prepare(client) end
          return bench.cost(shell(client[way](table.unpack(arguments)), client.env))
        end }
      end
    end
    bench.costs { name = name, clients = list }
  end

  large(bucket, compare, path)
  small(bench, options, all, compare, path)
end
