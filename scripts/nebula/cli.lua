-- cli.lua: what the program's command line means. The host's main task runs cli.main.
--
-- A command is a file scripts/nebula/cli/NAME.lua that returns a table: `summary`, `usage`,
-- `options` and `arguments` as nebula.options declares them, `run = function(opts, args, said)` (of which
-- `said` tells the options that are on the command line), and
-- `commands` with its subcommands, each such a table, and `names`, the kind of script whose names it takes
-- ("tasks"), for completion. The frame parses, prints --help, suggests
-- the nearest name, and turns errors into the exit status. Commands are loaded when they run.
local system = require "nebula.system"

local cli = {}

local HELP = {
  { "nebula", "an interactive prompt; with a script on standard input, runs it" },
  { "nebula FILE.lua [ARG...]", "run a script" },
  { "nebula -e CODE", "run a line: prints an expression's values" },
  { "nebula COMMAND --help", "what a command does and takes" },
  { "nebula --version", "the version" },
  { "nebula --env FILE ...", "any of these, with the NAME=value lines of a file below the environment" },
}

-- ---- commands ----

local function command_file(name)
  if not name:find "^%a[%w-]*$" then return nil end
  return package.searchpath("nebula.cli." .. name, package.path)
end

--- Every command's name, sorted.
---@return string[]
function cli.commands() return require("nebula.project").names "nebula/cli" end

---@param name string
---@return table command
function cli.command(name) return require("nebula.cli." .. name) end

local function names_of(commands)
  local names = {}
  for name in pairs(commands or {}) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function usage_line(path, command)
  if command.usage then
    return "usage: " .. (command.usage:find "^nebula" and command.usage or path .. " " .. command.usage)
  end
  local words = { "usage: " .. path }
  if command.commands then words[#words + 1] = "COMMAND" end
  if command.options and next(command.options) then words[#words + 1] = "[OPTIONS]" end
  for _, argument in ipairs(command.arguments or {}) do
    local word = argument.name:upper() .. (argument.many and "..." or "")
    words[#words + 1] = argument.required and word or "[" .. word .. "]"
  end
  return table.concat(words, " ")
end

local function print_help(path, command)
  local options = require "nebula.options"
  local out = { usage_line(path, command), "" }
  if command.summary then out[#out + 1] = command.summary .. "\n" end
  if command.description then out[#out + 1] = command.description:gsub("%s+$", "") .. "\n" end
  if command.commands then
    local rows = {}
    for _, name in ipairs(names_of(command.commands)) do
      rows[#rows + 1] = { name, command.commands[name].summary or "" }
    end
    out[#out + 1] = "Commands:\n" .. options.columns(rows) .. "\n"
  end
  local described = {}
  for _, argument in ipairs(command.arguments or {}) do
    if argument.help then described[#described + 1] = { argument.name:upper(), argument.help } end
  end
  if #described > 0 then out[#out + 1] = "Arguments:\n" .. options.columns(described) .. "\n" end
  out[#out + 1] = "Options:\n" .. options.help(command.options or {})
  print(table.concat(out, "\n"))
  return 0
end

local function print_general_help()
  local options = require "nebula.options"
  local rows = {}
  for _, name in ipairs(cli.commands()) do
    local ok, command = pcall(cli.command, name)
    rows[#rows + 1] = { name, ok and command.summary or "(cannot be loaded)" }
  end
  print("nebula: a storage host for workflow engines, scripted in Lua\n\n" .. options.columns(HELP)
    .. "\n\nCommands:\n" .. options.columns(rows))
  return 0
end

local function usage_error(path, command, message)
  io.stdout:flush()
  io.stderr:write(path, ": ", message, "\n")
  if command then io.stderr:write(usage_line(path, command), "\n") end
  return 2
end

-- Runs one command with the words after its name.
local function run_command(path, command, words)
  local options = require "nebula.options"
  local first = words[1]
  if command.commands and first and first:sub(1, 1) ~= "-" then
    local sub = command.commands[first]
    if sub then return run_command(path .. " " .. first, sub, table.move(words, 2, #words, 1, {})) end
    if not command.arguments then
      return usage_error(path, command, ("no command %q%s"):format(first,
        options.did_you_mean(first, names_of(command.commands))))
    end
  end
  local ok, opts, rest, said = pcall(options.parse, command.options or {}, words, { stop_at_argument = command.raw })
  if not ok then return usage_error(path, command, opts.message or tostring(opts)) end
  if opts.help then return print_help(path, command) end
  if not command.run then
    return usage_error(path, command, "which command? " .. table.concat(names_of(command.commands), ", "))
  end
  local args = rest
  if command.arguments then
    ok, args = pcall(options.arguments, command.arguments, rest)
    if not ok then return usage_error(path, command, args.message or tostring(args)) end
  elseif #rest > 0 and not command.raw then
    return usage_error(path, command, ("unexpected argument %q"):format(rest[1]))
  end
  local result = command.run(opts, args, said)
  if result == false then return 1 end
  return math.type(result) == "integer" and result or 0
end

-- ---- scripts ----

-- A project's own modules, then those that LuaRocks has put into its tree there.
local function add_project(directory)
  local rocks = directory .. "/lua_modules/share/lua/5.4"
  local places = system.stat(rocks) and { directory, rocks } or { directory }
  for i = #places, 1, -1 do
    package.path = ("%s/?.lua;%s/?/init.lua;"):format(places[i], places[i]) .. package.path
  end
end

local function run_chunk(chunk, program, name, words)
  arg = table.move(words, 1, #words, 1, { [0] = name, [-1] = program }) -- luacheck: globals arg
  chunk(table.unpack(words))
  return 0
end

local function compile_error(message)
  error(require("nebula").error { kind = "script", message = message }, 0)
end

--- Runs a script's file; "-" is standard input.
local function run_file(program, path, words)
  local chunk, message
  if path == "-" then
    chunk, message = loadfile(nil)
  else
    chunk, message = loadfile(path)
  end
  if not chunk then compile_error(message) end
  if path ~= "-" then add_project(path:match "^(.*)/[^/]*$" or ".") end
  return run_chunk(chunk, program, path, words)
end

--- Compiles a line: an expression first, then a statement.
---@param code string
---@param name string the chunk's name
---@param env? table its globals, default _G
---@return function? chunk, string? message
function cli.compile(code, name, env)
  env = env or _G
  local chunk = load("return " .. code, name, "t", env)
  if chunk then return chunk end
  return load(code, name, "t", env)
end

local function run_line(program, code, words)
  require("repl.environment").install(_G)
  local chunk, message = cli.compile(code, "=(command line)")
  if not chunk then compile_error(message) end
  arg = table.move(words, 1, #words, 1, { [0] = "-e", [-1] = program }) -- luacheck: globals arg
  local values = table.pack(chunk(table.unpack(words)))
  if values.n > 0 then require("repl.print").values(values, { expanded = "auto" }) end
  return 0
end

-- ---- the whole command line ----

local function is_file(path)
  local info = system.stat(path)
  return info ~= nil and info.type ~= "directory"
end

local function is_script(word)
  return word == "-" or word:find("/", 1, true) or word:find "%.lua$" or is_file(word)
end

local function unknown(word)
  local options = require "nebula.options"
  local what = word:sub(1, 1) == "-" and "option" or "command"
  local known = what == "option" and { "--help", "--version", "--env", "-e" } or cli.commands()
  local near = options.did_you_mean(word, known)
  return usage_error("nebula", nil, ("unknown %s %q%s (nebula --help lists them)"):format(what, word, near))
end

local function dispatch(argv)
  local program, first = argv[0], argv[1]
  local rest = table.move(argv, 2, math.max(#argv, 1), 1, {})
  if first == nil then
    if system.isatty(0) then return run_command("nebula repl", cli.command "repl", {}) end
    return run_file(program, "-", {})
  elseif first == "-e" then
    local code = table.remove(rest, 1)
    if not code then return usage_error("nebula", nil, "-e wants a line of Lua") end
    return run_line(program, code, rest)
  elseif first == "--help" or first == "-h" or first == "help" then
    if rest[1] and command_file(rest[1]) then return print_help("nebula " .. rest[1], cli.command(rest[1])) end
    return print_general_help()
  elseif first == "--version" or first == "-V" then
    print("nebula " .. system.version)
    return 0
  elseif command_file(first) then
    return run_command("nebula " .. first, cli.command(first), rest)
  elseif is_script(first) then
    return run_file(program, first, rest)
  end
  return unknown(first)
end

-- Reads the files that --env names, before anything looks at the environment. An error's status, or nil.
local function read_environment(argv)
  while argv[1] and (argv[1] == "--env" or argv[1]:find "^%-%-env=") do
    local path = table.remove(argv, 1):match "^%-%-env=(.+)$" or table.remove(argv, 1)
    if not path then return usage_error("nebula", nil, "--env wants a file") end
    require("nebula.dotenv").load(path)
  end
end

local UNDEFINED = { ["42P01"] = true, ["42703"] = true } -- a table, a column

-- Where a statement names what the database does not have, it may be that it was not migrated. The
-- statement then matters to who has written it alone.
local function look_for_migrations(err, is_ours)
  if type(err) ~= "table" or not UNDEFINED[err.code] then return end
  local nebula, config = require "nebula", require "nebula.config"
  local count = nebula.try(function()
    local db <close> = nebula.pg.connect(config.pool { max_connections = 1, min_connections = 0, read_only = true })
    return require("nebula.migrate").pending(db, { path = config.settings().migration_path })
  end)
  if not count or count == 0 then return end
  err.message = ("%s: %s not applied to this database, run `nebula migrate up`"):format(err.message,
    count == 1 and "a migration is" or count .. " migrations are")
  if is_ours then err.detail = nil end
end

--- Runs a command line. The host calls it in the main task, and gives what it raises to
--- nebula.report.
---@param argv string[] with the program at 0
---@return integer status
function cli.main(argv)
  local status = read_environment(argv)
  if status then return status end
  local project = require("nebula.project").find()
  if project then add_project(project) end
  local ended, err = require("nebula").try(dispatch, argv)
  if err == nil then return ended end
  local command = argv[1]
  look_for_migrations(err, command and command ~= "sql" and command_file(command) ~= nil)
  error(err, 0)
end

return cli
