-- throttle.lua: what a long job on a live database looks at between two batches, so that it harms
-- nobody: replicas that fall behind, an autovacuum of its table, a server that is busy.
local nebula = require "nebula"

local throttle = {}

local LOOK_SECONDS, WAIT_SECONDS = 1, 0.5
local BUSY_SECONDS = 2 -- for which somebody is taken to be at work after a statement of theirs was seen
local VACUUM_FACTOR, LONGEST_REST = 3, 5 -- times the batch's own duration; seconds
local SHARE = 2 -- times the batch's own duration, where others have statements running
local LAG_BYTES = 256 << 20

-- A replica that keeps up reports no lag, or a short one; one that has stopped falls behind in bytes.
local LAG = ([[
  SELECT coalesce(nullif(application_name, ''), 'a replica') AS name,
    extract(epoch FROM replay_lag)::float8 AS seconds,
    pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::float8 AS bytes
  FROM pg_stat_replication
  WHERE state = 'streaming' AND (extract(epoch FROM replay_lag) > $1
    OR pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) > %d)
  ORDER BY bytes DESC
  LIMIT 1
]]):format(LAG_BYTES)

local VACUUM = "SELECT EXISTS (SELECT FROM pg_stat_progress_vacuum WHERE relid = to_regclass($1))"

local BUSY = [[
  SELECT count(*)
  FROM pg_stat_activity
  WHERE state = 'active' AND backend_type = 'client backend' AND pid <> pg_backend_pid()
]]

---@class nebula.Throttle
local Throttle = {}
Throttle.__index = Throttle

--- Makes one. What this user may not see (replication, others' sessions) holds nothing up.
---@param opts {table?: string, max_lag: number, max_active?: integer, log: fun(line: string), label: string}
---  table: its vacuum slows the job down; max_lag: seconds; max_active: statements at the server; where
---  others run any, two thirds of the time are left to them
---@return nebula.Throttle
function throttle.new(opts) return setmetatable({ opts = opts }, Throttle) end

-- Whether there is something to wait for; said once.
local function held_up(self, db, told)
  local opts = self.opts
  local lag = db:one(LAG, opts.max_lag)
  local crowded = opts.max_active and self.active > opts.max_active
  if lag and not told then
    opts.log(("%s waits for %s, %s behind"):format(opts.label, lag.name,
      lag.seconds and ("%.0f s"):format(lag.seconds) or ("%.0f MiB"):format(lag.bytes / (1 << 20))))
  elseif crowded and not told then
    opts.log(("%s waits: %d statements run at the server"):format(opts.label, self.active))
  end
  return lag or crowded
end

-- Statements of others are short: each pause looks, so that a busy server is not taken for an idle one.
local function look(self, db)
  self.active = db:value(BUSY)
  if self.active > 0 then self.shared_until = nebula.time.monotonic() + BUSY_SECONDS end
end

--- Waits while the server asks for it. Call it between two batches.
---@param db nebula.pg.queries
---@param took number seconds that the last batch took
function Throttle:rest(db, took)
  if self.opts.max_active then look(self, db) end
  local now = nebula.time.monotonic()
  if now - (self.looked or -math.huge) >= LOOK_SECONDS then
    local told = false
    while held_up(self, db, told) do
      told = true
      nebula.task.sleep(WAIT_SECONDS)
      if self.opts.max_active then look(self, db) end
    end
    self.vacuumed = self.opts.table and db:value(VACUUM, self.opts.table)
    self.looked = nebula.time.monotonic()
  end
  local factor = self.vacuumed and VACUUM_FACTOR or (self.shared_until or 0) > now and SHARE or 0
  if factor > 0 then nebula.task.sleep(math.min(took * factor, LONGEST_REST)) end
end

return throttle
