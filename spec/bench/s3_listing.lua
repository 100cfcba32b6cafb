-- What a listing of many keys takes of memory, over a host that has only connected.
--
--   NEBULA_BENCH_KEYS   keys of the listing (100000)
local nebula = require "nebula"
local program = require("spec.support.nebula").program

local KEYS = tonumber(os.getenv "NEBULA_BENCH_KEYS") or 100000

return function(bench)
  local options = bench.s3.options()
  local bucket = nebula.s3.connect(options)
  local env = { S3_ENDPOINT = options.endpoint, S3_BUCKET = options.bucket, S3_ACCESS_KEY_ID = options.access_key_id,
    S3_SECRET_ACCESS_KEY = options.secret_access_key }
  local list = {}
  for i = 1, KEYS do list[i] = i end
  nebula.task.map(list, function(i) bucket:put(("listed/%06d"):format(i), "") end, { concurrency = 64 })
  local function cost(prefix)
    return bench.cost { file = program, env = env, args = { "-e", ([[
      local nebula, e = require "nebula", os.getenv
      local bucket = nebula.s3.connect { endpoint = e "S3_ENDPOINT", bucket = e "S3_BUCKET",
        access_key_id = e "S3_ACCESS_KEY_ID", secret_access_key = e "S3_SECRET_ACCESS_KEY" }
      local count = 0
      for _ in bucket:list { prefix = %q } do count = count + 1 end
      assert(count == %d)]]):format(prefix, prefix == "listed/" and KEYS or 0) } }
  end
  local base, cost_of_all = cost "none/", cost "listed/"
  print(("list %d keys, streamed\n  %.2f s CPU  %.2f s wall  %.1f MiB over the host's base of %.1f MiB"):format(KEYS,
    cost_of_all.cpu, cost_of_all.wall, cost_of_all.rss - base.rss, base.rss))
end
