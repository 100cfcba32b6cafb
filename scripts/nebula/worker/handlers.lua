-- worker/handlers.lua: job handlers: Lua files chosen by the payload's `handler`.
--
-- A file returns `{summary=, deadline=, options=, run=function(ctx, job)}`, or the function alone. It
-- is loaded at the first job of its name, and again when it was edited, between two jobs; where it then
-- does not load, the one before works on. What is missing or broken from the start fails the job, not the
-- worker; it is looked for again a little later, so that putting the file right is enough.
local edited = require "nebula.edited"
local nebula = require "nebula"
local options = require "nebula.options"
local raise = require "nebula.raise"

---@class nebula.Handlers
local Handlers = {}
Handlers.__index = Handlers

local RETRY_SECONDS = 1 -- a handler that could not be loaded is tried again after this
local LOOK_SECONDS = 0.5 -- between two looks at a handler's file
local FIELDS = { summary = "string", deadline = "any", options = "table", run = "function" }

---@class nebula.Handler
---@field summary? string
---@field deadline? number seconds
---@field run fun(ctx: nebula.HandlerContext, job: nebula.Job): any
---@field path? string its file
---@field look_at? number when that is looked at next
---@field known? {text: string, state?: string} what was loaded

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

-- The handler of a file's text. Raises `script` with file:line.
local function compile(name, path, text)
  local chunk, message = load(text, "@" .. path, "t")
  if not chunk then raise("script", "handler %s: %s", name, message) end
  local result, err = nebula.try(chunk)
  if err then raise("script", "handler %s: it failed while it was loaded: %s", name, err.message or tostring(err)) end
  return checked(path, result)
end

local function load_handler(self, name)
  if type(name) ~= "string" then raise("validation", "the job's payload names no `handler`") end
  if not name:find "^[%w_][%w_.-]*$" then raise("validation", "handler %q is no name of a handler", name) end
  local path, tried = self:find(name)
  if not path then
    raise("not_found", "there is no handler %q: %s does not exist; --handlers DIR names another directory", name,
      tried[1])
  end
  local known = {}
  edited.changed(known, path)
  local handler = compile(name, path, known.text or raise("script", "handler %s: %s cannot be read", name, path))
  handler.path, handler.known = path, known
  return handler
end

-- The handler as its file is now: the one before where that has not changed, or does not load.
local function renewed(self, name, handler, now)
  handler.look_at = now + LOOK_SECONDS
  if not edited.changed(handler.known, handler.path) then return handler end
  local fresh, err = nebula.try(compile, name, handler.path, handler.known.text)
  if not fresh then
    nebula.log.error("the edited handler was refused; the one before works on",
      { handler = name, error = err.message or tostring(err) })
    return handler
  end
  nebula.log.info("handler loaded again", { handler = name })
  fresh.path, fresh.known, fresh.look_at = handler.path, handler.known, handler.look_at
  self.loaded[name] = fresh
  return fresh
end

--- Looks at every handler's file at its next job, also where another directory has it now.
function Handlers:reload()
  self.broken = {}
  for name, handler in pairs(self.loaded) do
    handler.path, handler.look_at = self:find(name) or handler.path, 0
  end
end

--- The handler of a name. Raises `not_found`, or `script` with file:line.
---@param name any the payload's `handler`
---@return nebula.Handler
function Handlers:get(name)
  if self.only then return self.only end
  local handler, now = self.loaded[name], nebula.time.monotonic()
  if handler then
    if now < handler.look_at then return handler end
    return renewed(self, name, handler, now)
  end
  local broken = name ~= nil and self.broken[name]
  if broken and now < broken.until_time then error(broken.err, 0) end
  local err
  handler, err = nebula.try(load_handler, self, name)
  if handler then
    handler.look_at = now + LOOK_SECONDS
    self.loaded[name] = handler
    return handler
  end
  if type(name) == "string" then
    self.broken[name] = { err = err, until_time = now + RETRY_SECONDS }
  end
  error(err, 0)
end

return Handlers
