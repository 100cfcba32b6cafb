-- dbi.lua URL SQL ROUNDS: lua-dbi-postgresql in a stock lua5.4: the same rows into tables. Prints the
-- seconds of each round.
local DBI = require "DBI"

local url, sql, rounds = arg[1], arg[2], tonumber(arg[3])

local function now()
  local file <close> = assert(io.open "/proc/uptime")
  return file:read "n"
end

local db = assert(DBI.Connect("PostgreSQL", url))
local began, cpu = now(), os.clock()
for _ = 1, rounds do
  local statement = assert(db:prepare(sql))
  assert(statement:execute())
  local list = {}
  for row in statement:rows(true) do list[#list + 1] = row end
  statement:close()
  assert(#list > 0)
end
print((now() - began) / rounds, (os.clock() - cpu) / rounds)
