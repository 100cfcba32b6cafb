---@meta nebula.json
-- What an editor sees of nebula.json, and what the API documents are made of.

---JSON (RFC 8259) that loses nothing: what PostgreSQL's jsonb or another program wrote comes back
---value for value when it is encoded again.
---
--- JSON               | Lua
--- -------------------|------------------------------------------------------------------
--- null               | `json.null` (also `nebula.null`; compare with `==`)
--- integer of 64 bits | integer
--- other number       | float, where its shortest form has the same value; else `json.number`
--- string             | string, UTF-8; `\u0000` is a NUL byte
--- array              | table 1..n, marked as an array, so that an empty one stays one
--- object             | table with text keys; of two equal keys the last wins
---
---A float always encodes with a fraction or an exponent (`1.0`, `1e20`), an integer never does.
---@class nebula.json
---@field null lightuserdata JSON's null; `tostring` gives "null"
local json = {}

---A number kept as its exact text, such as 18446744073709551616 or 0.1000000000000000000001. `==`
---compares two of them by value; `<` and `<=` also take Lua's numbers; `tostring` gives the text.
---@class nebula.json.number
local number = {}

---@return number nearest the nearest Lua number: an integer where it is one, infinite if too large
function number:tonumber() end

---@class nebula.json.decode_options
---@field max_bytes? integer refuse a longer text (no limit)
---@field max_depth? integer arrays and objects within one another, at most 4096 (512)

---Reads one JSON value. Invalid UTF-8, lone surrogates, and anything beside the value are refused.
---Raises `serialization` (with line, column and what was expected), `limit`, `validation`.
---@param text string
---@param options? nebula.json.decode_options
---@return any value
function json.decode(text, options) end

---@class nebula.json.encode_options
---@field indent? integer blanks a level, 0 to 16; 0 writes one line (0)
---@field max_depth? integer tables within one another, at most 4096 (512)
---@field sort_keys? boolean members in the order of their keys' bytes (false)

---Writes a value as JSON. A table is an array where it is marked as one or has an element 1; it is
---an object where its keys are text, or where it is empty. Tables that are neither (gaps, both kinds
---of keys), NaN, infinities, functions and text that is not UTF-8 are refused with their path.
---Metamethods are not called.
---Raises `serialization`, `limit`, `validation`.
---@param value any nil gives null
---@param options? nebula.json.encode_options
---@return string text
function json.encode(value, options) end

---Marks a table (or a new one) as an array: `json.encode(json.array())` is `[]`.
---Raises `validation` where the table has a metatable of its own.
---@generic T: table
---@param t? T
---@return T t the same table
function json.array(t) end

---Marks a table (or a new one) as an object, which an empty one is anyway.
---Raises `validation` where the table has a metatable of its own.
---@generic T: table
---@param t? T
---@return T t the same table
function json.object(t) end

---Makes an exact number. Raises `validation` where the text is no JSON number.
---@param value string|number|nebula.json.number
---@return nebula.json.number
function json.number(value) end

return json
