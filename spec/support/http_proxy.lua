-- http_proxy.lua: an HTTP server between the specs and a real one (or nothing), which answers as it is
-- told, or damages what the real server says. What it can do is told in http_proxy.c.
local nebula = require "nebula"
local child = require "spec.support.child"
local directory = require "spec.support.directory"

local http_proxy = {}

local function encoded(text)
  return (tostring(text):gsub("[^%w%-%._~/]", function(c) return ("%%%02X"):format(c:byte()) end))
end

local function decoded(text)
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

---@class spec.HttpProxy
---@field url string http://127.0.0.1:port
local Proxy = {}
Proxy.__index = Proxy

--- Replaces the rules, and forgets the log: `proxy:rules { { path = "/x", ["do"] = "answer", status = 503 } }`.
---@param list table[]
function Proxy:rules(list)
  local lines = {}
  for _, rule in ipairs(list) do
    local pairs_ = {}
    for name, value in pairs(rule) do
      if name == "headers" then value = table.concat(value, "\r\n") .. "\r\n" end
      pairs_[#pairs_ + 1] = name .. "=" .. encoded(value)
    end
    lines[#lines + 1] = table.concat(pairs_, "&")
  end
  nebula.http.request { method = "POST", url = self.url .. "/_rules", body = table.concat(lines, "\n"), expect = 200 }
end

--- Every request since the last rules: { method=, target=, headers={lower-case name = value}, at=, body= }.
---@return table[]
function Proxy:log()
  local list = {}
  local text = nebula.http.request { url = self.url .. "/_log", expect = 200 }.body
  for head in text:gmatch "(.-)\r\n\r\n" do
    local method, target = head:match "^(%S+) (%S+)"
    local headers = {}
    for name, value in head:gmatch "\r\n([^:\r\n]+):[ \t]*([^\r\n]*)" do headers[name:lower()] = value end
    list[#list + 1] = {
      method = method, target = target, headers = headers, at = tonumber(headers["x-at"]),
      body = decoded(headers["x-body"]),
    }
  end
  return list
end

function Proxy:close()
  self.process:kill(9)
  self.process:wait()
end

Proxy.__close = Proxy.close

--- Starts one: `local proxy <close> = http_proxy.start(endpoint)`. Without an endpoint it only answers.
---@param upstream string? http://127.0.0.1:port
---@return spec.HttpProxy
function http_proxy.start(upstream)
  local process = child.spawn {
    file = directory.build .. "/http_proxy", args = { upstream and upstream:match ":(%d+)$" }, stdout = "pipe",
  }
  local port = assert(process:read()):match "%d+"
  return setmetatable({ process = process, url = "http://127.0.0.1:" .. port }, Proxy)
end

return http_proxy
