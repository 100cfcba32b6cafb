-- worker/handlers.lua: job handlers: Lua files chosen by the payload's `handler`.
--
-- A file returns `{summary=, deadline=, options=, run=function(ctx, job)}`, or the function alone. It
-- is loaded at the first job of its name. What is missing or broken fails the job, not the worker;
-- it is looked for again a little later, so that putting the file right is enough.
local nebula = require "nebula"
local options = require "nebula.options"
local raise = require "nebula.raise"

---@class nebula.Handlers
local Handlers = {}
Handlers.__index = Handlers

local RETRY_SECONDS = 1 -- a handler that could not be loaded is tried again after this
local FIELDS = { summary = "string", deadline = "any", options = "table", run = "function" }

---@class nebula.Handler
---@field summary? string
---@field deadline? number seconds
---@field run fun(ctx: nebula.HandlerContext, job: nebula.Job): any

--- directory comes first where given; `only` is a function for every job instead of files.
---@param directory? string
---@param only? fun(ctx: table, job: table): any
---@return nebula.Handlers
function Handlers.new(directory, only)
  if directory then
    local system = require "nebula.system"
    local info = system.stat(directory)
    if not info or info.type ~= "directory" then
      raise("config", "--handlers %s: no such directory", directory)
    end
  end
  return setmetatable({ directory = directory, loaded = {}, broken = {}, only = only and { run = only } }, Handlers)
end

local function is_file(path)
  local file = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil
end

--- Where a handler's file is, or nil and the places looked at.
---@param name string
---@return string? path, string[] tried
function Handlers:find(name)
  local tried = {}
  if self.directory then tried[1] = ("%s/%s.lua"):format(self.directory, name) end
  for template in package.path:gmatch "[^;]+" do
    local directory = template:match "^(.*)/%?%.lua$"
    if directory then tried[#tried + 1] = ("%s/handlers/%s.lua"):format(directory, name) end
  end
  for _, path in ipairs(tried) do
    if is_file(path) then return path, tried end
  end
  return nil, tried
end

local function checked(path, result)
  if type(result) == "function" then return { run = result } end
  if type(result) ~= "table" then
    raise("script", "%s: a handler returns a function or a table with `run`, not %s", path, type(result))
  end
  for field, value in pairs(result) do
    local kind = FIELDS[field]
    if not kind then
      local names = {}
      for name in pairs(FIELDS) do names[#names + 1] = name end
      raise("script", "%s: unknown field %s%s", path, tostring(field), options.did_you_mean(tostring(field), names))
    elseif kind ~= "any" and type(value) ~= kind then
      raise("script", "%s: %s is a %s, not %s", path, field, kind, type(value))
    end
  end
  if not result.run then raise("script", "%s: the handler has no `run`", path) end
  local handler = { run = result.run, summary = result.summary, options = result.options }
  if result.deadline ~= nil then
    handler.deadline = options.duration(result.deadline)
    if not handler.deadline then
      raise("script", '%s: deadline %q is no duration such as "2m"', path, tostring(result.deadline))
    end
  end
  return handler
end

local function load_handler(self, name)
  if type(name) ~= "string" then raise("validation", "the job's payload names no `handler`") end
  if not name:find "^[%w_][%w_.-]*$" then raise("validation", "handler %q is no name of a handler", name) end
  local path, tried = self:find(name)
  if not path then
    raise("not_found", "there is no handler %q: %s does not exist; --handlers DIR names another directory", name,
      tried[1])
  end
  local chunk, message = loadfile(path, "t")
  if not chunk then raise("script", "handler %s: %s", name, message) end
  local result, err = nebula.try(chunk)
  if err then raise("script", "handler %s: it failed while it was loaded: %s", name, err.message or tostring(err)) end
  return checked(path, result)
end

--- The handler of a name. Raises `not_found`, or `script` with file:line.
---@param name any the payload's `handler`
---@return nebula.Handler
function Handlers:get(name)
  local handler = self.only or self.loaded[name]
  if handler then return handler end
  local broken = name ~= nil and self.broken[name]
  if broken and nebula.time.monotonic() < broken.until_time then error(broken.err, 0) end
  local err
  handler, err = nebula.try(load_handler, self, name)
  if handler then
    self.loaded[name] = handler
    return handler
  end
  if type(name) == "string" then
    self.broken[name] = { err = err, until_time = nebula.time.monotonic() + RETRY_SECONDS }
  end
  error(err, 0)
end

return Handlers
