-- cli/completion.lua: `nebula completion bash|zsh|man`: what is generated from the commands.
local function printer(name)
  return function() io.write(require("nebula.manual")[name]()) end
end

return {
  summary = "Print shell completions, or the man page",
  description = [[
make install puts them where the shells and man look. By hand: source <(nebula completion bash).]],
  commands = {
    bash = { summary = "The completion script for bash", run = printer "bash" },
    zsh = { summary = "The completion script for zsh", run = printer "zsh" },
    names = {
      summary = "The names of scripts: tasks, policies, handlers; what the others ask for",
      arguments = { { name = "kind", required = true, choices = { "tasks", "policies", "handlers" } } },
      run = function(_, args)
        for _, name in ipairs(require("nebula.project").names(args.kind)) do print(name) end
      end,
    },
    man = { summary = "The man page nebula(1)", run = printer "man" },
  },
}
