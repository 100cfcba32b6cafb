-- dev.lua: `nebula dev up|down|status|reset`: the private PostgreSQL of this directory.
local JSON = { json = { type = "boolean", help = "print one JSON object" } }

local function state_here()
  local state = require("nebula.project").state()
  if state then return state end
  error(require("nebula").error { kind = "config",
    message = "no .nebula/ in this directory or above it: `nebula dev up` makes one here" }, 0)
end

local function show(opts, fields, text)
  print(opts.json and require("nebula").json.encode(fields) or text)
end

return {
  summary = "A private PostgreSQL and blob directory for this directory, under .nebula/",
  description = [[
Needs no root, no port and no password: the server listens on a unix socket that only you can reach.
Whatever needs a database starts it by itself where .nebula/ exists and DATABASE_URL is not set.]],
  commands = {
    up = {
      summary = "Make it where it is missing, and start it",
      options = JSON,
      run = function(opts)
        local up = require("nebula.dev").up(nil, function(text) io.stderr:write("nebula: ", text, "\n") end)
        show(opts, up, (up.started and "started" or "runs already") .. "\nDATABASE_URL=" .. up.url)
        return 0
      end,
    },
    down = {
      summary = "Stop it",
      options = JSON,
      run = function(opts)
        local stopped = require("nebula.dev").down(state_here())
        show(opts, { stopped = stopped }, stopped and "stopped" or "it does not run")
        return 0
      end,
    },
    status = {
      summary = "Show whether it runs, and where everything is",
      options = JSON,
      run = function(opts)
        local status = require("nebula.dev").status(state_here())
        local lines = { status.status }
        for _, name in ipairs { "url", "pid", "user", "base", "blobs", "log" } do
          if status[name] then lines[#lines + 1] = ("%-6s %s"):format(name, status[name]) end
        end
        show(opts, status, table.concat(lines, "\n"))
        return 0
      end,
    },
    reset = {
      summary = "Stop it and delete its data and blobs",
      options = { yes = { type = "boolean", short = "y", help = "really delete" } },
      run = function(opts)
        local state = state_here()
        if not opts.yes then
          io.stderr:write("nebula dev reset: this deletes the database and the blobs of ", state,
            "; say --yes to do it\n")
          return 2
        end
        require("nebula.dev").reset(state)
        print "deleted; `nebula dev up` makes a new one"
        return 0
      end,
    },
  },
}
