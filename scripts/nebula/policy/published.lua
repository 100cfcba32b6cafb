-- policy/published.lua: the policy that all processes follow: rows of job_policies, of which the one
-- of the highest version is in force.
--
-- A row holds everything the policy is made of: its source, the sources of the policies it loads,
-- and its options. Whoever follows looks up whether there is a higher version now and then (one row
-- by the primary key), loads it aside, and only then uses it. One that does not load is refused, and
-- the one before works on.
local nebula = require "nebula"
local policy = require "nebula.policy"
local raise = require "nebula.raise"
local trial = require "nebula.policy.check"

local published = {}

--- Seconds between two looks.
published.LOOK_SECONDS = 0.4

local OLDER_TRIED = 5 -- versions that a process which has none yet goes back through
local NO_TABLE = "42P01"

local NEWER = "SELECT * FROM job_policies WHERE version > $1 ORDER BY version DESC LIMIT 1"
local NEWEST = "SELECT * FROM job_policies ORDER BY version DESC LIMIT $1"

-- ---- one version ----

--- A published version as a policy.
--- Raises `policy` with file:line where it does not load.
---@param row table of job_policies
---@return nebula.Policy
function published.load(row)
  local loaded = policy.from_source(row.name, row.name .. ".lua", row.source, row.options, row.modules or {})
  loaded.version = row.version
  loaded:plan(1)
  return loaded
end

local function whose()
  local user = require("nebula.system").user(require("nebula.system").ids().uid)
  return user and user.name or nil
end

--- Publishes a policy's file with these options, once it has passed its checks.
--- Raises `policy` with file:line, `validation` (an option), `not_found`; then nothing has changed.
---@param db nebula.pg.Pool
---@param name string a name, or a file
---@param values? table its options
---@param payload? table of the sample job that its functions are tried with
---@return table row
function published.use(db, name, values, payload)
  local loaded = policy.load(name, values)
  trial.must(loaded, payload)
  local given = nebula.json.object()
  for option in pairs(values or {}) do given[option] = loaded.options[option] end
  local modules = nebula.json.object()
  for module, part in pairs(loaded.modules) do modules[module] = part end
  return db:one([[
    INSERT INTO job_policies (name, source, modules, options, published_by)
    VALUES ($1, $2, $3, $4, coalesce($5, current_user))
    RETURNING *
  ]], loaded.name, loaded.source, modules, given, whose())
end

--- Publishes the version before the one in force again, as a new version.
--- Raises `not_found` where there is none, `policy` where it does not load any more.
---@param db nebula.pg.Pool
---@return table row
function published.use_previous(db)
  local rows = db:query(NEWEST, 2)
  if #rows < 2 then
    raise("not_found", "no policy was published before%s; `nebula policy use NAME` publishes one",
      rows[1] and " " .. rows[1].name or "")
  end
  published.load(rows[2])
  return db:one([[
    INSERT INTO job_policies (name, source, modules, options, published_by)
    SELECT name, source, modules, options, coalesce($2, current_user)
    FROM job_policies
    WHERE version = $1
    RETURNING *
  ]], rows[2].version, whose())
end

--- The published versions, the one in force first.
---@param db nebula.pg.Pool
---@param limit integer
---@return table[]
function published.list(db, limit) return db:query(NEWEST, limit) end

-- ---- following ----

---@class nebula.Following
local Following = {}
Following.__index = Following

--- Follows the table: policy() is what is in force.
---@param db nebula.pg.Pool
---@return nebula.Following
function published.follow(db) return setmetatable({ db = db, version = 0, look_at = 0 }, Following) end

local function adopt(self, row)
  local loaded, err = nebula.try(published.load, row)
  if loaded then
    self.current = loaded
  else
    nebula.log.error("a published policy was refused; the one before works on",
      { policy = row.name, version = row.version, error = err.message or tostring(err) })
  end
  return loaded ~= nil
end

-- The newest version that loads, where this process has none to go on with.
local function adopt_older(self, db)
  for i, row in ipairs(db:query(NEWEST, OLDER_TRIED)) do
    if i > 1 and adopt(self, row) then return end
  end
  self.current = policy.default()
end

local function look(self, db)
  local row, err = nebula.try(db.one, db, NEWER, self.version)
  if err and (err.code ~= NO_TABLE or db ~= self.db) then error(err, 0) end
  if row and row.version > self.version then
    self.version = row.version
    if not adopt(self, row) and not self.current then adopt_older(self, db) end
  end
  self.current = self.current or policy.default()
end

--- The policy in force. Raises where it was never looked up and the database cannot be reached.
---@param db? nebula.pg.Pool|nebula.pg.Connection where to look: the caller's transaction
---@return nebula.Policy
function Following:policy(db)
  local now = nebula.time.monotonic()
  if not self.current or now >= self.look_at then
    self.look_at = now + published.LOOK_SECONDS
    look(self, db or self.db)
  end
  return self.current
end

return published
