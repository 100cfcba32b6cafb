-- policy/share.lua: which lanes get the free slots. Weights share, caps bound, select ranks.
--
-- Each slot goes to the lane that has the least for its weight and may still take one (weighted
-- max-min fairness over the jobs that run). Where a lane stands between two whole slots is drawn anew
-- each time, so that a share of less than one slot comes true over many claims: rounded up, a lane of
-- next to no weight would get one of every few slots, rounded down it would starve. Then the candidates
-- are walked in their order: first each lane up to its share, then whatever may still run fills what is
-- left. The simulation and whoever else divides slots use the same.
local share = {}

-- A heap of the lanes that may take more: {level, lane} pairs flat in two arrays, the least level first
-- and of equal ones the first lane.
local function sift(levels, indexes, n, at)
  local level, index = levels[at], indexes[at]
  while true do
    local child = 2 * at
    if child > n then break end
    if child < n and (levels[child + 1] < levels[child]
      or levels[child + 1] == levels[child] and indexes[child + 1] < indexes[child]) then
      child = child + 1
    end
    if level < levels[child] or level == levels[child] and index < indexes[child] then break end
    levels[at], indexes[at] = levels[child], indexes[child]
    at = child
  end
  levels[at], indexes[at] = level, index
end

-- Gives each of these lanes the slots that it surely gets, at once: those up to a level, where a lane's are
-- floor(level * weight - begun) + 1. It is the one where these sum up to n when not rounded; lanes for
-- which that is no more than nothing are left out, which lowers it. Returns what is left of n: all of it
-- where weights are beyond what can be summed up.
local function fill(n, lanes, active, begun, parts)
  local level, count
  repeat
    local weights, sum = 0, 0
    count = #active
    for _, i in ipairs(active) do weights, sum = weights + lanes[i].weight, sum + begun[i] end
    level = (n - count + sum) / weights
    if level == 0 or level == math.huge then return n end
    local below = {}
    for _, i in ipairs(active) do
      if begun[i] < level * lanes[i].weight + 1 then below[#below + 1] = i end
    end
    active = below
  until #active == count or #active == 0
  for _, i in ipairs(active) do
    local part = math.min(lanes[i].allowed, math.floor(level * lanes[i].weight - begun[i]) + 1)
    parts[i], n = part, n - part
  end
  return n
end

--- Gives each lane its part of n slots.
---@param n integer
---@param lanes {running: integer, weight: number, allowed: integer}[] allowed: the most it may take now
---@param random? fun(): number in [0, 1)
---@return integer[] parts
function share.divide(n, lanes, random)
  random = random or math.random
  local parts, begun, active = {}, {}, {}
  for i, lane in ipairs(lanes) do
    parts[i] = 0
    if lane.allowed > 0 and lane.weight > 0 then
      active[#active + 1] = i
      begun[i] = lane.running + random()
    end
  end
  local left = n > 2 * #active and #active > 0 and fill(n, lanes, active, begun, parts) or n
  local levels, indexes, count = {}, {}, 0
  for _, i in ipairs(active) do
    if parts[i] < lanes[i].allowed then
      count = count + 1
      levels[count], indexes[count] = (begun[i] + parts[i]) / lanes[i].weight, i
    end
  end
  for at = count // 2, 1, -1 do sift(levels, indexes, count, at) end
  for _ = 1, left do
    if count == 0 then break end
    local i = indexes[1]
    local lane = lanes[i]
    parts[i] = parts[i] + 1
    if parts[i] < lane.allowed then
      levels[1] = (begun[i] + parts[i]) / lane.weight
    else
      levels[1], indexes[1] = levels[count], indexes[count]
      count = count - 1
    end
    sift(levels, indexes, count, 1)
  end
  return parts
end

--- Walks the candidates: each has a `lane`, an index of `lanes`.
---@param n integer
---@param candidates {lane: integer}[] in the order to take them
---@param lanes {allowed: integer}[]
---@param parts integer[]
---@return integer[] chosen indexes of candidates
function share.choose(n, candidates, lanes, parts)
  local chosen, taken, is_chosen = {}, {}, {}
  local function walk(bound_of)
    for i, candidate in ipairs(candidates) do
      if #chosen == n then return end
      local lane = candidate.lane
      local count = taken[lane] or 0
      if not is_chosen[i] and count < bound_of(lane) then
        taken[lane], is_chosen[i] = count + 1, true
        chosen[#chosen + 1] = i
      end
    end
  end
  walk(function(lane) return parts[lane] end)
  walk(function(lane) return lanes[lane].allowed end)
  return chosen
end

return share
