-- s3.lua: a real S3 server for the specs: Ceph's RADOS gateway over one monitor and one object store
-- in memory, HTTP and HTTPS on free ports of 127.0.0.1. Shared by a whole run; each spec file takes
-- buckets of its own. What this server lacks or does otherwise than AWS is the fault proxy's part.
local lfs = require "lfs"
local child = require "spec.support.child"
local directory = require "spec.support.directory"

local s3 = {}

s3.region = "us-east-1"
s3.access_key_id = "NEBULASPECACCESSKEY0"
s3.secret_access_key = "nebula/spec+secret/key000000000000000000" -- with characters that want escaping

--- Buckets answer as <bucket>.<dns_name> too, on the endpoint's port.
s3.dns_name = "s3.nebula.test"

local SHARED = "NEBULA_SPEC_S3_" -- the environment variables: ENDPOINT, TLS_ENDPOINT, CA_FILE
local READY_SECONDS = 120
local ATTEMPTS = 3 -- a port that was free may be taken a moment later

local CONFIGURATION = [[
[global]
fsid = @fsid@
run_dir = @dir@/run
admin_socket =
log_file = @dir@/$name.log
pid_file =
log_to_stderr = false
err_to_stderr = true
mon_cluster_log_file = @dir@/cluster.log
mon_host = v2:127.0.0.1:@mon_port@/0
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
# No authentication inside; without a key, the monitor's clients must not ask for encryption.
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_mon_client_mode = crc
ms_mon_cluster_mode = crc
ms_mon_service_mode = crc
ms_cluster_mode = crc
ms_service_mode = crc
ms_client_mode = crc
# One copy of everything, and quick decisions.
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_warn_on_pool_no_redundancy = false
paxos_propose_interval = 0.02
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
osd_objectstore = memstore
osd_class_default_list = *
osd_class_load_list = *
memstore_page_set = true
memstore_device_bytes = 8589934592
debug_ms = 0/0
debug_mon = 0/0
debug_paxos = 0/0
debug_monc = 0/0
debug_auth = 0/0
debug_osd = 0/0
debug_memstore = 0/0
debug_objecter = 0/0
debug_rocksdb = 0/0
debug_rgw = 0/0
[mon.a]
mon_data = @dir@/mon
[osd.0]
osd_data = @dir@/osd
[client.rgw]
rgw_data = @dir@/rgw
rgw_frontends = beast tcp_nodelay=1 endpoint=127.0.0.1:@http_port@ ssl_endpoint=127.0.0.1:@https_port@ \
  ssl_certificate=@dir@/cert.pem ssl_private_key=@dir@/key.pem
rgw_dns_name = @dns_name@
rgw_enable_usage_log = false
]]

local function random_uuid() return (child.read_file("/proc/sys/kernel/random/uuid"):gsub("%s", "")) end

-- Ports that nobody listens on or has bound, below those that the kernel gives to clients.
local function free_ports(count)
  local taken = {}
  for _, file in ipairs { "/proc/net/tcp", "/proc/net/tcp6" } do
    for port in (child.read_file(file) or ""):gmatch("%d+: %x+:(%x%x%x%x) ") do taken[tonumber(port, 16)] = true end
  end
  local ports = {}
  while #ports < count do
    local port = math.random(20000, 32000)
    if not taken[port] then ports[#ports + 1], taken[port] = port, true end
  end
  return table.unpack(ports)
end

--- A gateway with what stands behind it.
---@class spec.Gateway
---@field endpoint string http://127.0.0.1:port
---@field tls_endpoint string https://127.0.0.1:port, also as localhost and *.dns_name
---@field ca_file string the certificate that signs it
local Gateway = {}
Gateway.__index = Gateway

local function tool(self, name, ...)
  return child.must { file = name, args = { "-c", self.directory .. "/ceph.conf", ... }, cwd = self.directory }
end

local function daemon(self, name, ...)
  local started = child.spawn {
    file = name, args = { "-c", self.directory .. "/ceph.conf", "-f", ... }, cwd = self.directory,
    stdin = "", stdout = self.directory .. "/" .. name .. ".out", stderr = "stdout",
  }
  table.insert(self.processes, 1, started)
  return started
end

local function configure(self)
  local mon_port, http_port, https_port = free_ports(3)
  self.fsid = random_uuid()
  local values = {
    dir = self.directory, fsid = self.fsid, mon_port = mon_port, http_port = http_port,
    https_port = https_port, dns_name = s3.dns_name,
  }
  local conf <close> = assert(io.open(self.directory .. "/ceph.conf", "w"))
  conf:write((CONFIGURATION:gsub("@([%w_]+)@", values)))
  for _, name in ipairs { "mon", "osd", "rgw", "run" } do assert(lfs.mkdir(self.directory .. "/" .. name)) end

  self.monitor = ("[v2:127.0.0.1:%d/0]"):format(mon_port)
  self.endpoint = ("http://127.0.0.1:%d"):format(http_port)
  self.tls_endpoint = ("https://127.0.0.1:%d"):format(https_port)
  self.ca_file = self.directory .. "/cert.pem"
end

local function make_certificate(self)
  child.must {
    file = "openssl", cwd = self.directory,
    args = { "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=localhost",
      "-addext", "subjectAltName=DNS:localhost,DNS:*." .. s3.dns_name .. ",IP:127.0.0.1",
      "-keyout", "key.pem", "-out", "cert.pem" },
  }
end

local function start(self)
  local osd = random_uuid()
  child.must {
    file = "monmaptool", cwd = self.directory,
    args = { "--create", "--fsid", self.fsid, "--addv", "a", self.monitor, "monmap" },
  }
  tool(self, "ceph-mon", "-i", "a", "--mkfs", "--monmap", self.directory .. "/monmap")
  daemon(self, "ceph-mon", "-i", "a")
  tool(self, "ceph", "--connect-timeout", READY_SECONDS, "osd", "new", osd)
  do
    local file <close> = assert(io.open(self.directory .. "/osd/fsid", "w"))
    file:write(osd, "\n")
  end
  tool(self, "ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
  daemon(self, "ceph-osd", "-i", "0")
  tool(self, "radosgw-admin", "-n", "client.rgw", "user", "create", "--uid=nebula", "--display-name=nebula",
    "--access-key=" .. s3.access_key_id, "--secret-key=" .. s3.secret_access_key)
  local gateway = daemon(self, "radosgw", "-n", "client.rgw")
  child.await("RADOS gateway (logs: " .. self.directory .. ")", READY_SECONDS, function()
    return child.run { file = "curl", args = { "-s", "-o", "/dev/null", self.endpoint } }.status == 0
  end, gateway)
end

--- Stops it for good and removes its files.
function Gateway:close()
  for _, started in ipairs(self.processes) do
    started:kill(9)
    started:wait()
  end
  directory.remove(self.directory)
end

Gateway.__close = Gateway.close

--- Starts a gateway of one's own. Close it: `local gateway <close> = s3.server()`.
---@return spec.Gateway
function s3.server()
  local attempt = 1
  while true do
    local where = directory.make("s3-" .. child.next_number "gateways")
    local self = setmetatable({ directory = where, processes = {} }, Gateway)
    configure(self)
    make_certificate(self)
    local started, problem = pcall(start, self)
    if started then return self end
    self:close()
    if attempt == ATTEMPTS then error(problem, 0) end
    attempt = attempt + 1
  end
end

-- The gateway of the whole run; where there is no run around this process, one of its own.
local shared = child.shared "s3"

local function shared_gateway()
  local endpoint = os.getenv(SHARED .. "ENDPOINT")
  if endpoint then
    return {
      endpoint = endpoint, tls_endpoint = os.getenv(SHARED .. "TLS_ENDPOINT"), ca_file = os.getenv(SHARED .. "CA_FILE"),
    }
  end
  shared.gateway = shared.gateway or s3.server()
  return shared.gateway
end

--- http://127.0.0.1:port of the shared gateway.
function s3.endpoint() return shared_gateway().endpoint end

--- https://127.0.0.1:port of the shared gateway.
function s3.tls_endpoint() return shared_gateway().tls_endpoint end

--- The certificate that the HTTPS port shows, which signs itself.
function s3.ca_file() return shared_gateway().ca_file end

--- Makes an empty bucket on the shared gateway and returns its name.
---@return string
function s3.bucket()
  local name = ("spec-%d-%d"):format(child.pid, child.next_number "buckets")
  child.must {
    file = "curl",
    args = { "-sS", "--fail-with-body", "-X", "PUT", "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD",
      "--aws-sigv4", "aws:amz:" .. s3.region .. ":s3",
      "--user", s3.access_key_id .. ":" .. s3.secret_access_key, s3.endpoint() .. "/" .. name },
  }
  return name
end

--- The options of nebula.s3.connect for a bucket (default: a fresh one).
---@param bucket string?
---@return table
function s3.options(bucket)
  return {
    endpoint = s3.endpoint(), region = s3.region, bucket = bucket or s3.bucket(), path_style = true,
    access_key_id = s3.access_key_id, secret_access_key = s3.secret_access_key,
  }
end

--- The environment that makes the host use a bucket (default: a fresh one).
---@param bucket string?
---@return table<string, string>
function s3.environment(bucket)
  return {
    S3_ENDPOINT = s3.endpoint(), S3_REGION = s3.region, S3_BUCKET = bucket or s3.bucket(),
    S3_USE_PATH_STYLE = "true", S3_ACCESS_KEY_ID = s3.access_key_id,
    S3_SECRET_ACCESS_KEY = s3.secret_access_key,
  }
end

--- Starts the shared gateway; what the processes of the run need in their environment to find it.
---@return table<string, string>
function s3.share()
  local gateway = shared_gateway()
  return {
    [SHARED .. "ENDPOINT"] = gateway.endpoint,
    [SHARED .. "TLS_ENDPOINT"] = gateway.tls_endpoint,
    [SHARED .. "CA_FILE"] = gateway.ca_file,
  }
end

--- Stops the shared gateway where this process has started it.
function s3.unshare()
  if shared.gateway then shared.gateway:close() end
  shared.gateway = nil
end

return s3
