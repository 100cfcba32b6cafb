-- A table whose columns come, go and change their types while many tasks read it by SELECT *.
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local task = nebula.task

local CHANGES, READERS = 50, 24

describe("pg under DDL", function()
  it("gives each SELECT * its rows over 50 changes, without an error", function()
    local db <close> = nebula.pg.connect { url = postgres.database(), max_connections = 6 }
    db:exec "CREATE TABLE hot (k int PRIMARY KEY, v int8); INSERT INTO hot SELECT g, g FROM generate_series(1, 20) g"
    local kinds = { "ADD COLUMN IF NOT EXISTS extra float8 DEFAULT 1.5", "ALTER v TYPE numeric", "ALTER v TYPE text",
      "DROP COLUMN IF EXISTS extra", "ALTER v TYPE int8 USING v::int8" }
    local done, reads = false, 0
    task.scope(function(scope)
      for _ = 1, READERS do
        scope:spawn(function()
          while not done do
            local k = math.random(20)
            local row = db:one("SELECT * FROM hot WHERE k = $1", k)
            assert.equal(tostring(k), tostring(row.v))
            assert.is_true(row.extra == nil or row.extra == 1.5)
            reads = reads + 1
          end
        end)
      end
      for change = 1, CHANGES do
        local before = reads
        db:exec("ALTER TABLE hot " .. kinds[(change - 1) % #kinds + 1])
        while reads < before + READERS do task.sleep(0.001) end -- each change is met by warm plans
      end
      done = true
    end)
    assert.is_true(reads >= CHANGES * READERS)
  end)
end)
