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
local claim = require "nebula.worker.claim"

local slots = {}

local MOST = 4 -- places of a lane

-- Locks places of each lane $1, of which there are $2, the first worth $3 jobs and each other $4, until $5 are
-- locked; leaves what those are worth for the statements that follow in the transaction.
local KEEP = [[
  SELECT set_config('nebula.worth', array_agg(worth ORDER BY n)::text, true)
  FROM (
    SELECT l.n, CASE WHEN l.places > 0 THEN
      coalesce(sum(CASE WHEN p.place = 1 THEN l.first WHEN p.place > 1 THEN l.other END), 0) END AS worth
    FROM unnest($1::text[], $2::int[], $3::int[], $4::int[], $5::int[]) WITH ORDINALITY
      l (lane, places, first, other, want, n)
    LEFT JOIN LATERAL (
      SELECT place
      FROM generate_series(1, l.places) place
      WHERE pg_try_advisory_xact_lock(hashtextextended(l.lane, 64720 + place))
      LIMIT l.want
    ) p ON true
    GROUP BY l.n, l.places
  ) l
]]

--- What the places are worth that the statement before has locked, an array in the order of its lanes (NULL:
--- no cap), as an SQL expression. The count of what runs must be a statement of its own: its snapshot must be
--- later than the locks.
slots.WORTH = "current_setting('nebula.worth')::int[]"

--- How many jobs of lane `l.lane` run under leases, as an SQL expression.
slots.RUNNING = [[(
      SELECT count(*)
      FROM workflow_jobs r
      WHERE r.status = 'running' AND r.lane = l.lane AND r.lease_until IS NOT NULL
      AND r.lease_until > clock_timestamp())]]

local FREE = ([[
  SELECT l.n::int AS n, (l.worth - %s)::int AS free
  FROM unnest($1::text[], %s) WITH ORDINALITY l (lane, worth, n)
  WHERE l.worth IS NOT NULL
]]):format(slots.RUNNING, slots.WORTH)

--- The statement that locks places for lanes that have a cap.
---@param list {key: string, cap?: number, want?: integer}[]
---@return table statement
function slots.keep(list)
  local names, places, firsts, others, wants = {}, {}, {}, {}, {}
  for i, lane in ipairs(list) do
    local cap = math.floor(lane.cap or 0)
    local size = math.max(1, (cap + MOST - 1) // MOST)
    names[i], places[i], others[i] = lane.key, (cap + size - 1) // size, size
    firsts[i] = cap - (places[i] - 1) * size
    wants[i] = lane.cap and math.ceil(lane.want / size) + (firsts[i] < size and 1 or 0) or 0
  end
  return { KEEP, names, places, firsts, others, wants }
end

--- Locks places for those of these lanes that have a cap, and lets each take no more than they and what runs
--- allow.
---@param conn nebula.pg.Connection
---@param list nebula.LaneNow[]
function slots.bound(conn, list)
  local capped, names = false, {}
  for i, lane in ipairs(list) do
    names[i], capped = lane.key, capped or lane.cap ~= nil
    lane.want = lane.cap and math.min(lane.allowed + lane.running, math.floor(lane.cap))
  end
  if not capped then return end
  for _, row in ipairs(claim.send(conn, { slots.keep(list), { FREE, names } })[2]) do
    list[row.n].allowed = math.max(0, math.min(list[row.n].allowed, row.free))
  end
end

return slots
