-- args.lua: `nebula.args{summary=, options=, arguments=}`: a script's own command line, declared.
-- `--help` prints the help and ends with status 0; a mistake is named on standard error, status 2.
local options = require "nebula.options"

local function usage(script, declared)
  local words = { "usage: " .. script, "[OPTIONS]" }
  for _, argument in ipairs(declared.arguments or {}) do
    local word = argument.name:upper() .. (argument.many and "..." or "")
    words[#words + 1] = argument.required and word or "[" .. word .. "]"
  end
  return table.concat(words, " ")
end

--- Parses the script's `arg`.
---@param declared {summary?: string, options?: table<string, nebula.Option>, arguments?: table[]}
---@param argv? string[] default: the global `arg`
---@return table opts the options, and the arguments by name
return function(declared, argv)
  argv = argv or arg or {}
  local script = (argv[0] or arg and arg[0] or "script"):match "[^/]*$"
  local ok, opts, rest = pcall(options.parse, declared.options or {}, argv)
  if ok and opts.help then
    io.stdout:write(usage(script, declared), "\n\n", declared.summary and declared.summary .. "\n\n" or "",
      options.help(declared.options or {}), "\n")
    os.exit(0, true)
  end
  local err = opts
  if ok then
    ok, err = pcall(options.arguments, declared.arguments or {}, rest)
    if ok then
      for name, value in pairs(err) do opts[name] = value end
      return opts
    end
  end
  io.stdout:flush()
  local message = type(err) == "table" and err.message or tostring(err)
  io.stderr:write(script, ": ", message, "\n", usage(script, declared), "\n")
  os.exit(2, true)
end
