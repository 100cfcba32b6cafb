-- executions/state.lua: the state of an execution: in its row, or, where it is large, in a blob that
-- the row names.
--
-- A state above the storage's `state_limit` is stored under a key of its own, and never written again:
-- the row that names it is what decides. So a change is seen whole or not at all, and what a change
-- that did not stand has stored is in the table `blobs`, where sweep_blobs finds it.
local check = require "nebula.check"
local nebula = require "nebula"
local raise = require "nebula.raise"

local state = {}

local MARK = "$blob"
local UPLOADS = 8 -- at once
local READ_AGAIN = 5

--- The key of the blob that a row's state is in, as SQL.
state.KEY = ("state #>> '{%s,key}'"):format(MARK)

--- The state as JSON text. Raises `validation`.
---@param what string
---@param value any
---@return string
function state.encode(what, value)
  local text = check.object(what, value)
  if value[MARK] ~= nil then
    raise("validation", "%s: the name %s is kept for states that are in a blob", what, MARK)
  end
  return text
end

-- Whether there is a place for blobs. Without one every state stays in its row.
local function has_blobs(self)
  local place, err = nebula.try(function() return self.blobs.place end)
  if err and err.kind ~= "config" then error(err, 0) end
  return place ~= nil
end

local function store(self, id, text)
  local key = ("executions/%s/state/%s.json"):format(id, nebula.crypto.uuid_v7())
  local _, kept = self.blobs:upload(key, text, { execution_id = id, content_type = "application/json" })
  return nebula.json.encode { [MARK] = { key = key, size = kept.size, sha256 = kept.sha256 } }, key
end

--- Stores the large ones of a list of states, and puts what their rows hold in their places.
---@param self nebula.Storage
---@param ids string[]
---@param texts (string|userdata)[] JSON, or nebula.null
---@return string[] keys that were stored
function state.spill(self, ids, texts)
  local large, keys = {}, {}
  for i = 1, #texts do
    local text = texts[i]
    if text ~= nebula.null and #text > self.state_limit then large[#large + 1] = i end
  end
  if #large == 0 or not has_blobs(self) then return keys end
  nebula.task.map(large, function(i)
    local key
    texts[i], key = store(self, ids[i], texts[i])
    keys[#keys + 1] = key
  end, { concurrency = UPLOADS })
  return keys
end

--- The key of the blob that a state's text names.
---@param text string
---@return string
function state.key_of(text) return nebula.json.decode(text)[MARK].key end

--- Removes blobs that no row names.
---@param self nebula.Storage
---@param keys string[]
function state.drop(self, keys)
  nebula.task.map(keys, function(key) self.blobs:delete(key) end, { concurrency = UPLOADS })
end

--- Calls fn, which is to write rows that name these blobs; removes the blobs where it certainly failed.
---@param self nebula.Storage
---@param keys string[]
---@param fn function
---@return any result
function state.keeping(self, keys, fn)
  if #keys == 0 then return fn() end
  local results = table.pack(nebula.try(fn))
  local err = results[2]
  if results[1] ~= nil or not err then return table.unpack(results, 1, results.n) end
  if err.kind ~= "unknown_outcome" and err.kind ~= "timeout" then nebula.try(state.drop, self, keys) end
  error(err, 0)
end

local function read(self, named)
  local text = self.blobs:download(named.key)
  if not text then return nil end
  if nebula.crypto.sha256(text) ~= named.sha256 then
    raise("io", "the state in blob %s is damaged: %d bytes, whose SHA-256 is not the one its row names", named.key,
      #text)
  end
  return nebula.json.decode(text)
end

--- Puts the state in the place of its name. A row that was changed meanwhile is read again.
---@param self nebula.Storage
---@param row nebula.Execution?
---@param again fun(): nebula.Execution?
---@return nebula.Execution?
function state.resolve(self, row, again)
  for _ = 1, READ_AGAIN do
    local named = row and type(row.state) == "table" and row.state[MARK]
    if not named then return row end
    local found = read(self, named)
    if found ~= nil then
      row.state = found
      return row
    end
    row = again()
  end
  raise("not_found", "the state of execution %s is in a blob that is not there", row.id)
end

--- The same for a list.
---@param self nebula.Storage
---@param rows nebula.Execution[]
---@param again fun(row: nebula.Execution): nebula.Execution?
---@return nebula.Execution[]
function state.resolve_all(self, rows, again)
  local named = {}
  for i = 1, #rows do
    local held = rows[i].state
    if type(held) == "table" and held[MARK] then named[#named + 1] = rows[i] end
  end
  if #named == 0 then return rows end
  nebula.task.map(named, function(row)
    local found = state.resolve(self, row, function() return again(row) end)
    if found and found ~= row then
      for name, value in pairs(found) do row[name] = value end
    end
  end, { concurrency = UPLOADS })
  return rows
end

return state
