-- Requests a second for small objects against a web server, which answers faster than any client asks.
--
--   NEBULA_BENCH_SMALL   how many in a round (4000)
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local nebula = require "nebula"
local program = require("spec.support.nebula").program

local COUNT = tonumber(os.getenv "NEBULA_BENCH_SMALL") or 4000
local SMALL, WIDE = 16 << 10, 32

local NGINX = [[
daemon off; worker_processes 1; pid @dir@/pid; error_log @dir@/error; user root;
events { worker_connections 512; }
http {
  access_log off; keepalive_requests 1000000; tcp_nodelay on;
  client_body_temp_path @dir@/body; proxy_temp_path @dir@/t1; fastcgi_temp_path @dir@/t2; uwsgi_temp_path @dir@/t3;
  scgi_temp_path @dir@/t4;
  server { listen 127.0.0.1:@port@; root @dir@/root; client_max_body_size 1m;
    location / { dav_methods PUT; create_full_put_path on; } }
}
]]

return function(bench)
  local path = directory.make "bench-nginx"
  local dir, port = path .. "/nginx", math.random(20000, 32000)
  nebula.fs.mkdir(dir .. "/root", { parents = true })
  nebula.fs.write(dir .. "/conf", (NGINX:gsub("@(%w+)@", { dir = dir, port = port })))
  nebula.fs.write(dir .. "/16k", nebula.crypto.random(SMALL))
  local url = ("http://127.0.0.1:%d"):format(port)
  local server = child.spawn { file = "nginx", args = { "-c", dir .. "/conf", "-e", dir .. "/error" } }
  local _ <close> = setmetatable({}, { __close = function() server:kill(15) server:wait() end })
  child.await("nginx", 10, function()
    return child.run { file = "curl", args = { "-s", "-o", "/dev/null", url } }.status == 0
  end, server)
  local lines = { put = {}, get = {} }
  for i = 1, COUNT do
    local object = ("%s/bench/%05d"):format(url, i)
    lines.put[i] = ('upload-file = "%s/16k"\nurl = "%s"\noutput = "/dev/null"'):format(dir, object)
    lines.get[i] = ('output = "/dev/null"\nurl = "%s"'):format(object)
  end
  for _, way in ipairs { "put", "get" } do
    nebula.fs.write(path .. "/nginx.curl", table.concat(lines[way], "\n"))
    local code = ([[
      local nebula = require "nebula"
      local bucket = nebula.s3.connect { endpoint = %q, bucket = "bench", access_key_id = "k", secret_access_key = "s",
        unsigned_payload = true }
      local data, list = nebula.fs.read %q, {}
      for i = 1, %d do list[i] = ("%%05d"):format(i) end
      nebula.task.map(list, function(key) %s end, { concurrency = %d })]]):format(url, dir .. "/16k", COUNT,
      way == "put" and "bucket:put(key, data)" or "assert(#bucket:get(key) == #data)", WIDE)
    bench.compare { name = ("%d objects of %d KiB, nginx, %s"):format(COUNT, SMALL >> 10, way),
      peer = "curl --parallel", unit = "requests/s", rounds = 3,
      ours = function() return COUNT / bench.cost { file = program, args = { "-e", code } }.wall end,
      theirs = function()
        return COUNT / bench.cost { file = "curl", args = { "-sSf", "--no-progress-meter", "--parallel",
          "--parallel-max", tostring(WIDE), "-K", path .. "/nginx.curl" } }.wall
      end }
  end
end
