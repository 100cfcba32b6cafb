-- jobs/laned.lua: a claim by lanes, for the worker and for claim_jobs.
--
-- Some lanes that have jobs are drawn (a bounded number, the next ones at the next claim) and their state
-- is read: what runs, what they used, tokens. The policy says what each may take; share.lua divides the
-- slots, and the policy's select, if it has one, ranks candidates of each lane. There are two ways to
-- take them:
--
--   row locks   in the transaction that the worker's batch goes on with (jobs/lane_locks.lua)
--   leases      under an advisory lock of each lane, which one transaction has at a time, and committed at
--               once: for claim_jobs, and where a policy speaks of rates
--
-- Caps hold over all of them by jobs/slots.lua. What runs is what our claims hold, on all hosts; what
-- has no lease of ours (other engines' claims) does not count.
--
-- Lanes come from the jobs' index by lane, by skipping from lane to lane, not from a table that pushes
-- would have to write: no push waits for another one, and no lane is forgotten.
local claim = require "nebula.worker.claim"
local lane_locks = require "nebula.jobs.lane_locks"
local lanes = require "nebula.jobs.lanes"
local limits = require "nebula.jobs.limits"
local nebula = require "nebula"
local share = require "nebula.policy.share"
local slots = require "nebula.jobs.slots"

local laned = {}

local DRAWN = 64 -- lanes of one draw
local LONGEST_DRAW = 0.05 -- seconds that a claim goes on from draw to draw while it finds nothing to take
local FIRST_WINDOW = 16 -- candidates a lane, where no select asks for more
local SELECT_WINDOW = 20
local FIRST_WAIT, LONGEST_WAIT = 0.001, 0.05 -- where others hold all lanes

-- $1: the lane after which to begin, $2: how many. At the end it goes on from the first.
local DRAW = [[
  WITH RECURSIVE behind (lane) AS (
    (SELECT lane FROM workflow_jobs WHERE status = 'pending' AND lane IS NOT NULL AND lane > $1 ORDER BY lane LIMIT 1)
    UNION ALL
    SELECT (
      SELECT j.lane FROM workflow_jobs j
      WHERE j.status = 'pending' AND j.lane IS NOT NULL AND j.lane > b.lane
      ORDER BY j.lane LIMIT 1)
    FROM behind b
    WHERE b.lane IS NOT NULL
  ), before (lane) AS (
    (SELECT lane FROM workflow_jobs WHERE status = 'pending' AND lane IS NOT NULL ORDER BY lane LIMIT 1)
    UNION ALL
    SELECT (
      SELECT j.lane FROM workflow_jobs j
      WHERE j.status = 'pending' AND j.lane IS NOT NULL AND j.lane > b.lane
      ORDER BY j.lane LIMIT 1)
    FROM before b
    WHERE b.lane < $1
  )
  SELECT lane, again
  FROM (
    SELECT lane, false AS again FROM behind WHERE lane IS NOT NULL
    UNION ALL
    SELECT lane, true FROM before WHERE lane <= $1
    LIMIT $2
  ) d
]]

-- The lanes of jobs that must run alone.
local DRAW_SUSPECT = [[
  SELECT lane, true AS again
  FROM (
    SELECT DISTINCT lane FROM workflow_jobs
    WHERE status = 'pending' AND suspect AND lane > $1 AND scheduled_at <= now()
    LIMIT $2
  ) d
]]

-- What is known of lanes: of those that a draw gives, or of a list of names.
local STATE = [[
  SELECT l.*, t.version, t.cap, t.rate, t.burst, t.tokens,
    extract(epoch FROM clock_timestamp() - t.tokens_at)::float8 AS since,
    (SELECT max(version) FROM job_policies) AS in_force,
    EXISTS (SELECT FROM job_pauses p WHERE p.lane IN (l.lane, '')) AS paused,
    %s::int AS running %s
  FROM (%s) l
  LEFT JOIN job_lanes t ON t.lane = l.lane
]]

local NAMED = "SELECT lane FROM unnest($1::text[]) n (lane)"

-- One transaction at a time reads and writes a lane's tokens.
local MINE = "SELECT d.*, pg_try_advisory_xact_lock(hashtextextended(lane, 6471)) AS mine FROM (%s) d"

-- What a policy's functions of a lane may ask for.
local VIEW = [[,
    (SELECT coalesce(sum(u.seconds), 0)
      FROM job_lane_usage u
      WHERE u.lane = l.lane AND u.minute > extract(epoch FROM clock_timestamp())::bigint / 60 - 10)::float8 AS used,
    (SELECT extract(epoch FROM clock_timestamp() - j.scheduled_at)
      FROM workflow_jobs j
      WHERE j.status = 'pending' AND j.lane >= l.lane AND j.lane <= l.lane AND j.scheduled_at <= now()
      ORDER BY j.lane, j.scheduled_at
      LIMIT 1)::float8 AS oldest_wait
]]

-- Bounds instead of an equality, and the lane in the order: an index by lane alone gives that, while the
-- planner would believe that one by time finds jobs of any lane soon.
local CANDIDATES = [[
  SELECT l.n::int AS n, c.*
  FROM unnest($1::text[], $2::int[]) WITH ORDINALITY l (lane, most, n)
  CROSS JOIN LATERAL (
    SELECT ctid::text AS at, id, lane_by %s
    FROM workflow_jobs
    WHERE status = 'pending'
    AND lane >= l.lane
    AND lane <= l.lane
    AND scheduled_at <= now()
    AND %s
    ORDER BY workflow_jobs.lane, %s
    LIMIT l.most
  ) c
]]

-- What select is given of a candidate; times are epoch seconds.
local SEEN = [[, workflow_id, execution_id, priority, extract(epoch FROM scheduled_at)::float8 AS scheduled_at,
      coalesce(retry_count, 0) AS retry_count, coalesce(max_retries, 0) AS max_retries, lane]]

local PAYLOADS = "SELECT id, payload::text AS payload FROM workflow_jobs WHERE ctid = ANY ($1::tid[])"

local TAKE = ([[
  WITH picked AS MATERIALIZED (
    SELECT j.ctid AS at
    FROM unnest($3::tid[], $4::uuid[]) d (at, id)
    JOIN workflow_jobs j ON j.ctid = d.at AND j.id = d.id
    WHERE j.status = 'pending'
    FOR UPDATE OF j SKIP LOCKED
  )
  UPDATE workflow_jobs
  SET status = 'running', locked_by = $1, locked_at = clock_timestamp(),
    lease_until = clock_timestamp() + make_interval(secs => $2), started_at = clock_timestamp(), token = token + 1,
    unique_key = CASE WHEN unique_while = 'pending' THEN NULL ELSE unique_key END
  WHERE ctid = ANY (ARRAY (SELECT at FROM picked))
  RETURNING %s
]]):format(claim.COLUMNS)

-- The claim's plan must not depend on statistics; of a connection that other statements use, too.
laned.PLANNER = "SELECT " .. table.concat({ "set_config('enable_seqscan', 'off', true)",
  "set_config('enable_bitmapscan', 'off', true)", "set_config('enable_sort', 'off', true)",
  "set_config('enable_hashjoin', 'off', true)", "set_config('enable_mergejoin', 'off', true)",
  "set_config('enable_incremental_sort', 'off', true)", "set_config('jit', 'off', true)" }, ", ")

---@class nebula.Laned a strategy of worker/claim.lua
---@field worker string UUID
---@field lease number seconds
---@field policy fun(): nebula.Policy
local Laned = {}
Laned.__index = Laned

--- Makes one for a claimant. `where` narrows what is taken (an SQL condition); `suspects`: it takes
--- those that must run alone, and no others; `turn` is shared by claimants that take turns, instead of
--- finding each other's lanes locked; `unnoted` tells what a lane used that is not written down yet;
--- `kept` is a table in which claimants keep lanes together, `cursor` one of the lane after which the next claim
--- of any of them begins; `leases`: it cannot hold row locks. One claim at a time.
---@param given {worker: string, lease: number, policy: (fun(): nebula.Policy), where?: string, suspects?: boolean,
---  turn?: nebula.Semaphore, unnoted?: (fun(lane: string): number), kept?: table, cursor?: {after: string},
---  leases?: boolean}
---@return nebula.Laned
function laned.new(given)
  return setmetatable({
    worker = given.worker, lease = given.lease, policy = given.policy, turn = given.turn,
    unnoted = given.unnoted, kept = given.kept or {},
    cursor = given.cursor or { after = "" }, leases = given.leases or given.suspects, rounds = 0, wait = FIRST_WAIT,
    moved = false,
    draw = given.suspects and DRAW_SUSPECT or DRAW,
    where = (given.suspects and "suspect" or "NOT suspect") .. (given.where and " AND " .. given.where or ""),
  }, Laned)
end

local function tids(list)
  local at = {}
  for i, candidate in ipairs(list) do at[i] = candidate.at end
  return '{"' .. table.concat(at, '","') .. '"}'
end

-- ---- the lanes of this claim ----

-- Draws lanes and reads their state: of those that could be locked, where that is wanted, in a second statement,
-- which sees what the lock's holder before has written. Returns the lanes, how many were drawn and how many of
-- them others hold, and whether the draw came round.
local function draw_lanes(self, conn, first, policy, plan, locking)
  local view = limits.asks(plan) and VIEW or ""
  first[#first + 1] = { locking and MINE:format(self.draw) or STATE:format(slots.RUNNING, view, self.draw),
    self.cursor.after, DRAWN }
  local results = claim.send(conn, first)
  for i = #first, 1, -1 do first[i] = nil end -- sent
  local drawn = results[#results]
  local came_round = #drawn < DRAWN
  for _, row in ipairs(drawn) do came_round = came_round or row.again end
  if self.draw == DRAW_SUSPECT and #drawn < DRAWN then
    self.cursor.after = "" -- it does not go round by itself
  elseif #drawn > 0 then
    self.cursor.after = drawn[#drawn < DRAWN and 1 or #drawn].lane -- another lane is the first next time
  end
  local rows = drawn
  if locking then
    local names = {}
    for _, row in ipairs(drawn) do
      if row.mine then names[#names + 1] = row.lane end
    end
    rows = #names > 0 and conn:query(STATE:format(slots.RUNNING, view, NAMED), names) or {}
  end
  return limits.lanes(policy, plan, rows, self.unnoted), #drawn, #drawn - #rows, came_round
end

-- ---- candidates ----

-- The first due jobs of each lane. Those whose lane is by another declaration are given theirs, and
-- are left out.
local function draw_candidates(self, conn, policy, plan, list, windows, seen)
  local names = {}
  for i, lane in ipairs(list) do names[i] = lane.key end
  local stale, declaration = {}, policy:declaration()
  for _, lane in ipairs(list) do lane.candidates = {} end
  for _, row in ipairs(conn:query(CANDIDATES:format(seen or "", self.where, plan.order), names, windows)) do
    if row.lane_by and row.lane_by ~= declaration then
      stale[#stale + 1] = row
    else
      row.index = row.n
      local candidates = list[row.n].candidates
      candidates[#candidates + 1] = row
    end
  end
  if #stale > 0 then self:move(conn, declaration, tids(stale)) end
end

local function windows_of(list, n, window)
  local windows = {}
  local even = window or math.max(FIRST_WINDOW, 2 * math.ceil(n / math.max(#list, 1)))
  for i, lane in ipairs(list) do windows[i] = window or math.min(lane.allowed, n, even) end
  return windows
end

-- Without a select: of each lane its first ones.
local function choose_first(self, conn, policy, plan, list)
  local n = plan.limit
  local windows = windows_of(list, n)
  draw_candidates(self, conn, policy, plan, list, windows)
  local found, short = 0, false
  for i, lane in ipairs(list) do
    found = found + #lane.candidates
    short = short or #lane.candidates == windows[i] and windows[i] < math.min(lane.allowed, n)
  end
  if short and found < n then -- few lanes hold most of the backlog
    for i, lane in ipairs(list) do
      windows[i] = #lane.candidates < windows[i] and windows[i] or math.min(lane.allowed, n)
    end
    draw_candidates(self, conn, policy, plan, list, windows)
  end
  for _, lane in ipairs(list) do lane.allowed = math.min(lane.allowed, #lane.candidates) end
  local chosen = {}
  local parts = share.divide(n, list)
  for round = 1, 2 do
    for i, lane in ipairs(list) do
      local from, to = 1, parts[i]
      if round == 2 then from, to = parts[i] + 1, math.min(lane.allowed, parts[i] + n - #chosen) end
      table.move(lane.candidates, from, to, #chosen + 1, chosen)
    end
  end
  return chosen
end

-- The candidates as the policy's select ranks them; in the plan's order where it fails.
local function ranked(conn, policy, list)
  local given = {}
  for _, lane in ipairs(list) do table.move(lane.candidates, 1, #lane.candidates, #given + 1, given) end
  if #given == 0 then return given end
  return policy:rank(given, function()
    local payloads = {}
    for _, row in ipairs(conn:query(PAYLOADS, tids(given))) do payloads[row.id] = row.payload end
    return payloads
  end)
end

local function choose_selected(self, conn, policy, plan, list)
  draw_candidates(self, conn, policy, plan, list,
    windows_of(list, plan.limit, plan.lanes and plan.lanes.window or SELECT_WINDOW), SEEN)
  local candidates = ranked(conn, policy, list)
  for _, lane in ipairs(list) do lane.allowed = math.min(lane.allowed, #lane.candidates) end
  local walk, chosen = {}, {}
  for i, candidate in ipairs(candidates) do walk[i] = { lane = candidate.index } end
  for i, at in ipairs(share.choose(plan.limit, walk, list, share.divide(plan.limit, list))) do
    chosen[i] = candidates[at]
  end
  return chosen
end

-- ---- taking ----

local function lease(self, conn, list, chosen)
  local ids, place, lane_of = {}, {}, {}
  for i, candidate in ipairs(chosen) do
    ids[i], place[candidate.id], lane_of[candidate.id] = candidate.id, i, list[candidate.index]
  end
  local rows = conn:query(TAKE, self.worker, self.lease, tids(chosen), ids)
  for _, job in ipairs(rows) do
    local lane = lane_of[job.id]
    lane.taken = lane.taken + 1
    job.worker = self.worker
  end
  table.sort(rows, function(a, b) return place[a.id] < place[b.id] end)
  return rows
end

-- Where nothing was taken: "now", there are more lanes to look at; "soon", others have some of them, or it took
-- long already; nil, there is nothing to be taken.
local function again(self, drawn, held, came_round, since)
  local more = nebula.time.monotonic() - since < LONGEST_DRAW and "now" or "soon"
  if self.moved then return more end
  if held > 0 then
    nebula.task.sleep(self.wait * (0.5 + math.random()))
    self.wait = math.min(self.wait * 2, LONGEST_WAIT)
    return "soon"
  end
  self.rounds = self.rounds + (came_round and 1 or 0)
  if drawn < DRAWN or self.rounds == 2 then -- each lane was looked at
    self.rounds = 0
    return nil
  end
  return more
end

-- Under the lanes' locks, and committed: for who cannot hold a transaction, and where tokens are to be kept.
local function take_leases(self, conn, first, policy, plan)
  local all, drawn, held, came_round = draw_lanes(self, conn, first, policy, plan, true)
  local list, rows = {}, {}
  for _, lane in ipairs(all) do
    if lane.allowed > 0 then list[#list + 1] = lane end
  end
  slots.bound(conn, list)
  if #list > 0 then
    local chosen = (policy:has "select" and choose_selected or choose_first)(self, conn, policy, plan, list)
    if #chosen > 0 then rows = lease(self, conn, list, chosen) end
  end
  limits.write(conn, policy, all)
  conn:exec "COMMIT"
  return rows, drawn, held, came_round
end

-- Under row locks, in the open transaction.
local function take_locks(self, conn, first, policy, plan)
  local kept = lane_locks.kept(self, policy)
  local all, drawn, held, came_round = kept, 0, 0, true
  if kept then
    limits.prepare(policy, plan, kept, self.unnoted)
  else
    all, drawn, held, came_round = draw_lanes(self, conn, first, policy, plan)
    if limits.write(conn, policy, all) then conn:exec "COMMIT AND CHAIN" end -- nobody waits for these rows
  end
  local list, rows, began = {}, {}, nebula.time.monotonic()
  for _, lane in ipairs(all) do
    if lane.allowed > 0 then list[#list + 1] = lane end
  end
  if #list > 0 then
    rows = lane_locks.take(self, conn, first, policy, plan, list, policy:has "select" and function(_, bounded)
      return choose_selected(self, conn, policy, plan, bounded)
    end or nil)
  end
  if #first > 0 then claim.send(conn, first) end
  if #rows == 0 then
    self:forget()
    conn:exec "COMMIT"
  elseif drawn > 0 and drawn < DRAWN then
    lane_locks.keep(self, policy, all, nebula.time.monotonic() - began)
  end
  return rows, drawn, held, came_round
end

--- Writes the lanes of rows that a claim came upon in one by another declaration, where nobody else holds them:
--- they are to be found in theirs, also where this claim took nothing else.
---@param conn nebula.pg.Connection
---@param declaration string
---@param list string an array's literal
function Laned:move(conn, declaration, list)
  self.moved = lanes.write(conn, declaration, list) > 0 or self.moved
end

--- Forgets what is kept of the lanes: jobs came back.
function Laned:forget() self.kept.lanes = nil end

--- Takes what the policy's plan takes. Returns no rows where nothing is to be taken now, and nil where
--- it is worth to look again at once. Raises what the server says.
---@param conn nebula.pg.Connection
---@param first table[] statements to send first; after them a transaction is open
---@param plan nebula.Plan
---@return table[]? rows, boolean leased
function Laned:take(conn, first, plan)
  local since, policy = nebula.time.monotonic(), self.policy()
  local leases = self.leases or plan.lanes and plan.lanes.rate ~= nil
  local _ <close> = leases and self.turn and self.turn:acquire()
  while true do
    self.moved = false
    local cached = not leases and lane_locks.kept(self, policy) ~= nil
    local taken, err = nebula.try(function()
      return { (leases and take_leases or take_locks)(self, conn, first, policy, plan) }
    end)
    if not taken then
      if #first == 0 then err.index = math.maxinteger end -- those were sent, and succeeded
      error(err, 0)
    end
    local rows, drawn, held, came_round = table.unpack(taken, 1, 4)
    if #rows > 0 then
      self.wait, self.rounds = FIRST_WAIT, 0
      return rows, leases
    end
    local when = cached and "now" or again(self, drawn, held, came_round, since)
    if when ~= "now" then return when == nil and {} or nil, leases end
    first = { { "BEGIN" } }
  end
end

return laned
