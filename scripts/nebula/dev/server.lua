-- dev/server.lua: one private PostgreSQL server: find the programs, make a data directory, start,
-- look at, stop. Where it belongs to is dev.lua's business; everything here runs under dev's lock.
--
-- A server is `{base=, uid=, gid=, user=}`: `base` is a directory of the server's user alone (0700)
-- that holds `data/` and, where the path is short enough, `run/` with the socket. Whether a process
-- is this server is told by its current directory, which PostgreSQL sets to its data directory: a
-- pid in a stale file may long be somebody else's.
local nebula = require "nebula"
local process = require "nebula.process"
local system = require "nebula.system"

local server = {}

local SOCKET_NAME, SOCKET_PATH_MOST = ".s.PGSQL.5432", 107 -- bytes, of sockaddr_un
local START_SECONDS, STOP_SECONDS, POLL_SECONDS = 300, 60, 0.02
local ROLE = "nebula"

local function fail(message, detail)
  error(nebula.error { kind = "config", message = message, detail = detail }, 0)
end

local function read_file(path)
  local file <close> = io.open(path)
  return file and file:read "a"
end

local function write_file(path, text, mode)
  local file, message = io.open(path, mode or "w")
  if not file then error(nebula.error { kind = "io", message = "cannot write " .. message }, 0) end
  local ok, problem = file:write(text)
  if ok then ok, problem = file:close() end
  if not ok then error(nebula.error { kind = "io", message = ("cannot write %s: %s"):format(path, problem) }, 0) end
end

-- ---- programs ----

local function has_programs(directory)
  return system.stat(directory .. "/initdb") and system.stat(directory .. "/postgres")
end

--- The directory of PostgreSQL's programs: of the version that made the data, else the newest.
---@param data? string a data directory that exists
---@return string
function server.programs(data)
  local wanted = data and (read_file(data .. "/PG_VERSION") or ""):match "%S+"
  local versions = {}
  for _, name in ipairs(system.list "/usr/lib/postgresql" or {}) do
    if tonumber(name) and has_programs("/usr/lib/postgresql/" .. name .. "/bin") then versions[#versions + 1] = name end
  end
  table.sort(versions, function(a, b) return tonumber(a) > tonumber(b) end)
  for _, name in ipairs(versions) do
    if not wanted or name == wanted then return "/usr/lib/postgresql/" .. name .. "/bin" end
  end
  local answer = nebula.try(process.run, { file = "pg_config", args = { "--bindir", "--version" } })
  local directory, version = (answer and answer.stdout or ""):match "^([^\n]+)\nPostgreSQL (%d+)"
  if directory and has_programs(directory) and (not wanted or version == wanted) then return directory end
  if wanted then
    fail(("the database here was made by PostgreSQL %s, which is not installed: apt-get install postgresql-%s, "
      .. "or `nebula dev reset --yes` to begin anew"):format(wanted, wanted))
  end
  fail "PostgreSQL's server is not installed: apt-get install postgresql, or set DATABASE_URL"
end

-- ---- what runs ----

--- The server's data directory.
function server.data(self) return self.base .. "/data" end

local function is_server(pid, data)
  if system.readlink(("/proc/%d/cwd"):format(pid)) ~= data then return false end
  return (system.readlink(("/proc/%d/exe"):format(pid)) or ""):find "/postgres" ~= nil
end

-- Pids of every process of a server on this data directory.
local function pids_of(data)
  local pids = {}
  for _, name in ipairs(system.list "/proc" or {}) do
    local pid = math.tointeger(tonumber(name))
    if pid and is_server(pid, data) then pids[pid] = true end
  end
  return pids
end

-- The lines of postmaster.pid: pid, data, start, port, socket directory, address, shm, status.
local function read_pid_file(self)
  local text = read_file(server.data(self) .. "/postmaster.pid")
  if not text then return nil end
  local lines = {}
  for line in text:gmatch "([^\n]*)\n" do lines[#lines + 1] = line end
  local pid = math.tointeger(tonumber(lines[1]))
  if not pid then return nil end
  return { pid = pid, socket = lines[5], status = (lines[8] or ""):match "%S*" }
end

--- What the server does: nil where it does not run, else its pid, socket directory and status.
---@return {pid: integer, socket: string, status: string}?
function server.look(self)
  local found = read_pid_file(self)
  local data = system.realpath(server.data(self))
  if found and data and is_server(found.pid, data) then return found end
end

--- Where clients connect to.
---@return string url
function server.url(socket)
  local host = socket:gsub("[^%w/._~-]", function(c) return ("%%%02X"):format(c:byte()) end)
  return ("postgresql://%s@/%s?host=%s"):format(ROLE, ROLE, host)
end

-- ---- making ----

-- The user's own variables must not reach the server: PGPORT and PGDATA would.
local function environment()
  return { PATH = "/usr/bin:/bin", HOME = "/", LC_ALL = "C.UTF-8", TZ = "UTC" }
end

local function run_as(self, file, args, input)
  local answer = process.run { file = file, args = args, uid = self.uid, gid = self.gid, cwd = "/", stdin = input,
    env = environment(), clear_env = true, timeout = START_SECONDS }
  if answer.status ~= 0 or answer.signal then
    fail(("%s failed with status %d"):format(file, answer.signal or answer.status), answer.stderr .. answer.stdout)
  end
  return answer
end

local function memory_bytes()
  local kilobytes = tonumber((read_file "/proc/meminfo" or ""):match "MemTotal:%s*(%d+)") or (1 << 20)
  local cap = tonumber((read_file "/sys/fs/cgroup/memory.max" or ""):match "%d+")
  return math.min(kilobytes * 1024, cap or math.huge)
end

local function megabytes(bytes, least, most)
  return ("%dMB"):format(math.max(least, math.min(most, bytes // (1 << 20))))
end

-- Durable, and no bigger than a share of the machine that a developer does not notice.
local function settings()
  local memory = memory_bytes()
  return table.concat({
    "", "# nebula dev",
    "listen_addresses = ''",
    "unix_socket_permissions = 0700",
    "cluster_name = 'nebula-dev'",
    "max_connections = 250",
    "shared_buffers = " .. megabytes(memory / 8, 64, 1024),
    "effective_cache_size = " .. megabytes(memory / 2, 128, 65536),
    "maintenance_work_mem = " .. megabytes(memory / 32, 32, 256),
    "wal_compression = on",
    "max_wal_size = 2GB",
    "checkpoint_timeout = 15min",
    "random_page_cost = 1.1",
    "jit = off",
    "timezone = 'UTC'",
    "log_timezone = 'UTC'",
    "log_line_prefix = '%m [%p] '",
    "log_min_messages = warning",
    "log_checkpoints = off",
    "",
  }, "\n")
end

-- The socket lies in a directory of one user; peer authentication says the same once more.
local function access_files(self)
  local hba = "local all all peer map=nebula\n"
  local names, ident = { self.user, "root" }, {}
  for _, name in ipairs(names) do ident[#ident + 1] = ("nebula %q %s\n"):format(name, ROLE) end
  return hba, table.concat(ident)
end

--- Makes the data directory, whole or not at all.
function server.create(self)
  local data, new = server.data(self), self.base .. "/new"
  if system.stat(data) then return end
  system.remove_tree(new)
  system.mkdir(new, 448) -- 0700
  system.chown(new, self.uid, self.gid)
  local programs = server.programs()
  run_as(self, programs .. "/initdb", { "-D", new, "-U", ROLE, "-E", "UTF8", "--locale=C.UTF-8", "-A", "trust" })
  write_file(new .. "/postgresql.conf", settings(), "a")
  local hba, ident = access_files(self)
  write_file(new .. "/pg_hba.conf", hba)
  write_file(new .. "/pg_ident.conf", ident)
  run_as(self, programs .. "/postgres", { "--single", "-D", new, "postgres" }, ("CREATE DATABASE %s\n"):format(ROLE))
  local ok, message = os.rename(new, data)
  if not ok then error(nebula.error { kind = "io", message = message }, 0) end
end

-- ---- starting ----

-- The socket directory elsewhere that this server used last. The note tells whose it is: a copied
-- checkout brings a copy of it along.
local function kept_socket(self)
  local inode, path = (read_file(self.base .. "/socket") or ""):match "^(%d+) (/.*)$"
  if tonumber(inode) == system.stat(self.base).inode then return path end
end

-- A directory for the socket: `run/` of the server, or a short one of its user alone.
local function socket_directory(self)
  local near = self.base .. "/run"
  if #near + 1 + #SOCKET_NAME <= SOCKET_PATH_MOST then
    if system.mkdir(near, 448) then system.chown(near, self.uid, self.gid) end
    return near
  end
  local kept = kept_socket(self)
  local info = kept and system.stat(kept, false)
  if info and info.type == "directory" and info.uid == self.uid and info.mode == 448 then return kept end
  local runtime = os.getenv "XDG_RUNTIME_DIR"
  local own = runtime and self.uid == system.ids().uid and system.stat(runtime) and #runtime < 60
  local directory = system.mkdtemp((own and runtime or "/tmp") .. "/nebula-")
  system.chown(directory, self.uid, self.gid)
  write_file(self.base .. "/socket", ("%d %s"):format(system.stat(self.base).inode, directory))
  return directory
end

-- What a server that died left behind. Backends of a killed server may live on for a moment: no
-- second server may touch their data before they are gone.
local function clear_remains(self, socket)
  local data = system.realpath(server.data(self))
  local pids = pids_of(data)
  for attempt = 1, STOP_SECONDS // POLL_SECONDS do
    if not next(pids) then break end
    for pid in pairs(pids) do system.kill(pid, attempt > 250 and "KILL" or "QUIT") end
    nebula.task.sleep(POLL_SECONDS)
    pids = pids_of(data)
  end
  if next(pids) then fail(("processes of a dead server still use %s: process %d"):format(data, (next(pids)))) end
  os.remove(data .. "/postmaster.pid")
  os.remove(socket .. "/" .. SOCKET_NAME)
  os.remove(socket .. "/" .. SOCKET_NAME .. ".lock")
end

local function log_tail(path, from)
  local file <close> = io.open(path)
  if not file then return nil end
  file:seek("set", from)
  local text = file:read "a"
  return #text > 2000 and "..." .. text:sub(-2000) or text
end

--- Starts the server and waits until it takes connections.
---@param log string the file for what it says
---@return {pid: integer, socket: string, status: string}
function server.start(self, log)
  local data = server.data(self)
  local programs = server.programs(data)
  local socket = socket_directory(self)
  clear_remains(self, socket)
  local info = system.stat(log)
  if info and info.size > 10 << 20 then os.rename(log, log .. ".1") end
  local from = info and info.size <= 10 << 20 and info.size or 0
  local child = process.spawn { file = programs .. "/postgres", args = { "-D", data, "-p", "5432", "-k", socket },
    uid = self.uid, gid = self.gid, cwd = "/", env = environment(), clear_env = true, detached = true,
    stdin = "null", stdout = log, stderr = "stdout" }
  local deadline = nebula.time.monotonic() + START_SECONDS
  repeat
    local ended = child:wait(POLL_SECONDS)
    if ended then
      fail("the private PostgreSQL did not start; its log is " .. log, log_tail(log, from))
    end
    local found = server.look(self)
    if found and found.status == "ready" then return found end
  until nebula.time.monotonic() > deadline
  fail("the private PostgreSQL is not ready after " .. START_SECONDS .. " s; its log is " .. log, log_tail(log, from))
end

--- Stops the server and waits for its end: sessions are ended, nothing committed is lost.
---@return boolean stopped false where it did not run
function server.stop(self)
  local found = server.look(self)
  if not found then return false end
  system.kill(found.pid, "INT")
  local deadline = nebula.time.monotonic() + STOP_SECONDS
  while server.look(self) do
    if nebula.time.monotonic() > deadline then
      system.kill(found.pid, "QUIT")
      deadline = deadline + STOP_SECONDS
    end
    nebula.task.sleep(POLL_SECONDS)
  end
  return true
end

--- Removes the server's files, wherever they are.
function server.remove(self)
  local socket = system.stat(self.base) and kept_socket(self)
  local info = socket and system.stat(socket, false)
  if info and info.uid == self.uid and socket:find "/nebula%-%w+$" then system.remove_tree(socket) end
  system.remove_tree(self.base)
end

return server
