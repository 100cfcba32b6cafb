-- repl.lua: `nebula repl`: the interactive prompt.
return {
  summary = "Open the interactive prompt",
  options = {
    read_only = { type = "boolean", help = "read-only sessions, and no blob is written or deleted" },
  },
  run = function(opts)
    require("repl.main").run { read_only = opts.read_only }
    return 0
  end,
}
