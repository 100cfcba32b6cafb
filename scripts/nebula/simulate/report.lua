-- simulate/report.lua: simulations side by side: tables and bars for the terminal, and an SVG.
local svg = require "nebula.svg"
local ui = require "nebula.ui"

local report = {}

local MOST_LANES = 20 -- of a picture; the longest waiting first

local function round(value) return (value >= 1000 and "%.0f" or "%.3g"):format(value) end

local function keys_of(results)
  local keys, seen = {}, {}
  for _, result in ipairs(results) do
    for key in pairs(result.lanes) do
      if not seen[key] then
        seen[key] = true
        keys[#keys + 1] = key
      end
    end
  end
  table.sort(keys)
  return keys
end

-- The lanes of a picture, by name: those that wait longest, under any of the policies.
local function pictured(results)
  local keys, worst = keys_of(results), {}
  for _, key in ipairs(keys) do
    worst[key] = 0
    for _, result in ipairs(results) do
      worst[key] = math.max(worst[key], result.lanes[key] and result.lanes[key].wait.p95 or 0)
    end
  end
  table.sort(keys, function(a, b)
    if worst[a] ~= worst[b] then return worst[a] > worst[b] end
    return a < b
  end)
  local shown = table.move(keys, 1, math.min(#keys, MOST_LANES), 1, {})
  table.sort(shown)
  return shown
end

--- The tables: how long jobs wait in each lane, and each policy as a whole.
---@param results (nebula.Simulation|{policy: string})[]
---@return string
function report.tables(results)
  local rows = {}
  for _, key in ipairs(keys_of(results)) do
    for _, result in ipairs(results) do
      local lane = result.lanes[key]
      if lane then
        rows[#rows + 1] = { lane = key, policy = result.policy, jobs = lane.jobs, p50 = round(lane.wait.p50),
          p95 = round(lane.wait.p95), p99 = round(lane.wait.p99), starved = round(lane.starved),
          most_at_once = lane.running.max }
      end
    end
  end
  local whole = {}
  for i, result in ipairs(results) do
    whole[i] = { policy = result.policy, completed = result.completed, waiting = result.waiting,
      refused = result.refused, seconds = round(result.seconds), utilisation = round(result.utilisation),
      fairness = round(result.fairness), starved = round(result.starved) }
  end
  return ("Seconds that jobs wait:\n%s\n\n%s"):format(
    ui.table(rows, { columns = { "lane", "policy", "jobs", "p50", "p95", "p99", "starved", "most_at_once" } }),
    ui.table(whole, { columns = { "policy", "completed", "waiting", "refused", "seconds", "utilisation", "fairness",
      "starved" } }))
end

--- Prints bars of the 95th percentile of waiting, lane by lane.
---@param results (nebula.Simulation|{policy: string})[]
function report.plot(results)
  local rows = {}
  for _, key in ipairs(pictured(results)) do
    for _, result in ipairs(results) do
      local lane = result.lanes[key]
      if lane then rows[#rows + 1] = { lane = ("%s, %s"):format(key, result.policy), p95 = round(lane.wait.p95) } end
    end
  end
  print "\nSeconds that 95 % of the jobs wait at most:"
  require "nebula.plot"(rows, "lane", "p95")
end

-- ---- SVG ----

local COLOURS = { "#3b6fb6", "#d9822b", "#3f9b5d", "#b23a48", "#7a5ea8", "#6b6b6b" }
local BAR, GAP, LEFT, WIDTH, TOP = 14, 10, 180, 860, 56

-- A bar up to the 99th percentile, darker up to the 95th, darkest up to the median.
local function bars(out, y, lane, colour, scale)
  for _, part in ipairs { { lane.wait.p99, 0.3 }, { lane.wait.p95, 0.6 }, { lane.wait.p50, 1 } } do
    out[#out + 1] = ('<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s" fill-opacity="%.1f"/>')
      :format(LEFT, y, part[1] * scale, BAR, colour, part[2])
  end
  out[#out + 1] = svg.text(LEFT + 4 + math.floor(lane.wait.p99 * scale), y + BAR - 3, round(lane.wait.p95))
end

--- The same as a picture: for each lane and policy a bar of the median, the 95th and the 99th percentile of
--- waiting; below it fairness, utilisation and starvation.
---@param results (nebula.Simulation|{policy: string})[]
---@return string
function report.svg(results)
  local keys, most = pictured(results), 0
  for _, key in ipairs(keys) do
    for _, result in ipairs(results) do
      most = math.max(most, result.lanes[key] and result.lanes[key].wait.p99 or 0)
    end
  end
  local scale = most > 0 and (WIDTH - LEFT - 70) / most or 0
  local out, y = {}, TOP
  for i, result in ipairs(results) do
    local colour = COLOURS[(i - 1) % #COLOURS + 1]
    out[#out + 1] = ('<rect x="%d" y="30" width="10" height="10" fill="%s"/>'):format(LEFT + (i - 1) * 140, colour)
    out[#out + 1] = svg.text(LEFT + 14 + (i - 1) * 140, 39, result.policy)
  end
  for _, key in ipairs(keys) do
    out[#out + 1] = svg.text(LEFT - 8, y + BAR - 3, ui.fit(key, 26), ' text-anchor="end"')
    for i, result in ipairs(results) do
      if result.lanes[key] then bars(out, y, result.lanes[key], COLOURS[(i - 1) % #COLOURS + 1], scale) end
      y = y + BAR + 2
    end
    y = y + GAP
  end
  for _, result in ipairs(results) do
    y = y + 18
    local line = "%s: fairness %s, utilisation %s, longest starvation %s s, %d completed, %d waiting"
    out[#out + 1] = svg.text(16, y, line:format(result.policy, round(result.fairness), round(result.utilisation),
      round(result.starved), result.completed, result.waiting))
  end
  table.insert(out, 1, svg.text(16, 20, "Seconds that jobs wait: median, 95th and 99th percentile", ' font-size="14"'))
  return svg.document(WIDTH, y + 20, out)
end

return report
