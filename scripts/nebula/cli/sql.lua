-- sql.lua: `nebula sql 'SELECT ...'`: one statement, its rows as a table, CSV or JSON.
local function read_statement(text)
  if text and text ~= "-" then return text end
  local system = require "nebula.system"
  if not text and system.isatty(0) then
    error(require("nebula").error { kind = "config", message = "nebula sql wants a statement: nebula sql 'SELECT 1'" })
  end
  return io.read "a"
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
    local text = require "nebula.rows"
    local columns = text.columns(rows)
    if opts.json then
      text.jsonl(rows, columns or {}, io.write)
    elseif opts.csv then
      text.csv(rows, columns or {}, io.write)
    elseif columns then
      require("repl.print").values({ rows, n = 1 }, { expanded = "auto" })
    else
      print(("%d rows affected"):format(rows.count or 0))
    end
    return 0
  end,
}
