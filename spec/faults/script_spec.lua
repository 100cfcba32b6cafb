-- Scripts that end in the wrong way while they hold a connection: recursion without an end, errors where a
-- value is closed or collected, waits where Lua cannot wait. Each is an error, and the connection is free again.
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local pg, task = nebula.pg, nebula.task

describe("a script that fails with a connection in its hands", function()
  local db

  setup(function()
    db = pg.connect { url = postgres.database(), max_connections = 2 }
    db:exec "CREATE TABLE left_behind (n int)"
  end)
  teardown(function() db:close() end)

  local function forever(n) return 1 + forever(n + 1) end

  local function nested(level)
    if level == 0 then return 1 end
    return coroutine.wrap(function() return nested(level - 1) end)()
  end

  local WAYS = {
    ["recursion without an end"] = { "stack overflow", function() forever(1) end },
    ["coroutines in coroutines without an end"] = { "C stack overflow", function() nested(100000) end },
    ["an error in __close"] = { "on closing", function()
      local _ <close> = setmetatable({}, { __close = function() error "on closing" end })
    end },
    ["an error in __close upon an error"] = { "on closing", function()
      local _ <close> = setmetatable({}, { __close = function() error "on closing" end })
      forever(1)
    end },
    ["a wait in a comparator"] = { "table.sort", function(tx)
      table.sort({ 3, 1, 2 }, function(a, b) return tx:value("SELECT $1::int < $2::int", a, b) end)
    end },
    ["a wait in a gsub callback"] = { "string.gsub", function(tx)
      string.gsub("abc", ".", function(c) return tx:value("SELECT $1::text", c) end)
    end },
    ["a wait in __gc"] = { "on purpose", function(tx)
      setmetatable({}, { __gc = function() tx:value "SELECT 1" end })
      collectgarbage()
      error "on purpose"
    end },
    ["an error in __gc"] = { "on purpose", function()
      setmetatable({}, { __gc = function() error "in a finalizer" end })
      collectgarbage()
      error "on purpose"
    end },
    ["an error value that cannot be shown"] = { "", function()
      error(setmetatable({}, { __tostring = function() error "not shown" end }))
    end },
  }

  for name, way in pairs(WAYS) do
    it("by " .. name .. " raises, and gives it back", function()
      for round = 1, 2 do
        local _, err = nebula.try(db.transaction, db, function(tx)
          tx:exec("INSERT INTO left_behind VALUES ($1)", round)
          way[2](tx)
        end)
        assert.is_not_nil(err)
        local shown, text = pcall(tostring, err)
        if shown then assert.matches(way[1], text, 1, true) end
        local held = db:acquire()
        local _, held_err = nebula.try(function()
          local _ <close> = held
          way[2](held)
        end)
        assert.is_not_nil(held_err)
      end
      task.deadline(60, function()
        while db:stats().held + db:stats().busy > 0 do task.sleep(0.01) end
      end)
      assert.equal(0, db:value "SELECT count(*) FROM left_behind")
    end)
  end
end)
