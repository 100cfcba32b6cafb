-- proxy.lua: the fault proxy (spec/support/proxy/), a process that stands between what a spec tests and a
-- real server, or plays a broken server, and can be told at any moment to delay, slice, throttle, stall,
-- reset, half-close or refuse. proxy.h says what each fault means. It ends with the spec's process.
local child = require "spec.support.child"
local directory = require "spec.support.directory"

local proxy = {}

---@class spec.Proxy
---@field port integer of 127.0.0.1
local Proxy = {}
Proxy.__index = Proxy

-- The next line of the program's output.
local function read_line(self)
  while not self.output:find("\n", 1, true) do
    self.output = self.output .. (self.process:read() or error("the proxy has ended", 3))
  end
  local line, rest = self.output:match("^(.-)\n(.*)$")
  self.output = rest
  return line
end

--- Sends a command of proxy.h and returns the numbers of its answer. One task at a time.
---@param ... string|number its words
---@return table<string, integer>
function Proxy:command(...)
  self.process:write(table.concat({ ... }, " ") .. "\n")
  local answer = read_line(self)
  if not answer:find("^ok") then error(("proxy: %s: %s"):format(table.concat({ ... }, " "), answer), 2) end
  local numbers = {}
  for name, value in answer:gmatch("(%a+)=(%d+)") do numbers[name] = math.tointeger(value) end
  return numbers
end

--- Changes the faults of a direction, for open links too:
--- { latency =, jitter = (s), slice = (bytes), bandwidth = (bytes/s), stall = (boolean),
---   stall_after =, reset_after =, finish_after = (bytes) }; 0 and false end one.
---@param side "up"|"down"|"both" towards the server, towards the client
---@param faults table<string, number|boolean>
function Proxy:set(side, faults)
  for name, value in pairs(faults) do
    if type(value) == "boolean" then value = value and 1 or 0 end
    self:command("set", side, (name:gsub("_", "-")), value)
  end
end

--- No faults at all, of either direction and of connecting; not those of the level.
function Proxy:clear() self:command "clear" end

--- How connects are answered from now on.
---@param how "open"|"refuse"|"silent"|"reset"|"unanswered"
function Proxy:accept(how) self:command("accept", how) end

--- Resets every open link, on both sides.
function Proxy:reset() self:command "reset" end

--- Tells one side of every open link that the stream has ended; the other direction goes on.
---@param side "up"|"down"|"both"
function Proxy:finish(side) self:command("finish", side) end

---@return { accepted: integer, open: integer, up: integer, down: integer } links, and bytes passed on
function Proxy:counts() return self:command "count" end

local function words_of(target)
  if not target then return { "none" } end
  if target.path then return { "unix", target.path } end
  return { "tcp", target.address or "127.0.0.1", target.port }
end

--- Sends links to another server from now on.
---@param target { path: string } | { address: string?, port: integer }
function Proxy:to(target) self:command("to", table.unpack(words_of(target))) end

function Proxy:close()
  self.process:end_input()
  self.process:wait()
end

Proxy.__close = Proxy.close

--- Starts one. Close it: `local between <close> = proxy.start { port = 8080 }`.
---@param target { path: string } | { address: string?, port: integer } | nil nil: the level is the server
---@param level string? a level of proxy.h; default "pass", bytes as they come
---@return spec.Proxy
function proxy.start(target, level)
  local process = child.spawn {
    file = directory.build .. "/proxy", args = { level or "pass", table.unpack(words_of(target)) },
    stdin = "pipe", stdout = "pipe",
  }
  local self = setmetatable({ process = process, output = "" }, Proxy)
  self.port = math.tointeger(read_line(self):match("^port (%d+)$"))
  return self
end

--- The URL of a database of the PostgreSQL server behind it.
---@param database string? default "nebula"
---@return string
function Proxy:url(database)
  return ("postgresql://nebula@127.0.0.1:%d/%s?sslmode=disable"):format(self.port, database or "nebula")
end

--- Starts one in front of a PostgreSQL server of the specs.
---@param server spec.Server
---@return spec.Proxy
function proxy.postgres(server) return proxy.start { path = server.directory .. "/.s.PGSQL.5432" } end

return proxy
