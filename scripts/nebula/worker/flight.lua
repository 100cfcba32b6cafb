-- worker/flight.lua: what ran when a process died.
--
-- Jobs under a row lock leave no trace in the database when their process dies: they would be
-- claimed again for ever, also the one that kills its process. So the ids of each batch stand in a
-- small file while it runs, one a session, written in place. A lock on a file beside it says that
-- its process lives. The next start finds the files of the dead, counts an attempt on each job that
-- is still pending, and marks it to run alone.
local nebula = require "nebula"
local system = require "nebula.system"

---@class nebula.Flight
local Flight = {}
Flight.__index = Flight

local END = "\n."
local WIDEST = 1 << 20 -- of the buffer, so that a batch goes in one write

local function default_directory()
  local runtime = os.getenv "XDG_RUNTIME_DIR"
  if runtime and runtime ~= "" and system.stat(runtime) then return runtime .. "/nebula" end
  return ("/tmp/nebula-%d"):format(system.ids().uid)
end

-- Which database the ids belong to: files of others are left alone.
local function database_mark(db)
  local mark = nebula.try(db.value, db, [[
    SELECT system_identifier::text || '-' || d.oid
    FROM pg_control_system(), pg_database d
    WHERE d.datname = current_database()
  ]]) or db:value "SELECT current_database()"
  return nebula.crypto.sha256(mark):sub(1, 16)
end

--- Opens this worker's files. A directory that cannot be written is told, and the worker goes on
--- without.
---@param db nebula.pg.Pool
---@param worker string UUID
---@param directory? string
---@return nebula.Flight
function Flight.open(db, worker, directory)
  directory = directory or default_directory()
  local self = setmetatable({ directory = directory, mark = database_mark(db), worker = worker, files = {},
    last = {} }, Flight)
  local _, err = nebula.try(function()
    if not system.stat(directory) then system.mkdir(directory, tonumber("700", 8)) end
    self.lock_path = self:path(worker, "lock")
    self.lock = system.lock(self.lock_path)
  end)
  if err then
    nebula.log.warn("jobs that kill this process will not be noticed: the directory cannot be written",
      { directory = directory, error = err.message or tostring(err) })
  end
  return self
end

function Flight:path(worker, kind) return ("%s/%s_%s.%s"):format(self.directory, self.mark, worker, kind) end

--- The ids that a session runs from now on.
---@param session integer
---@param ids string[]
function Flight:write(session, ids)
  if not self.lock or (#ids == 0 and self.last[session] == 0) then return end
  self.last[session] = #ids
  local file = self.files[session]
  if not file then
    local message
    file, message = io.open(self:path(self.worker, "flight" .. session), "wb")
    if not file then
      nebula.log.warn("the file of running jobs cannot be written", { error = message })
      self.lock = nil
      return
    end
    file:setvbuf("full", WIDEST)
    self.files[session] = file
  end
  file:seek "set"
  file:write(table.concat(ids, "\n"), END)
  file:flush()
end

local function read_ids(path)
  local file <close> = io.open(path, "rb")
  local text = file and file:read "a" or ""
  local ids = {}
  local last = text:find(END, 1, true)
  for id in text:sub(1, last or -1):gmatch "[%x-]+" do
    if #id == 36 then ids[#ids + 1] = id end
  end
  return ids
end

--- Looks after the jobs of processes that died on this machine.
---@param worker nebula.Worker
function Flight:recover(worker)
  if not self.lock then return end
  local names = system.list(self.directory) or {}
  for _, name in ipairs(names) do
    local dead = name:match("^" .. self.mark .. "_([%x-]+)%.lock$")
    if dead and dead ~= self.worker then
      local path = self.directory .. "/" .. name
      local held <close> = nebula.try(system.lock, path)
      if held then
        local ids, files = {}, {}
        for _, other in ipairs(names) do
          if other:find(self.mark .. "_" .. dead .. ".flight", 1, true) == 1 then
            files[#files + 1] = self.directory .. "/" .. other
            for _, id in ipairs(read_ids(files[#files])) do ids[#ids + 1] = id end
          end
        end
        local count = worker.keeper:rescue_dead(ids, dead)
        if count > 0 then
          worker.log.warn("a worker died here; its jobs were rescued", { worker = dead, jobs = count })
        end
        for _, file in ipairs(files) do os.remove(file) end
        os.remove(path)
      end
    end
  end
end

function Flight:close()
  for session, file in pairs(self.files) do
    file:close()
    os.remove(self:path(self.worker, "flight" .. session))
  end
  self.files = {}
  if self.lock then
    os.remove(self.lock_path)
    local _ <close> = self.lock
    self.lock = nil
  end
end

Flight.__close = Flight.close

return Flight
