-- transfer.lua: many objects at once between a blob store and the file system, for `nebula blob`.
--
-- A plan is a list of `{from=, to=, size=}`. It is worked with so many at once; what fails is told and
-- the rest goes on. Keys name files below a directory and nothing else: one that would lead out of it
-- is refused.
local nebula = require "nebula"
local raise = require "nebula.raise"

local transfer = {}

local MAGIC = "[%^%$%(%)%%%.%[%]%+%-]"

--- Whether a name has one of a glob's characters.
---@param name string
---@return boolean
function transfer.is_glob(name) return name:find "[*?%[]" ~= nil end

--- A glob as a literal prefix and a Lua pattern for the whole name: `*` and `?` stay within a path's
--- part, `**` does not, `[a-z]` is one of a set. Raises `config` for a set without its end.
---@param glob string
---@return string prefix
---@return string pattern
function transfer.glob(glob)
  local prefix = glob:match "^[^*?%[]*"
  local out, at = { "^" }, 1
  while at <= #glob do
    local c = glob:sub(at, at)
    if glob:sub(at, at + 1) == "**" then
      out[#out + 1], at = ".*", at + 1
    elseif c == "*" then
      out[#out + 1] = "[^/]*"
    elseif c == "?" then
      out[#out + 1] = "[^/]"
    elseif c == "[" then
      local set = glob:match("^%[[!^]?%]?[^%]]*%]", at)
      if not set then raise("config", "%q: a [ without its ]", glob) end
      out[#out + 1] = "[" .. set:sub(2, -2):gsub("^!", "^"):gsub("%%", "%%%%") .. "]"
      at = at + #set - 1
    else
      out[#out + 1] = c:gsub(MAGIC, "%%%0")
    end
    at = at + 1
  end
  return prefix, table.concat(out) .. "$"
end

-- The object of a key; raises `not_found` with what there is none of.
local function one(blobs, name, what)
  local info = blobs:head(name)
  if not info then raise("not_found", "%s %q in %s", what, name, blobs.place) end
  return { key = name, size = info.size, etag = info.etag, last_modified = info.last_modified }
end

--- The objects that a key, a glob, or (where `recursive`) a prefix names. A glob that matches none is the
--- key itself: keys may hold its characters. Raises `not_found` where that is none either.
---@param blobs nebula.Blobs
---@param name string
---@param recursive boolean
---@return fun(): nebula.s3.object?
function transfer.objects(blobs, name, recursive)
  if transfer.is_glob(name) then
    local prefix, pattern = transfer.glob(name)
    local objects, found = blobs:list { prefix = prefix }, false
    return function()
      for object in objects do
        if object.key and object.key:find(pattern) then
          found = true
          return object
        end
      end
      if found then return nil end
      found = true
      return one(blobs, name, "no object matches")
    end
  elseif recursive then
    return blobs:list { prefix = name }
  end
  local done = false
  return function()
    if done then return nil end
    done = true
    return one(blobs, name, "there is no object")
  end
end

--- The path below a directory that a key's part names. Raises `validation` where it would lead out of it.
---@param directory string
---@param relative string
---@return string
function transfer.below(directory, relative)
  local bad = relative == "" or relative:sub(1, 1) == "/" or relative:sub(-1) == "/" or relative:find("\0", 1, true)
  for part in relative:gmatch "[^/]+" do bad = bad or part == ".." or part == "." end
  if bad or relative:find("//", 1, true) then
    raise("validation", "the key %q names no file below %s: get it alone, to a file you name", relative, directory)
  end
  return directory .. "/" .. relative
end

local function parent_of(path) return path:match "^(.*)/[^/]*$" end

--- Makes the directory a file is to stand in, where `made` does not say that it is there.
---@param path string
---@param made table<string, boolean>
function transfer.make_parent(path, made)
  local directory = parent_of(path)
  if not directory or directory == "" or made[directory] then return end
  nebula.fs.mkdir(directory, { parents = true })
  made[directory] = true
end

---@class nebula.TransferReport
---@field done integer objects
---@field bytes integer
---@field failed integer

--- Works a plan: `work(item, on_bytes)` moves one and returns its bytes; on_bytes(n) may tell what it has
--- done so far. A failure is told by `on_error(item, err)` and counted.
---@param plan {from: string, to: string, size?: integer}[]
---@param work fun(item: table, on_bytes: fun(bytes: integer)): integer
---@param opts {concurrency: integer, label: string, progress: boolean, on_error: fun(item: table, err: any)}
---@return nebula.TransferReport
function transfer.run(plan, work, opts)
  local total, moved = 0, 0
  for _, item in ipairs(plan) do total = total + (item.size or 0) end
  local bar = opts.progress and require("nebula.ui").progress { label = opts.label, total = total, unit = "bytes" }
  local _ <close> = setmetatable({}, { __close = function() if bar then bar:finish() end end })
  local report = { done = 0, bytes = 0, failed = 0 }
  nebula.task.map(plan, function(item)
    local before = 0
    local function on_bytes(bytes)
      moved, before = moved + bytes - before, bytes
      if bar then bar:update(moved) end
    end
    local bytes, err = nebula.try(work, item, on_bytes)
    if err then
      if err.kind == "cancelled" then error(err, 0) end
      report.failed = report.failed + 1
      opts.on_error(item, err)
      return
    end
    on_bytes(bytes)
    report.done, report.bytes = report.done + 1, report.bytes + bytes
  end, { concurrency = opts.concurrency })
  return report
end

return transfer
