-- pooler.lua: Debian's pgbouncer in transaction mode, in front of a server of the specs: unix socket
-- only, no password. As root it runs as the user `postgres`, since it refuses to run as root.
local child = require "spec.support.child"
local directory = require "spec.support.directory"

local pooler = {}

local READY_SECONDS = 120

---@class spec.Pooler
---@field url string of the database behind it
local Pooler = {}
Pooler.__index = Pooler

function Pooler:close()
  self.process:kill(3)
  self.process:wait()
  directory.remove(self.directory)
end

Pooler.__close = Pooler.close

--- Starts a pooler for the database "nebula" of the server, with `size` connections to it.
---@param server spec.Server
---@param size integer
---@return spec.Pooler
function pooler.start(server, size)
  local user = child.is_root and "postgres" or nil
  local where = directory.make("pooler-" .. child.next_number "poolers", user)
  do
    local conf <close> = assert(io.open(where .. "/pgbouncer.ini", "w"))
    conf:write(("[databases]\nnebula = host=%s dbname=nebula user=nebula\n[pgbouncer]\nlisten_addr =\n"
      .. "unix_socket_dir = %s\nauth_type = any\npool_mode = transaction\ndefault_pool_size = %d\n")
      :format(server.directory, where, size))
  end
  local process = child.spawn {
    file = "/usr/sbin/pgbouncer", args = { where .. "/pgbouncer.ini" }, user = user, end_signal = "QUIT",
    cwd = where, stdin = "", stdout = where .. "/log", stderr = "stdout",
  }
  child.await("pgbouncer (log: " .. where .. "/log)", READY_SECONDS, function()
    return (child.read_file(where .. "/log") or ""):find("process up", 1, true)
  end, process)
  return setmetatable({
    directory = where, process = process, url = ("postgresql://nebula@/nebula?host=%s&port=6432"):format(where),
  }, Pooler)
end

return pooler
