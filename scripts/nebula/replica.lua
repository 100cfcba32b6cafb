-- replica.lua: reads that go to a replica, and to the primary where the replica cannot answer.
--
-- A replica is behind by what it has not replayed yet: who must see what was just written reads by
-- storage:fresh(). A read that the replica cannot do (it is away, it cancels a query that is in the
-- way of its replay, it has not seen a migration yet) is done by the primary; one that is away is not
-- asked again for a while.
local nebula = require "nebula"

local replica = {}

local AWAY_SECONDS = 5
local CONNECT_SECONDS = 2

-- Classes of SQLSTATE of a replica that is away: no connection, refused, no such database, shutting down.
local AWAY = { ["08"] = true, ["28"] = true, ["3D"] = true, ["57"] = true }

-- SQLSTATEs of a replica that is behind: no such table, column, function.
local BEHIND = { ["42P01"] = true, ["42703"] = true, ["42883"] = true }

---@class nebula.Replica
---@field replica nebula.pg.Pool
---@field primary nebula.pg.Pool
local Replica = {}
Replica.__index = Replica

-- Whether the primary may do better; and whether the replica is away.
local function judged(err)
  if err.kind == "pool" or err.source == "database" and not err.code then return true, true end
  if AWAY[err.code and err.code:sub(1, 2)] then return true, true end
  return err.retryable or BEHIND[err.code] or false, false
end

local function reading(method)
  return function(self, ...)
    if nebula.time.monotonic() < self.away_until then return self.primary[method](self.primary, ...) end
    local results = table.pack(nebula.try(self.replica[method], self.replica, ...))
    local err = results[2]
    if results[1] ~= nil or not err then return table.unpack(results, 1, results.n) end
    local elsewhere, away = judged(err)
    if not elsewhere then error(err, 0) end
    if away then
      self.away_until = nebula.time.monotonic() + AWAY_SECONDS
      nebula.log.warn("the replica cannot be read; reads go to the primary", { error = err.message })
    end
    return self.primary[method](self.primary, ...)
  end
end

Replica.query, Replica.one, Replica.value = reading "query", reading "one", reading "value"

function Replica:close() self.replica:close() end

--- Reads of the same data as the primary's. Nothing is connected until it is used.
---@param pool_options table of the primary's pool
---@param url string
---@param primary nebula.pg.Pool
---@return nebula.Replica
function replica.open(pool_options, url, primary)
  local own = {}
  for name, value in pairs(pool_options) do own[name] = value end
  own.url, own.read_only, own.min_connections = url, true, 0
  own.connection_timeout = math.min(own.connection_timeout or CONNECT_SECONDS, CONNECT_SECONDS)
  return setmetatable({ replica = nebula.pg.connect(own), primary = primary, away_until = -math.huge }, Replica)
end

return replica
