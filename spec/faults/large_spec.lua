-- Results that would not fit: streamed in bounded memory, or refused at their limit. (libpq gathers a
-- single value as long as the server sends it at once, so that its refusal may cost its memory.)
local host = require "spec.support.nebula"
local postgres = require "spec.support.postgres"

local LONG = os.getenv "NEBULA_SPEC_LONG"
local ROWS = LONG and 10000000 or 500000
local VALUE_MIB = LONG and 1000 or 120
local MOST_MIB = os.getenv "NEBULA_SPEC_PRELOAD" and 500 or 64

local CLIENT = [[
local nebula = require "nebula"
local rows, megabytes = tonumber(arg[2]), tonumber(arg[3])
local db <close> = nebula.pg.connect { url = arg[1], max_connections = 2, max_bytes = 8 << 20 }
local n, sum = 0, 0
for row in db:rows("SELECT i, repeat('x', 100) AS t FROM generate_series(1, $1::int) AS i", rows) do
  n, sum = n + 1, sum + row.i
  if n % 100000 == 0 then nebula.task.sleep(0.2) end -- a slow consumer
end
assert(n == rows and sum == rows * (rows + 1) // 2)
local copied = 0
db:copy_out("SELECT repeat('x', 1000) FROM generate_series(1, $1::int)", function(piece) copied = copied + #piece end,
  { args = { rows // 10 } })
assert(copied == rows // 10 * 1001)
for line in io.lines "/proc/self/status" do
  local peak = line:match "VmHWM:%s*(%d+)"
  if peak then print(tonumber(peak) // 1024) end
end
local function refused(what, fn)
  local _, err = nebula.try(fn)
  assert(err and err.kind == "limit", tostring(err))
  assert(err.message:find(what, 1, true), err.message)
end
local big = { "SELECT repeat('x', $1::int) AS t", deadline = 300 }
refused("the result is larger than max_bytes", function() return db:value(big, megabytes << 20) end)
refused("one row is larger", function() for _ in db:rows(big, megabytes << 20) do end end)
refused("one row is larger", function()
  db:copy_out("SELECT repeat('x', $1::int)", function() end, { args = { megabytes << 20 } })
end)
refused("the result is larger than max_bytes", function()
  return db:query("SELECT i, repeat('x', 100) FROM generate_series(1, $1::int) AS i", rows)
end)
assert(db:value "SELECT 1" == 1)
]]

describe("pg results without end", function()
  it("are streamed in little memory, and refused at their limit otherwise", function()
    local scratch = host.scratch()
    host.write(scratch, { ["client.lua"] = CLIENT })
    local result = host.run {
      args = { scratch .. "/client.lua", postgres.database(), tostring(ROWS), tostring(VALUE_MIB) }, timeout = 550,
    }
    assert.equal(0, result.status, result.stderr)
    local peak = tonumber(result.stdout:match "%d+")
    assert.is_true(peak <= MOST_MIB, peak .. " MiB")
  end)
end)
