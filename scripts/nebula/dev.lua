-- dev.lua: the private PostgreSQL (and blob directory) of one checkout, under `.nebula/`.
--
-- Unix socket only, no port, no password: the socket's directory belongs to the server's user, and
-- nobody else but root may enter it. A server refuses to run as root; there it runs as the user of
-- PostgreSQL's package, and where that user cannot enter the checkout its data lie under
-- /var/lib/nebula in a directory with an unguessable name, which `.nebula/dev.json` records.
--
--   .nebula/lock        held while something is made, started or stopped
--   .nebula/dev.json    {version, base, uid, gid, user, inode}
--   .nebula/server/     the server's base (see dev/server.lua), unless it lies elsewhere
--   .nebula/blobs/      the embedded blob store
local nebula = require "nebula"
local server = require "nebula.dev.server"
local system = require "nebula.system"

local dev = {}

local LOCK_SECONDS, POLL_SECONDS = 300, 0.02
local ELSEWHERE = { "/var/lib/nebula", "/var/tmp/nebula" }

local function fail(message) error(nebula.error { kind = "config", message = message }, 0) end

-- ---- the record ----

local function read_record(state)
  local file <close> = io.open(state .. "/dev.json")
  if not file then return nil end
  local ok, record = pcall(nebula.json.decode, file:read "a")
  if not ok or type(record) ~= "table" or type(record.base) ~= "string" then
    fail(state .. "/dev.json cannot be read; `nebula dev reset --yes` begins anew")
  end
  if record.base == "server" then
    record.base = state .. "/server"
  elseif record.inode ~= system.stat(state).inode then
    record.foreign = true -- a copy of another checkout's .nebula: that database is not ours
  end
  return record
end

local function write_record(state, record)
  local text = nebula.json.encode(record)
  local path = state .. "/dev.json"
  local file, message = io.open(path .. ".new", "w")
  if not file then error(nebula.error { kind = "io", message = "cannot write " .. message }, 0) end
  file:write(text, "\n")
  file:close()
  local ok, problem = os.rename(path .. ".new", path)
  if not ok then error(nebula.error { kind = "io", message = problem }, 0) end
end

-- ---- where the server's files are ----

local function may_enter(path, uid)
  while path ~= "" do
    local info = system.stat(path)
    if info.uid ~= uid and info.mode & 1 == 0 then return false end
    path = path:match "^(.*)/[^/]*$"
  end
  return true
end

local function server_user()
  local ids = system.ids()
  if ids.uid ~= 0 then
    local user = system.user(ids.uid)
    if not user then fail("user id " .. ids.uid .. " has no name in /etc/passwd, which PostgreSQL wants") end
    return user
  end
  return system.user "postgres"
    or fail "PostgreSQL does not run as root, and there is no user postgres: apt-get install postgresql"
end

local function make_elsewhere()
  local reasons = {}
  for _, parent in ipairs(ELSEWHERE) do
    local _, err = nebula.try(system.mkdir, parent, 457) -- 0711: enter, not list
    local info = not err and system.stat(parent, false)
    if info and info.type == "directory" and info.uid == 0 then
      local base, problem = nebula.try(system.mkdtemp, parent .. "/dev-")
      if base then return base end
      err = problem
    end
    reasons[#reasons + 1] = err and err.message or parent .. " is not a directory of root's"
  end
  fail("no place for the database: " .. table.concat(reasons, "; "))
end

local function make_record(state)
  local user = server_user()
  local record = { version = 1, uid = user.uid, gid = user.gid, user = user.name, inode = system.stat(state).inode }
  local base
  if user.uid == system.ids().uid or may_enter(state, user.uid) then
    base, record.base = state .. "/server", "server"
    system.mkdir(base, 448) -- 0700
  else
    base = make_elsewhere()
    record.base = base
  end
  system.chown(base, user.uid, user.gid)
  write_record(state, record)
  record.base = base
  return record
end

-- ---- locking ----

local function take_lock(state)
  local deadline = nebula.time.monotonic() + LOCK_SECONDS
  while true do
    local lock = system.lock(state .. "/lock")
    if lock then return lock end
    if nebula.time.monotonic() > deadline then
      fail(("another nebula has held %s/lock for %d s; end it and try again"):format(state, LOCK_SECONDS))
    end
    nebula.task.sleep(POLL_SECONDS)
  end
end

local function check_owner(state)
  local info, uid = system.stat(state), system.ids().uid
  if uid ~= 0 and info.uid ~= uid then
    local owner = system.user(info.uid)
    fail(("%s belongs to %s: run nebula as that user, or remove it"):format(state, owner and owner.name or info.uid))
  end
end

local function make_blobs(state)
  local owner = system.stat(state)
  if system.mkdir(state .. "/blobs", 448) then system.chown(state .. "/blobs", owner.uid, owner.gid) end
end

local function make_state(directory)
  local state = directory .. "/.nebula"
  if system.mkdir(state, 457) then -- 0711: the server's user passes through
    local file = io.open(state .. "/.gitignore", "w")
    if file then
      file:write "*\n"
      file:close()
    end
  end
  check_owner(state)
  make_blobs(state)
  return state
end

-- ---- the operations ----

--- Makes `.nebula/` in a directory: what needs a database there starts a private one by itself.
---@param directory string
---@return string state its path
function dev.prepare(directory) return make_state(system.realpath(directory)) end

local function refuse_foreign(state)
  fail(state .. " is a copy of another checkout's, whose database it does not own; `nebula dev reset --yes` "
    .. "makes one for this checkout")
end

local function start(state, note)
  local record = read_record(state) or make_record(state)
  if record.foreign then refuse_foreign(state) end
  local found = server.look(record)
  if found and found.status == "ready" then return found, record, false end
  if not system.stat(server.data(record)) then
    if note then note "making a private PostgreSQL" end
    if not system.stat(record.base) then
      os.remove(state .. "/dev.json")
      fail(("the database's directory %s is gone; run `nebula dev up` to begin with an empty one"):format(record.base))
    end
    server.create(record)
  end
  if found then -- it starts or stops right now: without our lock, so by somebody's hand
    server.stop(record)
  end
  if note then note "starting the private PostgreSQL" end
  return server.start(record, state .. "/postgres.log"), record, true
end

--- Makes what is missing and starts the server. Safe to call twice, and from many processes.
---@param directory? string default: where `.nebula` is, else the current directory
---@param note? fun(text: string) told what takes a moment
---@return {url: string, pid: integer, started: boolean, state: string, base: string}
function dev.up(directory, note)
  directory = directory or (require("nebula.project").state() or ""):match "^(.*)/%.nebula$" or system.cwd()
  if directory == "" then directory = "/" end
  local state = make_state(system.realpath(directory))
  local _ <close> = take_lock(state)
  local found, record, started = start(state, note)
  return { url = server.url(found.socket), pid = found.pid, started = started, state = state, base = record.base }
end

--- The URL of this `.nebula`'s database, started where it does not run. May wait.
---@param state string the path of `.nebula`
---@return string url
function dev.ensure(state)
  state = system.realpath(state)
  check_owner(state)
  local record = read_record(state)
  local found = record and not record.foreign and server.look(record)
  if found and found.status == "ready" then return server.url(found.socket) end
  local terminal = system.isatty(2)
  return dev.up(state:match "^(.*)/%.nebula$", function(text)
    if terminal then io.stderr:write("nebula: ", text, "\n") end
  end).url
end

--- Stops the server.
---@param state string
---@return boolean stopped false where it did not run
function dev.down(state)
  check_owner(state)
  local _ <close> = take_lock(state)
  local record = read_record(state)
  return record ~= nil and not record.foreign and server.stop(record)
end

--- What there is and whether it runs.
---@param state string
---@return {running: boolean, status: string, pid?: integer, url?: string, base?: string, user?: string, log: string}
function dev.status(state)
  local record = read_record(state)
  local status = { running = false, status = "absent", state = state, log = state .. "/postgres.log",
    blobs = state .. "/blobs" }
  if not record then return status end
  if record.foreign then
    status.status = "copied"
    return status
  end
  local found = server.look(record)
  status.base, status.user = record.base, record.user
  status.status = found and found.status or "stopped"
  status.running = found ~= nil
  if found then status.pid, status.url = found.pid, server.url(found.socket) end
  return status
end

--- Stops the server and removes its data and the embedded blobs.
---@param state string
function dev.reset(state)
  check_owner(state)
  local _ <close> = take_lock(state)
  local record = read_record(state)
  if record and not record.foreign then
    local info = system.stat(record.base, false)
    if info and (info.type ~= "directory" or info.uid ~= record.uid) then
      fail(("%s is not the directory that %s/dev.json means; remove both by hand"):format(record.base, state))
    end
    if info then
      server.stop(record)
      server.remove(record)
    end
  end
  os.remove(state .. "/dev.json")
  system.remove_tree(state .. "/blobs")
  make_blobs(state)
end

return dev
