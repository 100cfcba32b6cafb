-- commands.lua: the prompt's dot commands. Each is {summary=, usage=, run=function(session, argument)}
-- and runs as a task, like a line: it may wait, and Ctrl-C interrupts it.
local nebula = require "nebula"
local printer = require "repl.print"
local ui = require "nebula.ui"

local commands = {}

local function fail(message, ...)
  error(nebula.error { kind = "validation", message = message:format(...) }, 0)
end

local function define(name, usage, summary, run) commands[name] = { usage = usage, summary = summary, run = run } end

local function show(session, value) session:show { value, n = 1 } end

-- Rows of a name and a value, by name.
local function show_values(session, rows)
  table.sort(rows, function(a, b) return a.what < b.what end)
  rows.fields = { "what", "value" }
  show(session, rows)
end

-- on, off, or the other of the two.
local function switched(argument, current)
  if argument == "" then return not current end
  if argument == "on" or argument == "off" then return argument == "on" end
  fail("on or off, not %q", argument)
end

local function wanted(argument, what)
  if argument == "" then fail("which %s?", what) end
  return argument
end

-- ---- the database ----

define("tables", "", "tables and views, with their sizes", function(session)
  show(session, session.env.db:query [[
    SELECT c.relname AS name,
      CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' ELSE 'table' END AS kind,
      CASE WHEN c.reltuples >= 0 THEN c.reltuples::bigint END AS "rows, about",
      pg_size_pretty(pg_total_relation_size(c.oid)) AS size
    FROM pg_class c
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND pg_table_is_visible(c.oid)
      AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
    ORDER BY 1
  ]])
end)

define("d", "[TABLE]", "columns, indexes and constraints of a table; without one, the tables", function(session, name)
  if name == "" then return commands.tables.run(session, "") end
  local db = session.env.db
  local oid = db:value("SELECT to_regclass($1)::oid", name)
  if not oid then fail("there is no table %s; .tables lists them", name) end
  show(session, db:query([[
    SELECT a.attname AS column, format_type(a.atttypid, a.atttypmod) AS type,
      CASE WHEN a.attnotnull THEN 'not null' END AS "null", pg_get_expr(d.adbin, d.adrelid) AS "default"
    FROM pg_attribute a
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum
  ]], oid))
  local more = db:query([[
    SELECT 'index' AS kind, pg_get_indexdef(indexrelid) || CASE WHEN indisvalid THEN '' ELSE ' INVALID' END AS text
    FROM pg_index
    WHERE indrelid = $1
    UNION ALL
    SELECT 'constraint', conname || ' ' || pg_get_constraintdef(oid)
    FROM pg_constraint
    WHERE conrelid = $1 AND contype IN ('f', 'c')
    ORDER BY 1, 2
  ]], oid)
  for _, row in ipairs(more) do session:say(("%-10s  %s"):format(row.kind, row.text)) end
end)

define("explain", "SQL", "the plan of a statement; with `analyze` before it, it runs and is rolled back",
  function(session, sql)
    local lines = {}
    local undo = {}
    local _, err = nebula.try(session.env.db.transaction, session.env.db, function(tx)
      for i, row in ipairs(tx:query("EXPLAIN " .. wanted(sql, "statement"))) do lines[i] = row["QUERY PLAN"] end
      error(undo, 0)
    end)
    if #lines == 0 then error(err, 0) end
    session:say(table.concat(lines, "\n"))
  end)

define("pool", "", "the connection pool's counters", function(session)
  local rows = {}
  for name, value in pairs(session.env.db:stats()) do rows[#rows + 1] = { what = name, value = value } end
  show_values(session, rows)
end)

define("policy", "", "the queue policy in force, and what it was set to", function(session)
  local policy = session.env.storage:policy()
  local rows = { { what = "name", value = policy.name }, { what = "version", value = policy.version },
    { what = "summary", value = policy.summary }, { what = "from", value = policy.path } }
  for name, value in pairs(policy.options or {}) do rows[#rows + 1] = { what = "option " .. name, value = value } end
  show_values(session, rows)
end)

define("read-only", "[on|off]", "connections are read-only and no blob is written", function(session, argument)
  if session.attached then fail "the storage here is the worker's own: `nebula repl --read-only` writes nothing" end
  local settings = require("nebula.config").settings()
  local on = switched(argument, settings.read_only)
  if session.locked and not on then fail "this prompt was started with --read-only: start another to write" end
  settings.read_only = on
  require("repl.environment").reset(session.env)
  require("repl.schema").forget()
  session:say("read-only: " .. (on and "on" or "off"))
end)

-- ---- the queue and this process ----

define("jobs", "", "what is in the queue", function(session)
  local rows = {}
  for name, value in pairs(session.env.storage:queue_stats()) do rows[#rows + 1] = { what = name, value = value } end
  show_values(session, rows)
end)

define("tasks", "", "every task of this process, what it waits for, and its traceback", function(session)
  for _, task in ipairs(nebula.task.list()) do
    session:say(("task %d: %s, %.1f s old%s"):format(task.id, task.state, task.age,
      task.waits_for and ", waits for " .. task.waits_for or ""))
    session:say("  " .. tostring(task.traceback):gsub("\n", "\n  "))
  end
end)

define("stats", "", "memory, tasks and connections of this process", function(session)
  local rows = {
    { what = "Lua memory", value = ui.bytes(collectgarbage "count" * 1024) },
    { what = "tasks", value = #nebula.task.list() },
  }
  local db = rawget(session.env, "db")
  if db then rows[#rows + 1] = { what = "connections", value = db:stats().connections } end
  show_values(session, rows)
end)

-- ---- what is shown, and how ----

define("timing", "[on|off]", "tell how long each line took", function(session, argument)
  session.timing = switched(argument, session.timing)
  session:say("timing: " .. (session.timing and "on" or "off"))
end)

define("x", "[on|off|auto]", "show rows expanded, a column a line; auto: where the table is too wide",
  function(session, argument)
    if argument == "auto" then
      session.expanded = "auto"
    else
      session.expanded = switched(argument, session.expanded == true)
    end
    session:say("expanded: " .. (session.expanded == "auto" and "auto" or session.expanded and "on" or "off"))
  end)

define("format", "[table|json|jsonl|csv|lua]", "how results are shown", function(session, argument)
  for _, name in ipairs(printer.formats) do
    if name == argument then session.format = name end
  end
  if argument ~= "" and session.format ~= argument then
    fail("there is no format %q: %s", argument, table.concat(printer.formats, ", "))
  end
  session:say("format: " .. session.format)
end)

define("output", "[FILE]", "write results into a file; without one, to the terminal again", function(session, path)
  if session.output then
    session.output:close()
    session.output = nil
  end
  if path == "" then return session:say "results go to the terminal" end
  local file, message = io.open(path, "w")
  if not file then fail("%s", message) end
  session.output = file
  session:say("results go to " .. path)
end)

define("error", "", "the last error with its detail and traceback", function(session)
  local err = rawget(session.env, "_error")
  if err == nil then return session:say "there was none" end
  local report = require "nebula.report"
  session:say(report.line(err))
  if type(err) ~= "table" then return end
  if err.detail then session:say(tostring(err.detail)) end
  local traceback = err.traceback and report.own_frames(err.traceback)
  if traceback then session:say(traceback) end
end)

-- ---- running ----

define("load", "FILE", "run a file of Lua, here", function(session, path)
  local chunk, message = loadfile(wanted(path, "file"), "t", session.env)
  if not chunk then fail("%s", message) end
  local values = table.pack(chunk())
  if values.n > 0 then session:show(values) end
end)

define("watch", "SECONDS EXPRESSION", "show an expression again and again, until Ctrl-C", function(session, argument)
  local seconds, code = argument:match "^(%S+)%s+(.+)$"
  local interval = seconds and require("nebula.options").duration(seconds)
  if not interval or interval <= 0 then fail "say how often, and what: .watch 2 queue.stats()" end
  local chunk, message = require("nebula.cli").compile(code, "=watch", session.env)
  if not chunk then fail("%s", message) end
  local _ <close> = setmetatable({}, { __close = function() session.watching = nil end })
  session.watching = true
  while true do
    local values = table.pack(chunk())
    if session.style().terminal and os.getenv "TERM" ~= "dumb" then session.write "\27[H\27[2J" end
    session:say(("%s, every %g s; Ctrl-C ends it"):format(nebula.time.format():sub(12, 19), interval))
    session:show(values)
    nebula.task.sleep(interval)
  end
end)

define("quit", "", "leave (also Ctrl-D)", function(session) session.leaving = true end)

define("help", "", "this list; help() and help(thing) tell of what is known here", function(session)
  local rows = {}
  for _, name in ipairs(commands.names()) do
    local command = commands[name]
    rows[#rows + 1] = { "." .. name .. (command.usage ~= "" and " " .. command.usage or ""), command.summary }
  end
  session:say(require("nebula.options").columns(rows, session.style().width))
end)

--- The commands' names, sorted.
---@return string[]
function commands.names()
  local names = {}
  for name, command in pairs(commands) do
    if type(command) == "table" then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

--- What a line such as `.d workflow_jobs` asks for, as a function to run; nil where it is no command.
---@param line string
---@param session nebula.repl.Session
---@return function? run, string? problem
function commands.parse(line, session)
  local name, argument = line:match "^%s*%.(%a[%w-]*)%s*(.-)%s*$"
  if not name then return nil end
  local command = commands[name]
  if type(command) ~= "table" then
    local near = require("nebula.options").did_you_mean(name, commands.names(), ".")
    return nil, ("there is no command .%s%s (.help lists them)"):format(name, near)
  end
  return function() command.run(session, argument) end
end

return commands
