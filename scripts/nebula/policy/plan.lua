-- policy/plan.lua: what a policy's claim answers, read and checked.
--
-- `limit` and `order` are what the claim's indexes can serve, so that its cost follows the rows taken.
-- The rest speaks of lanes: weight, cap, rate, burst (each a number or a function of the lane) and
-- window.
local raise = require "nebula.raise"

local plans = {}

plans.DEFAULT_ORDER = "priority DESC, scheduled_at"

local DEFAULT_COLUMNS = { { name = "priority", descending = true }, { name = "scheduled_at", descending = false } }
local COLUMNS = { workflow_id = true, priority = true, scheduled_at = true, lane = true }
local FIELDS = { limit = true, order = true, weight = true, cap = true, rate = true, burst = true, window = true }
local OF_LANES = { "weight", "cap", "rate", "burst", "window" }
local MOST_WINDOW = 1000

local function fail(policy, format, ...) raise("policy", "policy %s: " .. format, policy.name, ...) end

local function names_of(set)
  local names = {}
  for name in pairs(set) do names[#names + 1] = name end
  table.sort(names)
  return table.concat(names, ", ")
end

local function order_sql(columns)
  local parts = {}
  for i, column in ipairs(columns) do parts[i] = column.name .. (column.descending and " DESC" or "") end
  return table.concat(parts, ", ")
end

local function read_order(policy, order)
  if order == nil then return plans.DEFAULT_ORDER, DEFAULT_COLUMNS end
  if type(order) ~= "table" or #order == 0 then
    fail(policy, "claim's `order` is a list such as {\"priority desc\"}")
  end
  local known = policy.last_order -- the same at nearly every claim
  if known and #known.given == #order then
    local same = true
    for i, item in ipairs(order) do same = same and known.given[i] == item end
    if same then return known.sql, known.columns end
  end
  local columns = {}
  for i, item in ipairs(order) do
    local column, direction = tostring(item):lower():match "^%s*([%w_]+)%s*(%a*)%s*$"
    if not COLUMNS[column] or not (direction == "" or direction == "asc" or direction == "desc") then
      fail(policy, "claim's order %q: it takes %s, each with asc or desc", tostring(item), names_of(COLUMNS))
    end
    columns[i] = { name = column, descending = direction == "desc" }
  end
  policy.last_order = { given = order, sql = order_sql(columns), columns = columns }
  return policy.last_order.sql, columns
end

local function read_lanes(policy, answer)
  local lanes
  for _, field in ipairs(OF_LANES) do
    local value = answer[field]
    if value ~= nil then
      lanes = lanes or {}
      lanes[field] = value
      local kind = type(value)
      if kind ~= "number" and (kind ~= "userdata" or field == "window") then
        fail(policy, "claim's %s is a number%s, not a %s", field,
          field ~= "window" and " or a function of the lane" or "", kind)
      end
    end
  end
  local window = lanes and lanes.window
  if window and (not math.tointeger(window) or window < 1 or window > MOST_WINDOW) then
    fail(policy, "claim's window is a whole number from 1 to %d, not %s", MOST_WINDOW, window)
  end
  return lanes
end

---@class nebula.Plan
---@field order string an ORDER BY's columns
---@field columns {name: string, descending: boolean}[] the same, for whoever sorts here
---@field limit integer
---@field lanes? table weight, cap, rate, burst, window: where the plan speaks of lanes

--- Reads claim's answer. nil: nothing now. Raises `policy`.
---@param policy nebula.Policy
---@param answer any
---@param limit integer the free slots
---@return nebula.Plan?
function plans.read(policy, answer, limit)
  if answer == nil then return nil end
  if type(answer) ~= "table" then fail(policy, "claim returns a plan or nil, not %s", type(answer)) end
  for name in pairs(answer) do
    if not FIELDS[name] then
      fail(policy, "claim's plan names %s, which is not among what a plan may say: %s", tostring(name),
        names_of(FIELDS))
    end
  end
  local wanted = answer.limit == nil and limit or math.tointeger(answer.limit)
  if not wanted or wanted < 0 then fail(policy, "claim's limit is a whole number, not %s", tostring(answer.limit)) end
  if wanted == 0 then return nil end
  local order, columns = read_order(policy, answer.order)
  return {
    order = order, columns = columns, limit = math.min(wanted, limit), lanes = read_lanes(policy, answer),
  }
end

--- By priority and time, under the limits of another plan's lanes where it has some.
---@param limit integer
---@param lanes? table
---@return nebula.Plan
function plans.default(limit, lanes)
  return { order = plans.DEFAULT_ORDER, columns = DEFAULT_COLUMNS, limit = limit, lanes = lanes }
end

---@class nebula.LaneView what a plan's functions see of a lane
---@field key string
---@field running integer
---@field used number worker-seconds of the last 10 minutes
---@field oldest_wait number seconds

--- One of a plan's numbers for each of some lanes: nil for those that it says nothing of. Raises `policy`.
---@param policy nebula.Policy
---@param plan nebula.Plan
---@param field "weight"|"cap"|"rate"|"burst"
---@param views nebula.LaneView[]
---@return table<integer, number> by the views' places
function plans.values(policy, plan, field, views)
  local value = plan.lanes and plan.lanes[field]
  if value == nil then return {} end
  local asked = type(value) == "userdata"
  local values = asked and value:map(views) or {}
  for i, view in ipairs(views) do
    local number = value
    if asked then number = values[i] end
    if number ~= nil and (type(number) ~= "number" or number ~= number or number < 0) then
      fail(policy, "claim's %s of lane %s is a number of at least 0, not %s", field, view.key, tostring(number))
    end
    values[i] = number
  end
  return values
end

return plans
