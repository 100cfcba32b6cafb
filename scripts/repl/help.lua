-- help.lua: `help()` and `help(thing)`: the documents of a function or class, read from where they are
-- written: of native ones the LuaLS stubs, of Lua ones the comment above the function.
local nebula = require "nebula"
local system = require "nebula.system"
local ui = require "nebula.ui"

local help = {}

local OVERVIEW = [[
Known here:
  sql "SELECT ..."  rows of a statement
  db                the pool: query, one, value, exec, transaction, ...
  storage           workflows, executions, jobs
  queue             push, stats, pause, ...
  blobs             objects: get, put, list, reader, writer, ...
  task              spawn, map, sleep, deadline, channel, ...
  plot(rows, x, y)  a bar chart
  nebula            every module: nebula.json, nebula.time, nebula.http, ...
  _, _1, _2, _3     the last results, and _error the last error
help(db), help(db.query), help "query" and help "nebula.pg" tell more; .help
lists the commands.]]

---@class nebula.repl.Document
---@field name string such as nebula.pg.Pool:query
---@field class string
---@field method string
---@field signature string
---@field text string

-- ---- the stubs ----

local function stub_directory()
  for _, place in ipairs { "/../bindings/meta", "/../meta" } do
    local path = system.realpath(system.scripts .. place)
    if path then return path end
  end
end

local function clean(line)
  return (line:gsub("^%-%-%-%s?", ""):gsub("^@(%l+)%s*", function(tag)
    if tag == "param" or tag == "field" then return "  " end
    if tag == "return" then return "  returns " end
    return tag == "class" and "" or "  " .. tag .. " "
  end))
end

local SIGNATURE = "^function%s+([%w_]+)([.:])([%w_]+)%s*(%b())"

-- One stub's functions and classes; `found` is filled.
local function read_stub(path, found)
  local comment, classes, parents, waiting = {}, {}, found.parents, nil
  for line in io.lines(path) do
    local object, separator, method, arguments = line:match(SIGNATURE)
    local variable = line:match "^local%s+([%w_]+)%s*="
    if line:find "^%-%-%-" and not line:find "^%-%-%-@meta" then
      local class, parent = line:match "^%-%-%-@class%s+([%w_.]+):?%s*([%w_.]*)"
      if class then
        waiting, parents[class] = class, parent ~= "" and parent or nil
        found.classes[class] = found.classes[class] or {}
      end
      comment[#comment + 1] = clean(line)
    elseif object then
      local class = classes[object] or object
      local document = { class = class, method = method, name = class .. separator .. method,
        signature = (separator == ":" and object or class) .. separator .. method .. arguments,
        text = table.concat(comment, "\n") }
      found.classes[class] = found.classes[class] or {}
      table.insert(found.classes[class], document)
      comment = {}
    else
      if waiting then
        found.texts[waiting] = table.concat(comment, "\n")
        if variable then classes[variable] = waiting end
        waiting = nil
      end
      comment = {}
    end
  end
end

local stubs

local function documents()
  if stubs then return stubs end
  stubs = { classes = {}, texts = {}, parents = {} }
  local directory = stub_directory()
  for _, file in ipairs(directory and system.list(directory) or {}) do
    if file:find "%.lua$" then read_stub(directory .. "/" .. file, stubs) end
  end
  return stubs
end

-- ---- Lua functions ----

local function lines_of(path)
  local lines = {}
  for line in io.lines(path) do lines[#lines + 1] = line end
  return lines
end

-- How a function is called, from its first line: `push.push_jobs(self, list)` is `:push_jobs(list)`.
local function call_of(line)
  local head = line:match "^%s*local%s+function%s+(.-%))" or line:match "^%s*function%s+(.-%))"
  local method, arguments = (head or ""):match "[.:]([%w_]+)%(self,?%s*(.*)$"
  return method and ":" .. method .. "(" .. arguments or head
end

-- What is written above a Lua function, how it is called, and where that is; nil where there is no file.
local function read_lua_function(fn)
  local info = debug.getinfo(fn, "S")
  local path = info.source:match "^@(.*)$"
  if not path or not system.stat(path) then return nil end
  local lines = lines_of(path)
  local text, at = {}, info.linedefined - 1
  while at > 0 and lines[at]:find "^%s*%-%-" do
    table.insert(text, 1, (clean(lines[at]:gsub("^%s*%-%-%s?$", "---"):gsub("^%s*%-%- ", "--- "))))
    at = at - 1
  end
  local first = lines[info.linedefined]
  return table.concat(text, "\n"), call_of(first) or first:gsub("^%s+", ""), path .. ":" .. info.linedefined
end

local function of_lua_function(fn)
  local text, head, where = read_lua_function(fn)
  if not text then return "a function: " .. debug.getinfo(fn, "S").short_src end
  return ("%s\n%s\n  %s"):format(head, text, where)
end

-- ---- finding ----

-- The names under which a native function is known: nebula.MODULE.NAME, or CLASS:NAME.
local function native_names(fn)
  for module, value in next, nebula do
    if value == fn then return "nebula", module end
    if type(value) == "table" then
      for name, field in next, value do
        if field == fn then return "nebula." .. tostring(module), name end
      end
    end
  end
  for class, meta in next, debug.getregistry() do
    local index = type(class) == "string" and type(meta) == "table" and rawget(meta, "__index")
    for name, field in next, type(index) == "table" and index or {} do
      if field == fn then return class, name end
    end
  end
end

local function method_of(class, method)
  local found = documents()
  while class do
    for _, document in ipairs(found.classes[class] or {}) do
      if document.method == method then return document end
    end
    class = found.parents[class]
  end
end

local function by_method(method)
  local list = {}
  for _, class in pairs(documents().classes) do
    for _, document in ipairs(class) do
      if document.method == method then list[#list + 1] = document end
    end
  end
  table.sort(list, function(a, b) return a.name < b.name end)
  return list
end

local function shown(document) return document.signature .. "\n" .. document.text end

-- The sentence that a document begins with; nil where it has but parameters.
local function first_sentence(text)
  local prose = (text .. "\n"):match "^(.-)\n%f[ \0]" or text
  if prose:find "^%s" or prose == "" then return nil end
  prose = prose:gsub("\n", " ")
  return prose:match "^(.-%.)%s" or prose
end

local function of_class(class)
  local found = documents()
  if not found.classes[class] then return nil end
  local parts = { class }
  local text = found.texts[class]
  if text and text ~= "" and text ~= class then parts[#parts + 1] = text end
  while class do
    for _, document in ipairs(found.classes[class] or {}) do
      local first = first_sentence(document.text)
      parts[#parts + 1] = "  " .. document.signature .. (first and "\n      " .. first or "")
    end
    class = found.parents[class]
  end
  return table.concat(parts, "\n")
end

local function of_name(name)
  local class, method = name:match "^(.-)[.:]([%w_]+)$"
  local document = class and method_of(class, method)
  if document then return shown(document) end
  local text = of_class(name) or of_class("nebula." .. name)
  if text then return text end
  local texts = {}
  for i, found in ipairs(by_method(method or name)) do texts[i] = shown(found) end
  return texts[1] and table.concat(texts, "\n\n")
end

-- The document of a native function.
local function document_of(fn)
  local class, name = native_names(fn)
  if not class then return nil end
  local document = method_of(class, name)
  if document then return document end
  for _, found in ipairs(by_method(name)) do -- one that is named otherwise in the stubs: by its module
    if found.class:match "^nebula%.%w+" == class:match "^nebula%.%w+" then return found end
  end
end

local function is_native(fn) return debug.getinfo(fn, "S").what == "C" end

local function of_function(fn)
  if not is_native(fn) then return of_lua_function(fn) end
  local document = document_of(fn)
  return document and shown(document)
end

local signatures, options = setmetatable({}, { __mode = "k" }), setmetatable({}, { __mode = "k" })

--- How a function is called, on one line; nil where nothing is known.
---@param fn function
---@return string?
function help.signature(fn)
  if signatures[fn] == nil then
    local head
    if is_native(fn) then
      local document = document_of(fn)
      head = document and document.signature
    else
      local _, call = read_lua_function(fn)
      head = call and call:match "^[%w_.:]+%b()$"
    end
    signatures[fn] = head or false
  end
  return signatures[fn] or nil
end

-- The names in `{delay?: number, at: string}`, the first braces of a parameter's type.
local function names_in_braces(text, found)
  for braces in text:gmatch "%b{}" do
    for name in braces:sub(2, -2):gsub("%b{}", ""):gmatch "([%a_][%w_]*)%??:" do found[name] = true end
  end
end

--- The names of the options that a function takes in a table, from its annotations.
---@param fn function
---@return string[]
function help.options(fn)
  if not options[fn] then
    local document = is_native(fn) and document_of(fn)
    local text = document and document.text or not is_native(fn) and read_lua_function(fn) or ""
    local found, names = {}, {}
    local parameters = text:gsub("\n  returns .*$", "")
    names_in_braces(parameters, found)
    for name in (parameters:match "filters: ([%w_,;%s]*)" or ""):gmatch "[%a_][%w_]*" do found[name] = true end
    for class in parameters:gmatch "[%a_][%w_.]*" do
      local described = documents().texts[class]
      for name in (described and "\n" .. described or ""):gmatch "\n  ([%a_][%w_]*)%??%s" do found[name] = true end
    end
    for name in pairs(found) do names[#names + 1] = name end
    table.sort(names)
    options[fn] = names
  end
  return options[fn]
end

-- The methods of an object that is written in Lua.
local function of_object(value)
  local meta = getmetatable(value)
  local class = type(meta) == "table" and rawget(meta, "__name")
  local text = class and of_class(class)
  if text or type(value) ~= "table" then return text end
  local methods, names = type(meta) == "table" and meta or value, {}
  if type(rawget(methods, "__index")) == "table" then methods = rawget(methods, "__index") end
  for name, field in next, methods do
    if type(name) == "string" and type(field) == "function" and not name:find "^__" then names[#names + 1] = name end
  end
  if #names == 0 then return nil end
  table.sort(names)
  return (class or "functions") .. ": " .. table.concat(names, ", ") .. "\nhelp(thing.name) tells of one."
end

-- Lines longer than the width, broken between words.
local function wrapped(text, width)
  return (text:gsub("[^\n]+", function(line)
    if #line <= width or line:find "|" then return nil end -- a row of a table stays whole
    local indent = line:match "^%s*"
    local hang, lines, current = indent == "" and "" or indent .. "  ", {}, nil
    for word in line:gmatch "%S+" do
      if not current then
        current = indent .. word
      elseif ui.text_width(current) + 1 + ui.text_width(word) > width then
        lines[#lines + 1], current = current, hang .. word
      else
        current = current .. " " .. word
      end
    end
    lines[#lines + 1] = current
    return table.concat(lines, "\n")
  end))
end

--- The text about a thing: a function, an object, a module, or a name.
---@param thing any
---@param width? integer columns that a line may take (80)
---@return string
function help.text(thing, width)
  if thing == nil then return OVERVIEW end
  local text
  if type(thing) == "string" then
    text = of_name(thing)
  elseif type(thing) == "function" then
    text = of_function(thing)
  else
    for module, value in next, nebula do
      if value == thing then text = of_class("nebula." .. tostring(module)) end
    end
    text = text or (thing == nebula and of_class "nebula") or of_object(thing)
  end
  return wrapped(text or ("nothing is known about " .. tostring(thing)), width or 80)
end

return setmetatable(help, {
  __call = function(_, thing) print(help.text(thing, ui.width())) end,
  __tostring = function() return "help(), help(thing), help \"name\"; .help lists the commands" end,
})
