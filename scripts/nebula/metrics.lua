-- metrics.lua: `nebula.metrics`: counters, gauges and histograms, and their text for Prometheus (exposition
-- format 0.0.4). Handlers and scripts declare their own; a worker with --metrics serves them with its own.
--
--   local sent = nebula.metrics.counter { name = "mails_sent_total", help = "Mails sent", labels = { "kind" } }
--   sent:add(1, { kind = "invoice" })
local log = require("nebula").log
local raise = require "nebula.raise"

local metrics = {}

local MOST_SERIES = 1000 -- of a metric: labels with unbounded values shall not eat the memory
local BUCKETS = { 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300 }

local FIELDS = { name = true, help = true, labels = true, buckets = true }

local registry, order, collectors = {}, {}, {}

---@class nebula.Metric
---@field name string
local Metric = {}
Metric.__index = Metric

-- ---- declaring ----

local function same_list(a, b) return table.concat(a, "\0") == table.concat(b, "\0") end

local function declare(kind, given)
  local what = "metrics." .. kind
  require("nebula.check").fields(what, given, FIELDS)
  local name, labels = given.name, given.labels or {}
  if type(name) ~= "string" or not name:find "^[%a_:][%w_:]*$" then
    raise("validation", "%s: name is letters, digits and _, not %s", what, tostring(name))
  end
  for _, label in ipairs(labels) do
    if type(label) ~= "string" or not label:find "^[%a_][%w_]*$" or label == "le" then
      raise("validation", "%s: %s is no name of a label", what, tostring(label))
    end
  end
  local known = registry[name]
  if known then -- a file that was loaded again declares what it did before
    if known.kind ~= kind or not same_list(known.labels, labels) then
      raise("validation", "%s: %s is declared already, as a %s of other labels", what, name, known.kind)
    end
    return known
  end
  local metric = setmetatable({ kind = kind, name = name, help = given.help or "", labels = labels, series = {},
    count = 0 }, Metric)
  registry[name] = metric
  order[#order + 1] = name
  return metric
end

--- A number that only grows.
---@param given {name: string, help?: string, labels?: string[]}
---@return nebula.Metric with add
function metrics.counter(given) return declare("counter", given) end

--- A number that goes up and down.
---@param given {name: string, help?: string, labels?: string[]}
---@return nebula.Metric with set and add
function metrics.gauge(given) return declare("gauge", given) end

--- How observed values are distributed over buckets.
---@param given {name: string, help?: string, labels?: string[], buckets?: number[]} buckets: upper bounds, growing
---@return nebula.Metric with observe
function metrics.histogram(given)
  local metric = declare("histogram", given)
  local buckets = given.buckets or BUCKETS
  for i = 1, #buckets do
    if not math.type(buckets[i]) or i > 1 and buckets[i] <= buckets[i - 1] then
      raise("validation", "metrics.histogram: buckets are growing numbers")
    end
  end
  metric.buckets = metric.buckets or buckets
  return metric
end

--- Calls fn before each text is made: where gauges are set that nobody keeps.
---@param fn fun()
---@return fun() stop
function metrics.collect(fn)
  collectors[fn] = true
  return function() collectors[fn] = nil end
end

-- ---- counting ----

-- The series of these labels; nil where there are too many already.
local function series_of(self, labels)
  local values = {}
  for i, name in ipairs(self.labels) do
    local value = labels and labels[name]
    if value == nil then raise("validation", "metric %s wants the label %s", self.name, name) end
    values[i] = tostring(value)
  end
  local key = table.concat(values, "\0")
  local series = self.series[key]
  if series then return series end
  if self.count == MOST_SERIES then
    if not self.told then
      self.told = true
      log.warn("a metric has too many series; new ones are dropped", { metric = self.name, series = MOST_SERIES })
    end
    return nil
  end
  self.count = self.count + 1
  series = { values = values, value = 0 }
  if self.buckets then
    series.buckets, series.sum = {}, 0
    for i = 1, #self.buckets do series.buckets[i] = 0 end
  end
  self.series[key] = series
  return series
end

local function check_kind(self, operation, ...)
  for _, kind in ipairs { ... } do
    if self.kind == kind then return end
  end
  raise("validation", "metric %s is a %s: it has no %s", self.name, self.kind, operation)
end

--- Adds to a counter or gauge.
---@param amount? number default 1; a counter takes none below 0
---@param labels? table<string, any>
function Metric:add(amount, labels)
  check_kind(self, "add", "counter", "gauge")
  amount = amount or 1
  if self.kind == "counter" and amount < 0 then
    raise("validation", "metric %s is a counter: it only grows", self.name)
  end
  local series = series_of(self, labels)
  if series then series.value = series.value + amount end
end

--- Sets a gauge.
---@param value number
---@param labels? table<string, any>
function Metric:set(value, labels)
  check_kind(self, "set", "gauge")
  local series = series_of(self, labels)
  if series then series.value = value end
end

--- Counts a value in a histogram.
---@param value number
---@param labels? table<string, any>
function Metric:observe(value, labels)
  check_kind(self, "observe", "histogram")
  local series = series_of(self, labels)
  if not series then return end
  series.value, series.sum = series.value + 1, series.sum + value
  for i, bound in ipairs(self.buckets) do
    if value <= bound then
      series.buckets[i] = series.buckets[i] + 1
      break
    end
  end
end

-- ---- the text ----

local ESCAPES = { ["\\"] = "\\\\", ["\n"] = "\\n", ['"'] = '\\"' }

local function number_text(value)
  if value ~= value then return "NaN" end
  if value == math.huge then return "+Inf" end
  if value == -math.huge then return "-Inf" end
  return math.type(value) == "integer" and tostring(value) or ("%.17g"):format(value)
end

local function labels_text(self, series, bound)
  local parts = {}
  for i, name in ipairs(self.labels) do
    parts[i] = ('%s="%s"'):format(name, series.values[i]:gsub('[\\\n"]', ESCAPES))
  end
  if bound then parts[#parts + 1] = ('le="%s"'):format(bound) end
  return #parts > 0 and "{" .. table.concat(parts, ",") .. "}" or ""
end

local function write_histogram(self, series, out)
  local total = 0
  for i, bound in ipairs(self.buckets) do
    total = total + series.buckets[i]
    out[#out + 1] = ("%s_bucket%s %d"):format(self.name, labels_text(self, series, ("%.10g"):format(bound)), total)
  end
  out[#out + 1] = ("%s_bucket%s %d"):format(self.name, labels_text(self, series, "+Inf"), series.value)
  out[#out + 1] = ("%s_sum%s %s"):format(self.name, labels_text(self, series), number_text(series.sum))
  out[#out + 1] = ("%s_count%s %d"):format(self.name, labels_text(self, series), series.value)
end

local function write_metric(self, out)
  if self.help ~= "" then
    out[#out + 1] = ("# HELP %s %s"):format(self.name, self.help:gsub("[\\\n]", ESCAPES))
  end
  out[#out + 1] = ("# TYPE %s %s"):format(self.name, self.kind)
  local keys = {}
  for key in pairs(self.series) do keys[#keys + 1] = key end
  table.sort(keys)
  for _, key in ipairs(keys) do
    local series = self.series[key]
    if self.buckets then
      write_histogram(self, series, out)
    else
      out[#out + 1] = ("%s%s %s"):format(self.name, labels_text(self, series), number_text(series.value))
    end
  end
end

--- Every metric of this process as Prometheus reads it. May wait: collectors may.
---@return string
function metrics.text()
  for collect in pairs(collectors) do collect() end
  local out = {}
  for _, name in ipairs(order) do write_metric(registry[name], out) end
  return table.concat(out, "\n") .. "\n"
end

return metrics
