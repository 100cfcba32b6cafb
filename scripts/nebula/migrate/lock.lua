-- migrate/lock.lua: one migrator at a time, and who it is that another waits for.
--
-- Two advisory locks, salted with the database's name. A migrator holds the first on a connection
-- that runs nothing else, so that no snapshot of its session holds up a CREATE INDEX CONCURRENTLY;
-- the second on the connection that works. A migrator that was killed loses the first at once, but
-- the server may still run its last statement: whoever holds the first ends the holder of the
-- second, and so never works beside a leftover of its own kind.
local advisory = require "nebula.advisory"
local nebula = require "nebula"

local lock = {}

local POLL_SECONDS = 0.1
local MIGRATOR, WORK = advisory.key("nebula migrate", 0), advisory.key("nebula migrate", 1)

local BLOCKERS = advisory.SESSION .. "WHERE pid = ANY (pg_blocking_pids($1::int)) ORDER BY xact_start"

--- Who holds up the session with this pid, in words; nil where nobody does.
---@param connection nebula.pg.Connection another one
---@param pid integer
---@return string?
function lock.blockers(connection, pid)
  local words = {}
  for i, row in ipairs(connection:query(BLOCKERS, pid)) do
    words[i] = advisory.described(row) .. (row.query and row.query ~= "" and (": %s"):format(row.query) or "")
  end
  return words[1] and table.concat(words, "; ") or nil
end

-- Polled, because a session that waits inside pg_advisory_lock holds a snapshot.
local function take(connection, key, on_wait)
  while not advisory.try(connection, key) do
    local holder = advisory.holder(connection, key)
    if holder then on_wait(holder) end
    nebula.task.sleep(POLL_SECONDS)
  end
end

---@class nebula.MigrationLock
---@field connection nebula.pg.Connection holds the lock and may look around
---@field work nebula.pg.Connection
---@field pid integer of `work`
local Lock = {}
Lock.__index = Lock

--- Waits until this is the one migrator. Close it: `local held <close> = lock.hold(db, log)`.
---@param db nebula.pg.Pool with two connections free
---@param log fun(line: string)
---@return nebula.MigrationLock
function lock.hold(db, log)
  local self = setmetatable({ connection = db:acquire { name = "migrator" } }, Lock)
  local _, err = nebula.try(function()
    local told
    take(self.connection, MIGRATOR, function(holder)
      if told ~= holder.pid then log("another migrator works: " .. advisory.described(holder) .. "; waiting for it") end
      told = holder.pid
    end)
    self.work = db:acquire { name = "migrator" }
    local ended
    take(self.work, WORK, function(holder)
      if ended == holder.pid then return end
      ended = holder.pid
      log(("ending what an interrupted migrator left running: %s: %s"):format(advisory.described(holder),
        tostring(holder.query)))
      self.work:exec("SELECT pg_terminate_backend($1::int)", holder.pid)
    end)
    self.pid = self.work:value "SELECT pg_backend_pid()"
  end)
  if err then
    self:close()
    error(err, 0)
  end
  return self
end

local function give_back(connection, key)
  if not connection then return end
  advisory.unlock(connection, key)
  connection:close()
end

--- Gives up the locks and the connections.
function Lock:close()
  give_back(self.work, WORK)
  give_back(self.connection, MIGRATOR)
  self.work, self.connection = nil, nil
end

Lock.__close = Lock.close

return lock
