-- cli/task.lua: `nebula task [NAME [OPTIONS]]`: admin tasks; with no NAME, the list.
local COMMON = {
  dry_run = { default = false, help = "print what would be done, change nothing" },
  yes = { default = false, short = "y", help = "do not ask" },
  json = { default = false, help = "print JSON" },
}

local function usage(format, ...)
  error(require("nebula").error { kind = "config", message = format:format(...) }, 0)
end

local function list(json)
  local nebula, tasks, rows = require "nebula", require "nebula.tasks", {}
  for i, name in ipairs(require("nebula.project").names "tasks") do
    local task, err = nebula.try(tasks.load, name)
    local problem = not task and tostring(err and err.message) or nil
    rows[i] = { name, problem and "(broken: " .. problem .. ")" or task.summary }
    if json then
      print(nebula.json.encode { name = name, summary = task and task.summary, problem = problem,
        destructive = task and task.destructive or false })
    end
  end
  if json then return end
  print "Admin tasks (nebula task NAME --help tells a task's options):"
  print(require("nebula.options").columns(rows))
end

local function help(task, declared)
  print(("usage: nebula task %s [OPTIONS]\n\n%s\n"):format(task.name, task.summary or ""))
  print("Options:\n" .. require("nebula.options").help(declared))
end

local function print_table(rows, columns) print(require("nebula.ui").table(rows, { columns = columns })) end

-- Titled tables one below the other; as JSON, an object with each under its name.
local function show_sections(sections, json)
  local nebula, ui = require "nebula", require "nebula.ui"
  local whole = nebula.json.object()
  for i, section in ipairs(sections) do
    local rows = section.rows
    whole[section.name] = nebula.json.array(table.move(rows, 1, #rows, 1, {}))
    if not json then
      print((i > 1 and "\n" or "") .. ui.paint("bold", section.title))
      if #rows == 0 then
        print "none"
      elseif section.plot then
        require "nebula.plot"(rows, table.unpack(section.plot))
      else
        print_table(rows, section.columns)
      end
    end
  end
  if json then print(nebula.json.encode(whole)) end
end

-- A task's result: sections, or a list of rows and what else it says.
local function show(result, json)
  local nebula = require "nebula"
  if type(result) == "table" and result.sections then
    show_sections(result.sections, json)
  elseif json then
    print(nebula.json.encode(result == nil and nebula.json.object() or result))
  elseif type(result) == "table" then
    if result.rows and #result.rows > 0 then print_table(result.rows, result.columns) end
    local rows = {}
    for name, value in pairs(result) do
      if name ~= "rows" and name ~= "columns" then rows[#rows + 1] = { what = name, value = value } end
    end
    table.sort(rows, function(a, b) return tostring(a.what) < tostring(b.what) end)
    if #rows > 0 then print_table(rows, { "what", "value" }) end
    if #rows == 0 and result.rows and #result.rows == 0 then print "nothing" end
  elseif result ~= nil then
    print(result)
  end
end

local function confirm(task, preview)
  local system = require "nebula.system"
  if not system.isatty(0) then
    usage("task %s destroys data: say --yes where nobody can be asked, or --dry-run to see what it would do", task.name)
  end
  if preview then show(preview, false) end
  io.write(("Run %s? [y/N] "):format(task.name))
  io.flush()
  local answer = io.read "l"
  return answer ~= nil and answer:lower():find "^%s*y" ~= nil
end

-- The first Ctrl-C lets the batch under way end, the second cancels it.
local function stop_on_signals()
  local process, main, asked = require "nebula.process", require("nebula").task.current(), false
  for _, signal in ipairs { "INT", "TERM" } do
    process.on_signal(signal, function()
      if asked then return main:cancel() end
      asked = true
      io.stderr:write "stopping after this batch; once more stops at once\n"
    end)
  end
  return function() return asked end
end

-- A task's options, and the frame's. Raises `config` where it has one of those itself.
local function options_of(task)
  local declared = {}
  for name, option in pairs(task.options) do declared[name] = option end
  for name, option in pairs(COMMON) do
    if task.options[name] then
      usage("%s: --%s is the frame's own option; rename it", task.path, (name:gsub("_", "-")))
    end
    declared[name] = option
  end
  return declared
end

-- Every task as a command, for the completions and the man page.
local function described()
  local nebula, tasks, commands = require "nebula", require "nebula.tasks", {}
  for _, name in ipairs(require("nebula.project").names "tasks") do
    commands[#commands + 1] = nebula.try(function()
      local task = tasks.load(name)
      return { name = name, summary = task.summary, options = options_of(task) }
    end)
  end
  return commands
end

local function run(listing, words)
  if #words == 0 then return list(listing.json) end
  local nebula, options, tasks = require "nebula", require "nebula.options", require "nebula.tasks"
  local task = tasks.load(words[1])
  local declared = options_of(task)
  if listing.json then usage("the options of task %s stand behind its name", words[1]) end
  local opts, rest = nebula.try(options.parse, declared, table.move(words, 2, #words, 1, {}))
  if not opts then usage("task %s: %s", task.name, rest.message) end
  if opts.help then return help(task, declared) end
  if #rest > 0 then usage("task %s: unexpected argument %q", task.name, rest[1]) end

  local given = {}
  for name in pairs(task.options) do given[name] = opts[name] end
  local storage <close> = require("nebula.storage").from_env()
  if opts.dry_run then
    local found = tasks.preview(storage, task, given)
    if found == nil then usage("task %s cannot tell beforehand what it does (it has no preview)", task.name) end
    return show(found, opts.json)
  end
  if task.destructive and not opts.yes and not confirm(task, tasks.preview(storage, task, given)) then
    print "nothing was done"
    return 1
  end
  local result, fine = tasks.run(storage, task, given,
    { progress = opts.json and "json" or true, stop_asked = stop_on_signals() })
  show(result, opts.json)
  if fine == false then return 1 end
end

return {
  summary = "Run an admin task; with no name, list them",
  usage = "nebula task [NAME [OPTIONS]]",
  options = { json = { default = false, help = "print JSON: of the list, an object a line" } },
  raw = true,
  described = described,
  names = "tasks",
  run = run,
}
