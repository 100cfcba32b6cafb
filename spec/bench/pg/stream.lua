-- stream.lua URL ROWS: reads so many rows by pool:rows, in a process of its own. Prints the seconds and
-- the peak of its memory in MB.
local nebula = require "nebula"

local url, rows = arg[1], tonumber(arg[2])
local db <close> = nebula.pg.connect { url = url, max_connections = 1 }
local began, sum = nebula.time.monotonic(), 0
for row in db:rows("SELECT i, 'text ' || i AS t FROM generate_series(1, $1::int) AS i", rows) do sum = sum + row.i end
assert(sum == rows * (rows + 1) // 2)
local status = nebula.fs.read "/proc/self/status"
print(nebula.json.encode {
  seconds = nebula.time.monotonic() - began, rss = tonumber(status:match "VmHWM:%s*(%d+)") // 1024,
})
