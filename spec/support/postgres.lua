-- postgres.lua: a real PostgreSQL for the specs, private to them: unix socket only, no password, not
-- durable against a crash of the machine. One is shared by a whole run (spec/support/run.lua
-- starts it); a spec that stops, kills or configures its server starts one of its own. As root the
-- server runs as the user `postgres` of the Debian package, since it refuses to run as root.
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local nebula = require "nebula"

local postgres = {}

-- The server's programs; the clients are Debian's, since the servers that npm has come without.
local BIN = os.getenv "NEBULA_SPEC_POSTGRES_BIN" or "/usr/lib/postgresql/15/bin"
local CLIENTS = "/usr/lib/postgresql/15/bin"
local USER = child.is_root and "postgres" or nil
local SHARED = "NEBULA_SPEC_POSTGRES" -- the environment variable: the shared server's directory
local READY_SECONDS = 120

local SETTINGS = {
  listen_addresses = "",
  fsync = "off",
  max_connections = "200",
  log_line_prefix = "%m [%p] %a ",
  timezone = "UTC",
}

local STOP_SIGNALS = { smart = 15, fast = 2, immediate = 3 }

--- A running (or stopped) server of the specs.
---@class spec.Server
---@field directory string where its socket, data and log are
local Server = {}
Server.__index = Server

local function encoded(text)
  return (text:gsub("[^%w/._~-]", function(c) return ("%%%02X"):format(c:byte()) end))
end

local function url_of(where, database)
  return ("postgresql://nebula@/%s?host=%s"):format(database, encoded(where))
end

local function create_database(where, name)
  name = name or ("spec_%d_%d"):format(child.pid, child.next_number "databases")
  child.must {
    file = CLIENTS .. "/psql", cwd = "/",
    args = { "-X", "-q", "-h", where, "-U", "nebula", "-d", "postgres",
      "-c", ('CREATE DATABASE "%s" TEMPLATE template0'):format((name:gsub('"', '""'))) }, -- nobody is connected there
  }
  return url_of(where, name)
end

-- The last line for a name is the one in force.
local function write_settings(where, settings)
  local conf <close> = assert(io.open(where .. "/data/postgresql.conf", "a"))
  for name, value in pairs(settings) do
    conf:write(("%s = '%s'\n"):format(name, (value:gsub("'", "''"))))
  end
end

-- A copy of the running server's data, as the manual's "low-level API" of base backups has it:
-- pg_basebackup refuses servers newer than itself. The WAL comes by streaming.
local function copy_data(server, where)
  local db <close> = nebula.pg.connect { url = server:url "postgres", max_connections = 1 }
  local session <close> = db:acquire()
  session:exec "SELECT pg_backup_start('standby', true)"
  local archive = where .. "/data.tar"
  local made = child.run {
    file = "tar", user = USER, cwd = where,
    args = { "--exclude=./pg_wal/*", "--exclude=./postmaster.pid", "--exclude=pgsql_tmp*", "-cf", archive,
      "-C", server.directory .. "/data", "." },
  }
  assert(made.status == 0 or made.status == 1, made.stderr) -- 1: files changed or went meanwhile
  local label = session:value "SELECT labelfile FROM pg_backup_stop(false)"
  child.must { file = "install", user = USER, cwd = where, args = { "-d", "-m", "700", where .. "/data" } }
  child.must { file = "tar", user = USER, cwd = where, args = { "-xf", archive, "-C", where .. "/data" } }
  child.must { file = "rm", args = { archive } }
  for name, content in pairs { backup_label = label, ["standby.signal"] = "" } do
    -- by the server's user: it opens them for writing
    child.must { file = "tee", user = USER, cwd = where, args = { "data/" .. name }, stdin = content }
  end
end

--- Starts a hot standby of it, that follows by streaming. Close it too.
---@return spec.Server
function Server:standby()
  local where = directory.make("postgres-" .. child.next_number "servers", USER)
  copy_data(self, where)
  write_settings(where, {
    unix_socket_directories = where, wal_retrieve_retry_interval = "100ms",
    primary_conninfo = ("host=%s user=nebula"):format(self.directory),
  })
  local standby = setmetatable({ directory = where }, Server)
  standby:start()
  return standby
end

--- The URL of one of its databases; "nebula" is always there.
---@param database string?
---@return string
function Server:url(database) return url_of(self.directory, database or "nebula") end

--- Makes an empty database and returns its URL.
---@param name string?
---@return string
function Server:database(name) return create_database(self.directory, name) end

--- What the server has logged.
---@return string
function Server:log() return child.read_file(self.directory .. "/log") or "" end

--- Starts the stopped server and waits until it accepts connections.
function Server:start()
  assert(not self.process, "it runs already")
  self.process = child.spawn {
    file = BIN .. "/postgres", args = { "-D", self.directory .. "/data" },
    user = USER, end_signal = "QUIT", cwd = self.directory, env = self.env,
    stdin = "", stdout = self.directory .. "/log", stderr = "stdout",
  }
  child.await("PostgreSQL (log: " .. self.directory .. "/log)", READY_SECONDS, function()
    local pid_file = child.read_file(self.directory .. "/data/postmaster.pid")
    return pid_file and tonumber(pid_file:match("^%d+")) == self.process.pid and pid_file:find("ready")
  end, self.process)
end

--- Sends a signal to the server's first process and waits for nothing.
---@param signal integer
function Server:signal(signal) self.process:kill(signal) end

--- Stops the server and waits for its end. "smart" waits for clients, "fast" (default) breaks their
--- connections, "immediate" leaves the next start to crash recovery.
---@param mode "smart"|"fast"|"immediate"|nil
function Server:stop(mode)
  if not self.process then return end
  self.process:kill(STOP_SIGNALS[mode or "fast"])
  self.process:wait()
  self.process = nil
end

---@param mode "smart"|"fast"|"immediate"|nil
function Server:restart(mode)
  self:stop(mode)
  self:start()
end

--- Stops the server for good and removes its files.
function Server:close()
  self:stop("immediate")
  directory.remove(self.directory)
end

Server.__close = Server.close

--- Makes a standby a server that takes writes, and waits until it does.
function Server:promote()
  child.must {
    file = BIN .. "/pg_ctl", user = USER, cwd = self.directory,
    args = { "promote", "-w", "-D", self.directory .. "/data" },
  }
end

--- Starts it anew on a disk that can be made full.
function Server:with_disk()
  local library, flag = self.directory .. "/full_disk.so", self.directory .. "/full"
  child.must { file = "install", args = { "-m", "755", directory.build .. "/full_disk.so", library } }
  self.env = { LD_PRELOAD = library, NEBULA_SPEC_FULL = flag }
  self:restart()
end

--- From now on there is no room for anything more on its disk; or there is again.
---@param full boolean
function Server:fill_disk(full)
  if full then
    nebula.fs.write(self.env.NEBULA_SPEC_FULL, "")
  else
    nebula.fs.remove(self.env.NEBULA_SPEC_FULL)
  end
end

--- Changes settings of the running server; those that can only be set at its start wait for it.
---@param settings table<string, string>
function Server:set(settings)
  write_settings(self.directory, settings)
  self:signal(1)
end

--- Starts a server. Close it: `local server <close> = postgres.server()`.
---@param settings table<string, string>? lines of postgresql.conf besides the defaults
---@return spec.Server
function postgres.server(settings)
  local where = directory.make("postgres-" .. child.next_number "servers", USER)
  child.must {
    file = BIN .. "/initdb", user = USER, cwd = where,
    args = { "-D", where .. "/data", "-U", "nebula", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync" },
  }
  write_settings(where, { unix_socket_directories = where })
  write_settings(where, SETTINGS)
  write_settings(where, settings or {})

  local server = setmetatable({ directory = where }, Server)
  server:start()
  server:database("nebula")
  return server
end

-- The server of the whole run; where there is no run around this process, one of its own.
local shared = child.shared "postgres"

local function shared_directory()
  local given = os.getenv(SHARED)
  if given then return given end
  shared.server = shared.server or postgres.server()
  return shared.server.directory
end

--- The URL of a database of the shared server; "nebula" is always there.
---@param database string?
---@return string
function postgres.url(database) return url_of(shared_directory(), database or "nebula") end

--- Makes an empty database on the shared server and returns its URL: one a spec file.
---@param name string?
---@return string
function postgres.database(name) return create_database(shared_directory(), name) end

--- Starts the shared server; what the processes of the run need in their environment to find it.
---@return table<string, string>
function postgres.share()
  return { [SHARED] = shared_directory() }
end

--- Stops the shared server where this process has started it.
function postgres.unshare()
  if shared.server then shared.server:close() end
  shared.server = nil
end

return postgres
