-- environment.lua: the names that the prompt and `nebula -e` know without require. Each is made at
-- its first use: no database is touched by a line that does not ask for it.
local nebula = require "nebula"

local environment = {}

local makers = {
  nebula = function() return nebula end,
  task = function() return nebula.task end,
  storage = function() return require("nebula.storage").shared() end,
  db = function(env) return env.storage.db end,
  blobs = function(env) -- the store alone, where there is no database to keep its table
    local config = require "nebula.config"
    local settings = config.settings()
    if settings.state or config.names_database(settings) then return env.storage.blobs end
    return require("nebula.blobs").open()
  end,
  queue = function() return require "nebula.queue" end,
  sql = function(env)
    return function(statement, ...) return env.db:query(statement, ...) end
  end,
  plot = function() return require "nebula.plot" end,
  help = function() return require "repl.help" end,
}

--- The lazily made names.
---@return string[]
function environment.names()
  local names = {}
  for name in pairs(makers) do names[#names + 1] = name end
  table.sort(names)
  return names
end

--- Gives the table the lazily made names.
---@param env table
---@param parent? table where all other names are looked up
---@return table env
function environment.install(env, parent)
  return setmetatable(env, {
    __index = function(self, name)
      local make = makers[name]
      if not make then return parent and parent[name] end
      local value = make(self)
      rawset(self, name, value)
      return value
    end,
  })
end

-- Whether the database is the private one, and does not run yet.
local function starts_server()
  local config = require "nebula.config"
  local settings = config.settings()
  return not config.names_database(settings) and settings.state
    and require("nebula.dev").status(settings.state).status ~= "ready"
end

--- A lazily made name's value for Tab: made where that waits for nothing, else in the background, for
--- the next time. Nothing is connected to.
---@param env table
---@param name string
---@return any
function environment.peek(env, name)
  local value = rawget(env, name)
  if value ~= nil or not makers[name] then return value end
  local stores = name == "db" or name == "storage" or name == "blobs"
  if stores and nebula.try(starts_server) then
    nebula.task.spawn(nebula.try, function() return env[name] end)
    return nil
  end
  return (nebula.try(function() return env[name] end))
end

--- Closes the storage and forgets what was made of it: the next use makes it anew.
---@param env table
function environment.reset(env)
  local storage = rawget(env, "storage")
  for _, name in ipairs { "storage", "db", "blobs", "sql" } do rawset(env, name, nil) end
  if storage then storage:close() end
end

return environment
