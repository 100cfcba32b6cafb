-- jobs/news.lua: how those who make jobs due tell the workers: in the same process at once, in others by
-- NOTIFY, after the commit, at most once in INTERVAL (each NOTIFY takes a lock that all commits share).
--
-- News is nil (jobs are due), a table {[priority] = time} of jobs that may be due since longer than a
-- moment, or news.ALL: look at everything again. See worker/watermark.lua.
local nebula = require "nebula"

local news = {}

news.CHANNEL = "nebula_jobs"
news.ALL = "all"
news.SLOW = 0.05 -- seconds of a statement after which its now() is news

local INTERVAL = 0.003 -- seconds, which the last of some pushes is told late
local MOST = 50 -- priorities in a payload, which holds 8,000 bytes

---@class nebula.Teller tells the workers of other processes
local Teller = {}
Teller.__index = Teller

---@param db nebula.pg.Pool
---@return nebula.Teller
function news.teller(db)
  return setmetatable({ db = db, name = nebula.crypto.uuid_v4():sub(1, 8), sent = -INTERVAL }, Teller)
end

--- Adds to a table of news that a job of the priority is due since then.
---@param since table<integer, string>
---@param priority? integer one without is of another program, whose jobs each claim looks for from the head
---@param at string
function news.add(since, priority, at)
  if priority and (not since[priority] or at < since[priority]) then since[priority] = at end
end

local function merged(old, new)
  if old == news.ALL or new == news.ALL then return news.ALL end
  if not old or not new then return old or new end
  local all = {}
  for _, part in ipairs { old, new } do
    for priority, at in pairs(part) do news.add(all, priority, at) end
  end
  return all
end

local function encode(what)
  if type(what) ~= "table" then return what or "" end
  local parts = {}
  for priority, at in pairs(what) do parts[#parts + 1] = ("%d=%s"):format(priority, at) end
  return #parts > MOST and news.ALL or table.concat(parts, ",")
end

--- What a payload says, or false where it is this teller's own.
---@param payload string
---@return table|string|nil|false
function Teller:read(payload)
  local name, text = payload:match "^(%x+) (.*)$"
  if name == self.name then return false end
  if text == "" then return nil end
  local what
  for priority, at in (text or ""):gmatch "(-?%d+)=([^,]+)" do
    what = what or {}
    what[math.tointeger(priority)] = at
  end
  return what or news.ALL -- whatever else it is
end

--- Sends what is not sent. What cannot be is found by the workers' polls.
function Teller:flush()
  if not self.waiting then return end
  local what = self.what
  self.waiting, self.what, self.sent = false, nil, nebula.time.monotonic()
  local _, err = nebula.try(self.db.exec, self.db, "SELECT pg_notify($1, $2)", news.CHANNEL,
    self.name .. " " .. encode(what))
  if err then nebula.log.debug("the workers could not be told of new jobs", { error = err.message }) end
end

--- Tells at once, or with the next that may be sent.
---@param what table|string|nil
function Teller:tell(what)
  self.what = merged(self.what, what)
  if self.waiting then return end
  self.waiting = true
  local rest = self.sent + INTERVAL - nebula.time.monotonic()
  if rest <= 0 then return self:flush() end
  nebula.task.spawn(function()
    nebula.task.sleep(rest)
    self:flush()
  end)
end

return news
