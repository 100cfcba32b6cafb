-- sql.lua: `nebula sql 'SELECT ...'`: one statement, its rows as a table, CSV or JSON.
local function read_statement(text)
  if text and text ~= "-" then return text end
  local system = require "nebula.system"
  if not text and system.isatty(0) then
    error(require("nebula").error { kind = "config", message = "nebula sql wants a statement: nebula sql 'SELECT 1'" })
  end
  return io.read "a"
end

local function csv_field(value)
  if value == nil then return "" end
  local text = type(value) == "table" and require("nebula").json.encode(value) or tostring(value)
  if text == "" or text:find '[",\r\n]' then return '"' .. text:gsub('"', '""') .. '"' end
  return text
end

local function column_names(rows)
  local names = {}
  for i, field in ipairs(rows.fields or {}) do names[i] = type(field) == "table" and field.name or field end
  return names
end

local function print_csv(rows)
  local names = column_names(rows)
  local function line(values)
    for i = 1, #names do values[i] = csv_field(values[i]) end
    io.write(table.concat(values, ","), "\r\n")
  end
  line(table.move(names, 1, #names, 1, {}))
  for _, row in ipairs(rows) do
    local values = {}
    for i, name in ipairs(names) do values[i] = row[name] end
    line(values)
  end
end

return {
  summary = "Run one SQL statement and print its rows",
  options = {
    csv = { type = "boolean", help = "print CSV, with a header" },
    json = { type = "boolean", help = "print one JSON object a row" },
  },
  arguments = {
    { name = "statement", help = "the SQL; - or nothing reads it from standard input" },
    { name = "parameters", many = true, help = "values of $1, $2, ..." },
  },
  run = function(opts, args)
    local nebula = require "nebula"
    local config = require "nebula.config"
    local statement = read_statement(args.statement)
    local db <close> = nebula.pg.connect(config.pool { max_connections = 1, min_connections = 0 })
    local rows = db:query(statement, table.unpack(args.parameters))
    if opts.json then
      for _, row in ipairs(rows) do io.write(nebula.json.encode(row), "\n") end
    elseif opts.csv then
      print_csv(rows)
    elseif #column_names(rows) > 0 then
      require("repl.print").values { rows, n = 1 }
    else
      print(("%d rows affected"):format(rows.count or 0))
    end
    return 0
  end,
}
