-- A migrator that loses its connections at each of its statements, before it or behind it: the next
-- one ends as if nothing had been.
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local migrate = require "nebula.migrate"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"

local STATEMENTS = { query = true, one = true, value = true, exec = true, transaction = true }
local MOST = 200

local function quiet() end

describe("a migrator that is lost", function()
  local db, path

  lazy_setup(function()
    db = nebula.pg.connect { url = postgres.database(), max_connections = 6 }
    path = directory.make("faults-" .. child.next_number "directories")
    migrate.up(db, { path = path, log = quiet })
    db:exec "CREATE TABLE big (id INTEGER PRIMARY KEY, n INTEGER NOT NULL DEFAULT 0)"
    db:exec "INSERT INTO big SELECT i FROM generate_series(1, 30) AS i"
    nebula.fs.write(path .. "/V1__whole.lua", [[return {
      up = { "CREATE TABLE whole (n INTEGER)", "INSERT INTO whole VALUES (1)" },
      down = "DROP TABLE whole",
    }]])
    nebula.fs.write(path .. "/V2__steps.lua", [[return {
      transaction = false,
      up = {
        "CREATE TABLE steps (n INTEGER); INSERT INTO steps VALUES (1)",
        "CREATE INDEX CONCURRENTLY steps_n ON steps (n)",
        function(db, migrate) migrate.backfill(db, { table = "big", set = "n = n + 1", batch = 12 }) end,
      },
      down = { "DROP INDEX CONCURRENTLY IF EXISTS steps_n", "DROP TABLE steps", "UPDATE big SET n = 0" },
    }]])
  end)
  lazy_teardown(function() db:close() end)

  -- A pool whose connections are all broken at the statement with this number, `before` it is sent
  -- or when its answer has come. Tells how many statements there were.
  local function failing(at, before)
    local pool, count, pids = {}, 0, {}
    local function lose()
      for _, pid in ipairs(pids) do db:exec("SELECT pg_terminate_backend($1::int, 5000)", pid) end
      error(nebula.error { kind = "database", message = "lost" }, 0)
    end
    local wrap
    local function method(handle, name)
      return function(_, ...)
        if not STATEMENTS[name] then return handle[name](handle, ...) end
        count = count + 1
        local mine, arguments = count, table.pack(...)
        if before and mine == at then lose() end
        if name == "transaction" then
          local fn = arguments[1]
          arguments[1] = function(tx) return fn(wrap(tx)) end
        end
        local results = table.pack(handle[name](handle, table.unpack(arguments, 1, arguments.n)))
        if not before and mine == at then lose() end
        return table.unpack(results, 1, results.n)
      end
    end
    function wrap(handle)
      return setmetatable({}, {
        __index = function(_, name) return method(handle, name) end,
        __close = function() handle:close() end,
      })
    end
    function pool.acquire()
      local connection = db:acquire()
      pids[#pids + 1] = connection:value "SELECT pg_backend_pid()"
      return wrap(connection)
    end
    for name in pairs(STATEMENTS) do
      pool[name] = function(_, ...) return db[name](db, ...) end
    end
    return pool, function() return count end
  end

  local function state()
    return { whole = db:value "SELECT count(*) FROM whole", steps = db:value "SELECT count(*) FROM steps",
      valid = db:value "SELECT indisvalid FROM pg_index WHERE indexrelid = 'steps_n'::regclass",
      least = db:value "SELECT min(n) FROM big", most = db:value "SELECT max(n) FROM big",
      left = db:value "SELECT count(*) FROM nebula_schema_backfills" }
  end

  for _, before in ipairs { true, false } do
    it("at any statement, " .. (before and "before" or "behind") .. " it", function()
      -- behind one statement is nearly before the next: there, every other one
      local at, finished = 0, false
      while not finished do
        at = at + (before and 1 or 2)
        local pool, count = failing(at, before)
        local _, err = nebula.try(migrate.up, pool, { path = path, log = quiet })
        finished = count() < at
        assert.is_true(not (finished and err), tostring(err)) -- what is lost while it lets go does no harm
        assert.is_true(at < MOST)
        migrate.up(db, { path = path, log = quiet })
        assert.same({ whole = 1, steps = 1, valid = true, least = 1, most = 1, left = 0 }, state())
        migrate.down(db, { path = path, to = 0, log = quiet })
      end
      assert.is_true(at > 20)
    end)
  end
end)
