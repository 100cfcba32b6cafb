-- cli/init.lua: `nebula init DIR`: a project that works at once: one small example of each kind.
local ALLOWED = { [".git"] = true, [".nebula"] = true }

local function fail(message, ...)
  error(require("nebula").error { kind = "config", message = message:format(...) }, 0)
end

local function check_empty(directory)
  local system = require "nebula.system"
  local info = system.stat(directory)
  if info and info.type ~= "directory" then fail("%s is no directory", directory) end
  for _, name in ipairs(system.list(directory) or {}) do
    if not ALLOWED[name] then
      fail("%s is not empty (it holds %s): name a new directory, or an empty one", directory, name)
    end
  end
end

local function copy(from, to, made)
  local fs, system = require("nebula").fs, require "nebula.system"
  fs.mkdir(to, { parents = true })
  local names = system.list(from)
  table.sort(names)
  for _, name in ipairs(names) do
    local source, target = from .. "/" .. name, to .. "/" .. name
    if system.stat(source).type == "directory" then
      copy(source, target, made)
    else
      fs.write(target, fs.read(source))
      made[#made + 1] = target
    end
  end
  return made
end

local NEXT = [[

A private PostgreSQL starts here by itself at its first use, unless DATABASE_URL names a server. Next:
%s  nebula migrate up
  nebula queue push greet '{"name": "world"}'
  nebula worker --policy steady --drain
  nebula sql 'SELECT * FROM greetings'
  nebula task forget-greetings --dry-run
  nebula test]]

return {
  summary = "Lay out a project: policies/ tasks/ handlers/ migrations/ spec/ nebula.conf.lua",
  description = [[
Each directory gets one small working example. Only an empty directory (or one that does not exist yet) is taken.]],
  arguments = { { name = "directory", required = true, help = "where; it is made where it does not exist" } },
  options = { json = { type = "boolean", help = "print one JSON object" } },
  run = function(opts, args)
    local directory = args.directory
    check_empty(directory)
    local made = copy(require("nebula.system").scripts .. "/project", directory, {})
    require("nebula.dev").prepare(directory)
    if opts.json then return print(require("nebula").json.encode { directory = directory, files = made }) end
    print(table.concat(made, "\n"))
    print(NEXT:format(directory == "." and "" or "  cd " .. directory .. "\n"))
  end,
}
