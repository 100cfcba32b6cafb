-- repl.lua: `nebula repl`: the interactive prompt.
return {
  summary = "Open the interactive prompt",
  run = function()
    require("repl.main").run()
    return 0
  end,
}
