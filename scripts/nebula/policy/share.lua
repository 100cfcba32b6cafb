-- policy/share.lua: which lanes get the free slots. Weights share, caps bound, select ranks.
--
-- Each slot goes to the lane that has the least for its weight and may still take one (weighted
-- max-min fairness over the jobs that run). Then the candidates are walked in their order: first
-- each lane up to its share, then whatever may still run fills what is left. Pure: the simulation
-- and whoever else divides slots use the same.
local share = {}

--- Gives each lane its part of n slots.
---@param n integer
---@param lanes {running: integer, weight: number, allowed: integer}[] allowed: the most it may take now
---@return integer[] parts
function share.divide(n, lanes)
  local parts = {}
  for i = 1, #lanes do parts[i] = 0 end
  for _ = 1, n do
    local best, least
    for i, lane in ipairs(lanes) do
      if parts[i] < lane.allowed and lane.weight > 0 then
        local level = (lane.running + parts[i]) / lane.weight
        if not least or level < least then best, least = i, level end
      end
    end
    if not best then break end
    parts[best] = parts[best] + 1
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
