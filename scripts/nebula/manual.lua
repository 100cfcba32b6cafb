-- manual.lua: what is generated from the declarations of the commands: completions for bash and zsh,
-- and the man page. A command, an option or a choice is declared once, in cli/NAME.lua.
local cli = require "nebula.cli"
local options = require "nebula.options"

local manual = {}

local ENVIRONMENT = {
  { "DATABASE_URL", "The PostgreSQL server: postgresql://USER@HOST/DATABASE or key=value. Without it the private "
    .. "server of a .nebula directory here or above is used." },
  { "DATABASE_REPLICA_URL", "A replica for read-only work." },
  { "DATABASE_MAX_CONNECTIONS, DATABASE_MIN_CONNECTIONS", "The pool's bounds (100, 10)." },
  { "DATABASE_CONNECT_TIMEOUT_SECONDS", "The longest wait for a connection (30)." },
  { "DATABASE_IDLE_TIMEOUT_SECONDS, DATABASE_MAX_LIFETIME_SECONDS", "When a connection is closed (600, 1800)." },
  { "DATABASE_STATEMENT_CACHE", "false behind a pooler in transaction mode: nothing is prepared." },
  { "DATABASE_SLOW_QUERY_SECONDS", "Statements that take longer are logged as warnings." },
  { "ENABLE_STATEMENT_LOGGING", "true logs every statement." },
  { "S3_ENDPOINT, S3_REGION, S3_BUCKET, S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY, S3_SESSION_TOKEN",
    "Where artifacts are kept; below these the AWS_ variables and files apply." },
  { "S3_USE_PATH_STYLE", "endpoint/bucket/key in place of bucket.endpoint/key (true where S3_ENDPOINT is set)." },
  { "MIGRATION_PATH", "The project's migrations (default: ./migrations)." },
  { "NEBULA_LOG", "The level of log lines: debug, info, warn, error or off; json:LEVEL for JSON lines." },
  { "NEBULA_TRACE", "1 logs every statement as a span: task, connection, time waited and taken." },
  { "NEBULA_PATH", "More directories in which scripts are looked for." },
  { "NEBULA_WEBHOOK_SECRET", "What the handler http signs with." },
  { "NO_COLOR", "Where set, no colours." },
}

-- ---- the commands as a flat list ----

local function flag(name, option)
  local prefix = options.type_of(option) == "boolean" and option.default == true and "--no-" or "--"
  return prefix .. name:gsub("_", "-")
end

local function flags_of(command)
  local list = { { flag = "--help", help = "show help" } }
  for name, option in pairs(command.options or {}) do
    if not option.hidden then
      list[#list + 1] = { flag = flag(name, option), help = option.help or "", choices = option.choices,
        kind = options.type_of(option) }
    end
  end
  table.sort(list, function(a, b) return a.flag < b.flag end)
  return list
end

local function add(list, path, command)
  local names = {}
  for name in pairs(command.commands or {}) do names[#names + 1] = name end
  table.sort(names)
  local entry = { path = path, command = command, subcommands = {}, flags = flags_of(command) }
  list[#list + 1] = entry
  for i, name in ipairs(names) do
    entry.subcommands[i] = { name = name, summary = command.commands[name].summary or "" }
    add(list, path .. " " .. name, command.commands[name])
  end
  for _, below in ipairs(command.described and command.described() or {}) do
    add(list, path .. " " .. below.name, below) -- its name is asked for: it may be a project's own
  end
end

-- Every command and subcommand, the program itself first, as {path=, command=, subcommands=, flags=}.
local function everything()
  local root = { commands = {}, options = {
    version = { type = "boolean", help = "print the version" },
    env = { type = "file", metavar = "FILE", help = "a file of NAME=value lines below the environment" },
  } }
  for _, name in ipairs(cli.commands()) do root.commands[name] = cli.command(name) end
  local list = {}
  add(list, "nebula", root)
  return list
end

-- ---- bash ----

local function words(entry)
  local list = {}
  for _, sub in ipairs(entry.subcommands) do list[#list + 1] = sub.name end
  for _, one in ipairs(entry.flags) do list[#list + 1] = one.flag end
  return list
end

local BASH = [[
# bash completion for nebula, made by `nebula completion bash`.
_nebula_words() {
  case $1 in
%s
  esac
}

_nebula_values() {
  case $1 in
%s
  *) return 1 ;;
  esac
}

# The kind of script whose names stand behind the command.
_nebula_kind() {
  case $1 in
%s
  esac
}

_nebula() {
  local current=${COMP_WORDS[COMP_CWORD]} path=nebula i values kind
  for ((i = 1; i < COMP_CWORD; i++)); do
    if [ -n "$(_nebula_words "$path ${COMP_WORDS[i]}")" ]; then path="$path ${COMP_WORDS[i]}"; fi
  done
  if values=$(_nebula_values "$path ${COMP_WORDS[COMP_CWORD - 1]}"); then
    COMPREPLY=($(compgen -W "$values" -- "$current"))
  else
    values=$(_nebula_words "$path") kind=$(_nebula_kind "$path")
    if [ -n "$kind" ]; then values="$values $("${COMP_WORDS[0]}" completion names "$kind" 2>/dev/null)"; fi
    COMPREPLY=($(compgen -W "$values" -- "$current"))
  fi
}
complete -o default -F _nebula nebula
]]

--- The completion script for bash.
---@return string
function manual.bash()
  local cases, values, kinds = {}, {}, {}
  for _, entry in ipairs(everything()) do
    cases[#cases + 1] = ("  %q) echo '%s' ;;"):format(entry.path, table.concat(words(entry), " "))
    if entry.command.names then kinds[#kinds + 1] = ("  %q) echo %s ;;"):format(entry.path, entry.command.names) end
    for _, one in ipairs(entry.flags) do
      if one.choices then
        values[#values + 1] = ('  "%s %s") echo %q ;;'):format(entry.path, one.flag, table.concat(one.choices, " "))
      end
    end
  end
  return BASH:format(table.concat(cases, "\n"), table.concat(values, "\n"), table.concat(kinds, "\n"))
end

-- ---- zsh ----

local ZSH = [=[
#compdef nebula
# zsh completion for nebula, made by `nebula completion zsh`.
_nebula_words() {
  case $1 in
%s
  *) return 1 ;;
  esac
}

_nebula() {
  local -a words_of
  local command=nebula kind i
  for ((i = 2; i < CURRENT; i++)); do
    if _nebula_words "$command ${words[i]}"; then command="$command ${words[i]}"; fi
  done
  kind=
  _nebula_words "$command"
  if [[ -n $kind ]]; then words_of+=(${(f)"$(${words[1]} completion names $kind 2>/dev/null)"}); fi
  _describe 'nebula' words_of
  _files
}
_nebula "$@"
]=]

local function zsh_quoted(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

--- The completion script for zsh, with descriptions.
---@return string
function manual.zsh()
  local cases = {}
  for _, entry in ipairs(everything()) do
    local list = {}
    for _, sub in ipairs(entry.subcommands) do list[#list + 1] = zsh_quoted(sub.name .. ":" .. sub.summary) end
    for _, one in ipairs(entry.flags) do list[#list + 1] = zsh_quoted(one.flag .. ":" .. one.help) end
    local kind = entry.command.names and " kind=" .. entry.command.names or ""
    cases[#cases + 1] = ("  %q) words_of=(%s)%s ;;"):format(entry.path, table.concat(list, " "), kind)
  end
  return (ZSH:gsub("%%s", function() return table.concat(cases, "\n") end))
end

-- ---- man ----

-- Text for roff: no line may begin with a control character, no backslash may mean anything.
local function roff(text)
  return (text:gsub("\\", "\\e"):gsub("%-", "\\-"):gsub("\n([.'])", "\n\\&%1"):gsub("^([.'])", "\\&%1"))
end

local function tagged(out, list)
  for _, pair in ipairs(list) do
    out[#out + 1] = ".TP\n.B " .. roff(pair[1]) .. "\n" .. roff(pair[2])
  end
end

local function described(entry)
  local list = {}
  for _, argument in ipairs(entry.command.arguments or {}) do
    list[#list + 1] = { argument.name:upper(), argument.help or "" }
  end
  local flags = {}
  for name, option in pairs(entry.command.options or {}) do
    if not option.hidden then flags[#flags + 1] = { options.describe(name, option) } end
  end
  table.sort(flags, function(a, b) return a[1]:match "%-%-.*" < b[1]:match "%-%-.*" end)
  return table.move(flags, 1, #flags, #list + 1, list)
end

--- The man page nebula(1).
---@return string
function manual.man()
  local version = require("nebula.system").version
  local out = { ('.TH NEBULA 1 "" "nebula %s"'):format(version), ".SH NAME",
    "nebula \\- a storage host for workflow engines, scripted in Lua", ".SH SYNOPSIS" }
  for _, line in ipairs { "", "FILE.lua [ARG...]", "-e CODE", "COMMAND [OPTIONS]" } do
    out[#out + 1] = ".B nebula" .. (line == "" and "" or "\n" .. roff(line)) .. "\n.br"
  end
  out[#out + 1] = ".SH DESCRIPTION\nKeeps workflow definitions, execution state and a job queue in PostgreSQL, and "
    .. "artifacts in S3 or a directory.\nAlone it is an interactive prompt; with a script on standard input it runs it."
  out[#out + 1] = ".SH COMMANDS"
  for _, entry in ipairs(everything()) do
    if entry.path ~= "nebula" then
      out[#out + 1] = ".SS " .. roff(entry.path)
      out[#out + 1] = roff(entry.command.summary or "") .. "."
      if entry.command.description then
        out[#out + 1] = ".PP\n" .. roff((entry.command.description:gsub("%s+$", "")))
      end
      tagged(out, described(entry))
    end
  end
  out[#out + 1] = ".SH ENVIRONMENT"
  tagged(out, ENVIRONMENT)
  out[#out + 1] = ".SH FILES"
  tagged(out, { { "nebula.conf.lua", "Settings of a project, beside its policies, tasks and handlers." },
    { "~/.config/nebula/init.lua", "Run at the start of a prompt." } })
  out[#out + 1] = ".SH EXIT STATUS"
  tagged(out, { { "0", "Done." }, { "1", "Failed." }, { "2", "Wrong usage or configuration." },
    { "130", "Interrupted." } })
  return table.concat(out, "\n") .. "\n"
end

return manual
