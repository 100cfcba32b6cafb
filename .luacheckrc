-- luacheck's settings: the tree is Lua 5.4, run by the host.
std = "lua54"
max_line_length = 120
exclude_files = { "build", ".nebula" }

-- Unused arguments that say what a callback is given may stay.
-- So may a variable that is there for its `<close>`: its name begins with an underscore.
ignore = { "212", "211/_.+" }

-- Specs leave loops early on purpose.
files["spec"] = { std = "lua54+busted", ignore = { "512" } }
files["bindings/meta"] = { ignore = { "1..", "2..", "6.." } }

-- What policy files know without require.
files["scripts/policies"] = { read_globals = { "policy" } }
files["examples/policies"] = { read_globals = { "policy" } }
files["scripts/project/spec"] = { std = "lua54+busted" }
files["spec/policies"] = { std = "lua54+busted", read_globals = { "policy" } }

-- What is typed at the prompt: expressions, and what is known there.
files["examples/repl-one-liners.lua"] = {
  read_globals = { "nebula", "db", "blobs", "storage", "queue", "task", "sql", "plot" }, ignore = { "0.." },
}
