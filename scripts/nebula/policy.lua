-- policy.lua: a queue policy loaded into its sandbox, and its plans made SQL.
--
-- A policy is a Lua file that returns a table of pure functions (claim, select, admit, retry, rescue) and
-- declares options. It runs in a state of its own (nebula.sandbox); here are its calls with what
-- they are given and what they may answer. What a plan may name is what the claim's indexes can serve:
-- its cost follows the rows taken, not the backlog.
local check = require "nebula.check"
local lanes = require "nebula.jobs.lanes"
local nebula = require "nebula"
local options = require "nebula.options"
local plans = require "nebula.policy.plan"
local project = require "nebula.project"
local raise = require "nebula.raise"

local policy = {}

local DEFAULT = "priority"
local QUIET_SECONDS = 30
local DEFAULT_RETRY = { first = 2, longest = 900 }
local ADMITTED = { -- what admit may say of a job
  id = true, workflow_id = true, execution_id = true, priority = true, scheduled_at = true, delay = true,
  max_retries = true, payload = true, unique_key = true, lane = true,
}
local FIELDS = {
  summary = "string", lane = "string", options = "table", claim = "function", select = "function", admit = "function",
  retry = "function", rescue = "function",
}

---@class nebula.Policy
---@field name string
---@field lane? string the payload's field or the column that is a job's lane
---@field options table the values in force
---@field path string
---@field source string
---@field modules table<string, {source: string, path: string}> the policies it has loaded by `policy "name"`
---@field clock? fun(): number epoch seconds, where they are not this machine's: a worker's are the database's
---@field version? integer of a published one
---@field configured? boolean nebula.conf.lua names it
---@field reads_payload? boolean its select has read one
local Policy = {}
Policy.__index = Policy

local function fail(self, ...) raise("policy", "policy %s: " .. (...), self.name, select(2, ...)) end

-- ---- plans ----

--- What to take next: limit, order, and what it says of lanes. nil: nothing now.
---@param limit integer the free slots
---@return nebula.Plan?
function Policy:plan(limit)
  local answer = self:claim { limit = limit }
  if answer == nil and not self:has "claim" then answer = {} end
  local plan = plans.read(self, answer, limit)
  if plan then self.last_lanes = plan.lanes end
  return plan
end

--- Whether a plan, or else the last one, is a claim by lanes.
---@param plan? nebula.Plan
---@return boolean
function Policy:by_lanes(plan)
  return self:has "select" or (plan or { lanes = self.last_lanes }).lanes ~= nil
end

--- A call of the policy has failed, and the queue does without it: an error in the log, again and again
--- while it lasts.
---@param call string
---@param err any
function Policy:complain(call, err)
  local now = nebula.time.monotonic()
  self.quiet_until = self.quiet_until or {}
  if now < (self.quiet_until[call] or 0) then return end
  self.quiet_until[call] = now + QUIET_SECONDS
  nebula.log.error("policy failed; the queue goes on without its answer until it is mended",
    { policy = self.name, version = self.version, call = call, error = err.message or tostring(err) })
end

--- The same for a worker, whose jobs must not wait for the policy's author: where the policy fails, by
--- priority and time, under the limits of its last plan.
---@param limit integer
---@return nebula.Plan?
function Policy:plan_or_default(limit)
  local answer, err = nebula.try(function() return { self:plan(limit) } end)
  if answer then return answer[1] end
  self:complain("claim", err)
  return plans.default(limit, self.last_lanes)
end

-- What select answers: each of the candidates once at most.
local function picked_of(self, given, answer)
  local by_id, list = {}, {}
  for _, candidate in ipairs(given) do by_id[candidate.id] = candidate end
  for i, picked in ipairs(answer) do
    local id = type(picked) == "table" and picked.id
    local candidate = id and by_id[id]
    if not candidate then
      fail(self, "select's answer %d is what it was not given, or the same job twice: %s", i,
        id and tostring(id) or type(picked))
    end
    by_id[id] = nil
    list[i] = candidate
  end
  return list
end

local function rank(self, given, views, payloads)
  self.payloads = payloads
  local answer = self:select(views)
  return picked_of(self, given, answer)
end

local SEEN = { "id", "workflow_id", "execution_id", "priority", "scheduled_at", "retry_count", "max_retries", "lane" }

--- The candidates as select ranks them, without those that it leaves out; where it fails, as they are.
--- Their payloads are fetched only for a policy that reads them: its first select that does is called
--- again.
---@param given table[]
---@param fetch fun(): table<string, string> payloads, JSON, by id
---@return table[]
function Policy:rank(given, fetch)
  local views = {}
  for i, candidate in ipairs(given) do
    local view = {}
    for _, name in ipairs(SEEN) do view[name] = candidate[name] end
    views[i] = require("nebula.sandbox").record(view)
  end
  local before = self.reads_payload
  local list, err = nebula.try(rank, self, given, views, before and fetch() or nil)
  if self.reads_payload and not before then list, err = nebula.try(rank, self, given, views, fetch()) end
  self.payloads = nil
  if list then return list end
  self:complain("select", err)
  return given
end

-- What a candidate's payload is, when the policy reads it.
local function payload_of(self, id)
  if not self.payloads then
    self.reads_payload = true
    error("payloads come with the next call", 0)
  end
  local text = self.payloads[id]
  return text and nebula.json.decode(text)
end

-- ---- the other calls ----

-- What retry or rescue may answer: seconds, or "dead" and a reason.
local function delay(self, name, answer, reason)
  if answer == "dead" then return "dead", type(reason) == "string" and reason or nil end
  local seconds = options.duration(answer)
  if not seconds then fail(self, '%s returns seconds or "dead", not %s', name, tostring(answer)) end
  return seconds
end

--- What retry or rescue says of a job, as it says it: raises where the policy fails.
---@param name "retry"|"rescue"
---@param job table
---@param ... table
---@return number|"dead", string?
function Policy:ask(name, job, ...) return delay(self, name, self:call(name, job, ...)) end

-- A failure of the policy itself must not lose the job: it is tried again as the default would.
local function guarded(self, name, job, ...)
  if self:has(name) then
    local answer, reason = nebula.try(function(...) return { self:ask(name, job, ...) } end, ...)
    if answer then return answer[1], answer[2] end
    nebula.log.error("policy failed", { policy = self.name, call = name, job = job.id, error = tostring(reason) })
  end
  local wait = math.min(DEFAULT_RETRY.longest, DEFAULT_RETRY.first * 2 ^ (job.retry_count or 0))
  return wait * (0.5 + math.random() / 2)
end

-- What retry and rescue are given of a job; times are epoch seconds.
local function job_view(job)
  local at = job.scheduled_at
  return {
    id = job.id, workflow_id = job.workflow_id, execution_id = job.execution_id, priority = job.priority or 0,
    scheduled_at = type(at) == "string" and nebula.time.parse(at) or at,
    retry_count = job.retry_count or 0, max_retries = job.max_retries or 0, lane = job.lane, payload = job.payload,
  }
end

--- Seconds until the next try, or "dead" and the reason.
---@param job table
---@param failure table kind, message, code, retryable, retry_after, attempt, elapsed
---@return number|"dead", string?
function Policy:retry(job, failure)
  return guarded(self, "retry", job_view(job), {
    kind = failure.kind, message = failure.message, code = failure.code, retryable = failure.retryable,
    retry_after = failure.retry_after, attempt = failure.attempt, elapsed = failure.elapsed,
  }, {})
end

--- What becomes of a job whose worker vanished.
---@param job table
---@return number|"dead", string?
function Policy:rescue(job)
  if not self:has "rescue" then return 0 end
  return guarded(self, "rescue", job_view(job), {})
end

--- What the policy says to a push: nil accepts, a table of fields overrides, `false, reason` refuses.
---@param job table
---@return table|false|nil, string?
function Policy:admit(job)
  if not self:has "admit" then return nil end
  if job.priority == nil then
    local copy = { priority = 0 }
    for field, value in pairs(job) do copy[field] = value end
    job = copy
  end
  local answer, reason = self:call("admit", job, {})
  if answer ~= nil and answer ~= false and type(answer) ~= "table" then
    fail(self, "admit returns nil, a table of fields, or false and a reason; not %s", tostring(answer))
  end
  for field in pairs(answer or {}) do
    if not ADMITTED[field] then check.fields("policy " .. self.name .. ": admit", answer, ADMITTED) end
  end
  return answer, reason
end

--- The candidates in the order to take them.
---@param candidates table[]
---@param ctx? table
---@return table[]
function Policy:select(candidates, ctx)
  if not self:has "select" then return candidates end
  local picked = self:call("select", candidates, ctx or {})
  if type(picked) ~= "table" then fail(self, "select returns a list of candidates, not %s", type(picked)) end
  return picked
end

--- What claim answers, as it answers it; nil where the policy has none.
---@param ctx? {limit: integer}
---@return table?
function Policy:claim(ctx)
  if not self:has "claim" then return nil end
  return self:call("claim", ctx or { limit = 1 })
end

--- Where a job's lane stands: what the policy declares, or the workflow.
---@return string
function Policy:declaration() return self.lane or lanes.DEFAULT end

--- A simulated job's lane: its own, or what the declaration names; nil where there is none. (The queue
--- has the database say it: jobs/lanes.lua.)
---@param job table
---@return string?
function Policy:lane_of(job)
  if job.lane or not self.lane then return job.lane end
  local value = job
  for part in self.lane:gmatch "[^.]+" do
    if type(value) ~= "table" then return nil end
    value = value[part]
  end
  return value ~= nil and type(value) ~= "table" and tostring(value) or nil
end

---@param name string
---@return boolean
function Policy:has(name) return self.functions[name] == true end

-- ---- loading ----

local function is_file(path)
  local file = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil
end

--- Where a policy's file is: beside another one, in the project's policies/, in the host's own.
---@param name string
---@param beside? string a directory
---@return string? path
function policy.find(name, beside)
  if name:find "/" or name:find "%.lua$" then return name end
  if beside and is_file(("%s/%s.lua"):format(beside, name)) then return ("%s/%s.lua"):format(beside, name) end
  for template in package.path:gmatch "[^;]+" do
    local directory = template:match "^(.*)/%?%.lua$"
    local path = directory and directory .. "/policies/" .. name .. ".lua"
    if path and is_file(path) then return path end
  end
end

local function read(path)
  local file, message = io.open(path, "rb")
  if not file then raise("policy", "%s: cannot be read: %s", path, message) end
  local source = file:read "a"
  file:close()
  return source
end

--- Loads a policy's file into a sandbox of its own, with its options set and checked.
--- Raises `policy` with file:line where it does not compile or is no policy, `not_found`.
---@param name string a name, or a path
---@param values? table its options
---@return nebula.Policy
function policy.load(name, values)
  local path = policy.find(name)
  if not path then
    raise("not_found", "there is no policy %q in policies/%s; `nebula policy list` shows them", name,
      options.did_you_mean(name, project.names "policies"))
  end
  return policy.from_source(name, path, read(path), values)
end

-- Where `policy "name"` finds others: in the modules given, or beside the policy's file and in
-- policies/. What it finds is remembered, so that all of the policy can be published and watched.
local function finder(self, modules)
  return function(other)
    local known = modules and modules[other]
    local found = not modules and policy.find(other, self.path:match "^(.*)/[^/]*$")
    local source = known and known.source or found and read(found)
    if not source then return nil end
    self.modules[other] = { source = source, path = known and known.path or found }
    return source, "@" .. self.modules[other].path
  end
end

local function check_declared(self, declared)
  for name, option in pairs(declared) do
    if type(option) ~= "table" then
      fail(self, "options.%s is declared by a table such as { default = 8 }, not by a %s", tostring(name), type(option))
    end
  end
  return declared
end

--- Loads a policy from its text.
---@param name string
---@param path string its name in messages
---@param source string
---@param values? table
---@param modules? table<string, {source: string, path: string}> what `policy "name"` loads; default: files
---@return nebula.Policy
function policy.from_source(name, path, source, values, modules)
  local self = setmetatable({
    name = name:match "([^/]+)%.lua$" or name, path = path, source = source, modules = {}, now = nebula.time.now(),
  }, Policy)
  self.date = function(zone, at) return nebula.time.date(zone, at or self.now) end
  self.sandbox = require("nebula.sandbox").load(source, "@" .. path, {
    seed = math.random(math.maxinteger), functions = { date = self.date }, find = finder(self, modules),
    payload = function(id) return payload_of(self, id) end,
  })
  local declared = self.sandbox:describe()
  if type(declared) ~= "table" then fail(self, "%s returns a table of functions, not %s", path, type(declared)) end
  for field in pairs(declared) do
    if not FIELDS[field] then
      local names = {}
      for known in pairs(FIELDS) do names[#names + 1] = known end
      fail(self, "it has a field %s, which none of a policy's is%s", tostring(field),
        options.did_you_mean(tostring(field), names))
    end
  end
  self.summary, self.lane, self.functions = declared.summary, declared.lane, {}
  for field, kind in pairs(FIELDS) do
    local value = declared[field]
    if value ~= nil and kind == "function" then
      if type(value) ~= "userdata" then fail(self, "%s is a function, not %s", field, type(value)) end
      self.functions[field] = true
    elseif value ~= nil and type(value) ~= kind then
      fail(self, "%s is a %s, not %s", field, kind == "string" and "text" or kind, type(value))
    end
  end
  local problem = self.lane and lanes.problem(self.lane)
  if problem then fail(self, "%s", problem) end
  self.declared = check_declared(self, declared.options or {})
  self.options = options.coerce(self.declared, values, "policy " .. self.name)
  return self
end

local default

-- What nebula.conf.lua names: "fifo", or { "tenants", cap = 8, ... }.
local function configured(given)
  local values = {}
  local name = given
  if type(given) == "table" then
    name = given[1]
    for option, value in pairs(given) do
      if option ~= 1 then values[option] = value end
    end
  end
  if type(name) ~= "string" then
    raise("config", 'nebula.conf.lua: policy is a name, or a table such as { "tenants", cap = 8 }')
  end
  local loaded, err = nebula.try(function()
    local made = policy.load(name, values)
    made:plan(1)
    return made
  end)
  if not loaded then raise("config", "nebula.conf.lua: policy: %s", err.message or tostring(err)) end
  loaded.configured = true
  return loaded
end

--- What is in force where none is published: the one that nebula.conf.lua names, or the built-in
--- default. Loaded once. Raises `config` where nebula.conf.lua's does not load.
---@return nebula.Policy
function policy.default()
  if not default then
    local given = require("nebula.config").settings().file.policy
    default = given and configured(given) or policy.load(DEFAULT)
  end
  return default
end

--- Epoch seconds, as its functions see them.
---@return number
function Policy:time() return self.clock and self.clock() or nebula.time.now() end

-- The context is the last argument of every function.
function Policy:call(name, ...)
  local ctx = select(-1, ...)
  self.now = self:time()
  ctx.now, ctx.options, ctx.date = self.now, self.options, self.date
  return self.sandbox:call(name, ...)
end

return policy
