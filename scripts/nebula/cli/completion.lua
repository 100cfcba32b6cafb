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
    man = { summary = "The man page nebula(1)", run = printer "man" },
  },
}
