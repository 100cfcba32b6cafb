-- policy/watched.lua: a policy's file for this process alone, read again when it has changed.
--
-- What is new is loaded aside and tried; one that does not load is refused once, and the one before
-- works on.
local edited = require "nebula.edited"
local nebula = require "nebula"
local policy = require "nebula.policy"

---@class nebula.WatchedPolicy
---@field policy nebula.Policy what works
local Watched = {}
Watched.__index = Watched

-- Remembers what a policy's files looked like, by path.
local function remember(self, loaded)
  local texts = { [loaded.path] = loaded.source }
  for _, module in pairs(loaded.modules) do texts[module.path] = module.source end
  self.files = {}
  for path, text in pairs(texts) do self.files[path] = { text = text } end
end

--- Raises what policy.load raises.
---@param name string a name, or a file
---@return nebula.WatchedPolicy
function Watched.new(name)
  local self = setmetatable({ policy = policy.load(name) }, Watched)
  self.policy:plan(1)
  remember(self, self.policy)
  return self
end

--- The policy as its files are now, where they have changed since the last look and it loads.
---@return nebula.Policy? fresh
function Watched:look()
  local any = false
  for path, file in pairs(self.files) do any = edited.changed(file, path) or any end
  if not any then return nil end
  local fresh, err = nebula.try(function()
    local loaded = policy.load(self.policy.path)
    loaded:plan(1)
    return loaded
  end)
  if not fresh then
    nebula.log.error("the edited policy was refused; the one before works on",
      { policy = self.policy.name, error = err.message or tostring(err) })
    return nil
  end
  self.policy = fresh
  remember(self, fresh)
  return fresh
end

return Watched
