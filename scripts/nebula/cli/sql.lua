-- sql.lua: `nebula sql 'SELECT ...'`: one statement, its rows as a table, CSV or JSON.
local function usage(message) error(require("nebula").error { kind = "config", message = message }, 0) end

local function read_statement(text)
  local given = text
  if not text and require("nebula.system").isatty(0) then given = "" end
  if not given or given == "-" then given = io.read "a" end
  if given:find "^[%s;]*$" then usage "nebula sql wants a statement: nebula sql 'SELECT 1'" end
  return given
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
    if opts.csv and opts.json then usage "--csv and --json: one of them" end
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
