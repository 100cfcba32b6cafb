-- jobs/slots.lua: the places of a capped lane, while its jobs run under row locks.
--
-- A job under a lease is counted by its row. One under a row lock is not to be seen by others, so its
-- transaction also holds places: advisory locks, which end with it, however it ends. Who wants to take
-- u jobs of a lane first locks places, s of the cap, then counts in a new statement what runs under
-- leases, r, and takes u <= s - r. Places are locked by one transaction each, and jobs that become
-- leases are visible before their places are free: so the sum of all never exceeds the cap.
--
-- A cap of more than a few is divided into places of several jobs, because the server's table of locks
-- is small.
local slots = {}

local MOST = 4 -- places of a lane

--- Columns of lanes, for WANTED: names, how many places there are, what the first is worth, what each other
--- one is, what is wanted.
---@param list {key: string, cap: number, want: integer}[]
---@return string[], integer[], integer[], integer[], integer[]
function slots.columns(list)
  local names, places, firsts, others, wants = {}, {}, {}, {}, {}
  for i, lane in ipairs(list) do
    local cap = math.floor(lane.cap)
    local size = math.max(1, (cap + MOST - 1) // MOST)
    names[i], places[i], others[i] = lane.key, (cap + size - 1) // size, size
    firsts[i] = cap - (places[i] - 1) * size
    wants[i] = math.ceil(lane.want / size) + (firsts[i] < size and 1 or 0)
  end
  return names, places, firsts, others, wants
end

--- Locks places: for each of the columns' lanes what those are worth that it could lock.
slots.LOCK = [[
  SELECT l.n::int AS n, coalesce(sum(CASE WHEN p.place = 1 THEN l.first ELSE l.other END), 0)::int AS worth
  FROM unnest($1::text[], $2::int[], $3::int[], $4::int[], $5::int[]) WITH ORDINALITY
    l (lane, places, first, other, want, n)
  CROSS JOIN LATERAL (
    SELECT place
    FROM generate_series(1, l.places) place
    WHERE pg_try_advisory_xact_lock(hashtextextended(l.lane, 64720 + place))
    LIMIT l.want
  ) p
  GROUP BY l.n
]]

--- How many jobs of lane `l.lane` run under leases, as an SQL expression.
slots.RUNNING = [[(
      SELECT count(*)
      FROM workflow_jobs r
      WHERE r.status = 'running' AND r.lane = l.lane AND r.lease_until IS NOT NULL
      AND r.lease_until > clock_timestamp())]]

local COUNT = ([[
  SELECT l.n::int AS n, %s::int AS running
  FROM unnest($1::text[]) WITH ORDINALITY l (lane, n)
]]):format(slots.RUNNING)

--- Locks places for those of these lanes that have a cap, and lets each take no more than they and what runs
--- allow.
---@param conn nebula.pg.Connection
---@param list nebula.LaneNow[]
function slots.bound(conn, list)
  local capped = {}
  for _, lane in ipairs(list) do
    if lane.cap then
      lane.want = math.min(lane.allowed + lane.running, math.floor(lane.cap))
      capped[#capped + 1] = lane
    end
  end
  if #capped == 0 then return end
  local worth, names = {}, {}
  for _, row in ipairs(conn:query(slots.LOCK, slots.columns(capped))) do worth[row.n] = row.worth end
  for i, lane in ipairs(capped) do names[i] = lane.key end
  for _, row in ipairs(conn:query(COUNT, names)) do
    local lane = capped[row.n]
    lane.allowed = math.max(0, math.min(lane.allowed, (worth[row.n] or 0) - row.running))
  end
end

return slots
