-- check.lua: what the storage operations accept: shapes checked before a statement is sent, so that a
-- mistake is named by the operation and the field, and nothing is written.
local nebula = require "nebula"
local options = require "nebula.options"
local raise = require "nebula.raise"

local check = { is_uuid = options.is_uuid }

--- The value, where it is a UUID's text.
---@param what string the operation and field, for the message
---@param value any
---@return string
function check.uuid(what, value)
  if not options.is_uuid(value) then
    raise("validation", "%s wants a UUID, not %s", what, value == nil and "nothing" or ("%q"):format(tostring(value)))
  end
  return value
end

--- An id given plain or as a record that has one.
---@param what string
---@param value any
---@return string
function check.id(what, value)
  return check.uuid(what, type(value) == "table" and value.id or value)
end

---@param what string
---@param value any
---@param choices string[]
---@return string
function check.choice(what, value, choices)
  for _, choice in ipairs(choices) do
    if value == choice then return value end
  end
  raise("validation", "%s: %q is none of %s%s", what, tostring(value), table.concat(choices, ", "),
    options.did_you_mean(tostring(value), choices))
end

---@param what string
---@param value any
---@param least integer
---@param most integer
---@return integer
function check.integer(what, value, least, most)
  local number = math.tointeger(value)
  if not number or number < least or number > most then
    raise("validation", "%s wants a whole number from %d to %d, not %s", what, least, most, tostring(value))
  end
  return number
end

--- Text that PostgreSQL can store: UTF-8 without NUL, no longer than `most` characters.
---@param what string
---@param value any
---@param most? integer
---@return string
function check.text(what, value, most)
  if type(value) ~= "string" or value == "" then
    raise("validation", "%s wants text, not %s", what, value == "" and "the empty text" or type(value))
  end
  local length = utf8.len(value)
  if not length then raise("validation", "%s is not UTF-8", what) end
  if value:find("\0", 1, true) then raise("validation", "%s holds a NUL, which PostgreSQL cannot store", what) end
  if most and length > most then raise("validation", "%s is longer than %d characters", what, most) end
  return value
end

local FIRST_SECOND, LAST_SECOND = -62135596800, 253402300800 -- the years 1 to 9999

--- A point in time, as text that PostgreSQL takes: ISO 8601, or seconds since 1970.
---@param what string
---@param value any
---@return string
function check.time(what, value)
  local at, err = value, nil
  if type(value) == "string" then at, err = nebula.try(nebula.time.parse, value) end
  if type(at) ~= "number" then
    raise("validation", "%s wants seconds since 1970 or a time such as 2026-11-22T17:58:03Z, not %s", what,
      err and ("%q"):format(value) or type(value))
  end
  if not (at >= FIRST_SECOND and at < LAST_SECOND) then
    raise("validation", "%s: %s is out of range: the years 1 to 9999", what, tostring(value))
  end
  return type(value) == "string" and value or nebula.time.format(at)
end

--- A table as a JSON object's text. Arrays, other types and text with NULs are refused.
---@param what string
---@param value any
---@return string json
function check.object(what, value)
  if type(value) ~= "table" then raise("validation", "%s wants a JSON object, not %s", what, type(value)) end
  return check.json(what, value, "{")
end

--- Any value as JSON text that jsonb can store.
---@param what string
---@param value any
---@param first? string the character it must begin with
---@return string json
function check.json(what, value, first)
  local text, err = nebula.try(nebula.json.encode, value)
  if err then raise("validation", "%s: %s", what, err.message) end
  if first and text:sub(1, 1) ~= first then raise("validation", "%s wants a JSON object, not an array", what) end
  if text:find("\\u0000", 1, true) and text:gsub("\\\\", ""):find("\\u0000", 1, true) then
    raise("validation", "%s holds a NUL, which PostgreSQL's jsonb cannot store", what)
  end
  return text
end

--- The value, where it is a list.
---@param what string
---@param value any
---@return table
function check.list(what, value)
  if type(value) ~= "table" or next(value) ~= nil and value[1] == nil then
    raise("validation", "%s wants a list, not %s", what, type(value) == "table" and "a table with names" or type(value))
  end
  return value
end

--- Refuses field names that an operation does not know.
---@param what string
---@param given any
---@param known table<string, any>
---@return table given
function check.fields(what, given, known)
  if type(given) ~= "table" then raise("validation", "%s wants a table, not %s", what, type(given)) end
  for name in pairs(given) do
    if known[name] == nil then
      local names = {}
      for field in pairs(known) do names[#names + 1] = field end
      table.sort(names)
      raise("validation", "%s: unknown field %s%s", what, tostring(name), options.did_you_mean(tostring(name), names))
    end
  end
  return given
end

return check
