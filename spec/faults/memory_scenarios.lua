-- memory_scenarios.lua: what spec/faults/memory_spec.lua runs in the copy of the program in which an allocation
-- can be refused. Each scenario is run once for each of its allocations, which then fails; whatever it said,
-- it works the next time, nothing waits for ever, and nothing is left open.
local nebula = require "nebula"
local crypto, fs, json, pg, task = nebula.crypto, nebula.fs, nebula.json, nebula.pg, nebula.task
local scarce = scarce -- luacheck: ignore 113

local url, directory = os.getenv "DATABASE_URL", arg[1]
local SECONDS = 40 -- that nothing here should take
local MOST_FILES = 4 -- connections that are kept for the next request

local db = pg.connect { url = url, max_connections = 2 }
db:exec "CREATE TABLE scarce (id int PRIMARY KEY, t text, data jsonb)"
db:exec "INSERT INTO scarce SELECT i, 'text ' || i, jsonb_build_object('n', i) FROM generate_series(1, 40) AS i"
local store = nebula.blob.open { path = directory .. "/store" }
store:put("kept", ("x"):rep(5000))
local bucket = nebula.s3.connect {
  endpoint = os.getenv "S3_ENDPOINT", bucket = os.getenv "S3_BUCKET", attempts = 1,
  access_key_id = os.getenv "S3_ACCESS_KEY_ID", secret_access_key = os.getenv "S3_SECRET_ACCESS_KEY",
}
bucket:put("kept", ("x"):rep(150000))
local box = require("nebula.sandbox").load("return { f = function(t) return { t, #t } end }", "box.lua", {})
local document = json.encode { list = { 1, 2.5, "three", { four = true } }, text = ("x"):rep(300) }

local scenarios = {
  { "json encode", function() json.encode { a = { 1, 2, { b = "c" } }, s = ("y"):rep(100) } end },
  { "json decode", function() return json.decode(document) end },
  { "sha256", function() crypto.sha256(document) end },
  { "hmac", function() crypto.hmac("key", document) end },
  { "uuid", function() return crypto.uuid_v7() .. crypto.uuid_v4() end },
  { "time", function() return nebula.time.parse(nebula.time.format(1.5)) end },
  { "error objects", function() return tostring(nebula.error { kind = "limit", message = "m" }) end },
  { "spawn and join", function() assert(task.spawn(function(...) return ... end, 1, "two"):join() == 1) end },
  { "map", function() task.map({ 1, 2, 3, 4 }, function(n) task.yield() return n end, { concurrency = 2 }) end },
  { "channel", function()
    local channel = task.channel(1)
    task.scope(function(scope)
      scope:spawn(function()
        for i = 1, 3 do channel:send(i) end
        channel:close()
      end)
      for _ in function() return channel:receive() end do end
    end)
  end },
  { "semaphore", function()
    local permit <close> = task.semaphore(1):acquire()
    return permit
  end },
  { "cancel", function()
    task.scope(function(scope)
      local one = scope:spawn(function()
        local _ <close> = setmetatable({}, { __close = function() task.yield() end })
        task.sleep(60)
      end)
      task.yield()
      one:cancel()
    end)
  end },
  { "deadline", function() nebula.try(task.deadline, 0.001, task.sleep, 60) end },
  { "generator", function()
    for _ in task.generator(function() for i = 1, 3 do coroutine.yield(i) end end) do task.yield() end
  end },
  { "query", function() return db:query("SELECT id, t, data FROM scarce WHERE id < $1", 20) end },
  { "value", function() return db:value("SELECT $1::text || $2::int", "a", 7) end },
  { "types", function()
    return db:one [[SELECT 1::int2, 2.5::float4, 1.5::numeric, '{1,2,NULL}'::int[] AS a, '\x00ff'::bytea, now(),
      '{"a": [1, 2]}'::jsonb, 'e'::"char", gen_random_uuid()]]
  end },
  { "parameters", function()
    return db:one("SELECT $1::int[] AS a, $2::jsonb AS j, $3::bytea AS b", { 1, 2, 3 }, { x = { 1 } }, "\0bytes")
  end },
  { "error of the server", function() nebula.try(db.query, db, "SELECT 1 / 0") end },
  { "rows", function() for _ in db:rows "SELECT id, t FROM scarce" do end end },
  { "rows left early", function() for _ in db:rows "SELECT id, t FROM scarce" do break end end },
  { "batch", function() return db:batch { { "SELECT 1 AS n" }, { "SELECT $1::text AS t", "x" } } end },
  { "transaction", function()
    db:transaction(function(tx)
      tx:exec "UPDATE scarce SET t = t WHERE id = 1"
      tx:transaction(function(inner) inner:exec "UPDATE scarce SET t = t WHERE id = 2" end)
    end)
  end },
  { "copy in", function()
    db:transaction(function(tx)
      tx:exec "CREATE TEMP TABLE taken (LIKE scarce) ON COMMIT DROP"
      tx:copy_in("COPY taken (id, t) FROM STDIN", { { 1, "a" }, { 2, "b" } })
    end)
  end },
  { "copy out", function() db:copy_out("COPY scarce TO STDOUT", function() end) end },
  { "listen", function()
    local heard = db:listen("scarce", function() end)
    db:notify("scarce", "x")
    heard:close()
  end },
  { "pool", function()
    local own <close> = pg.connect { url = url, max_connections = 1 }
    return own:value "SELECT 1"
  end },
  { "files", function()
    fs.write(directory .. "/file", document)
    assert(fs.read(directory .. "/file") == document)
    for _ in fs.list(directory) do end
  end },
  { "blobs", function()
    store:put("blob", document)
    assert(store:get "blob" == document)
    for _ in store:list {} do end
    store:delete "blob"
  end },
  { "put an object", function() bucket:put("put", document) end },
  { "put an object in parts", function()
    local writer <close> = bucket:writer "written"
    writer:write(document)
    writer:finish()
  end },
  { "get an object", function() assert(#bucket:get "kept" == 150000) end },
  { "download an object", function() bucket:download("kept", { file = directory .. "/kept", part_size = 65536 }) end },
  { "list objects", function() for _ in bucket:list {} do end end },
  { "an object that is missing", function() assert(bucket:get "missing" == nil) end },
  { "sandbox", function() return box:call("f", { 1, "two", { 3 } }) end },
  { "log", function() nebula.log.debug("a line", { key = "value", n = 1 }) end },
}

local function open_files()
  local n = 0
  for _ in fs.list "/proc/self/fd" do n = n + 1 end
  return n
end

-- Waits until the pool has nothing to do.
local function settle()
  task.deadline(SECONDS, function()
    while true do
      local stats = db:stats()
      if stats.held + stats.busy + stats.connecting + stats.waiting == 0 then return end
      task.sleep(0.001)
    end
  end)
end

local function run(name, scenario)
  for _ = 1, 3 do scenario() end
  settle()
  scarce(math.maxinteger)
  scenario()
  local _, count = scarce()
  collectgarbage()
  local files, refused = open_files(), 0
  for n = 1, count + 10 do -- what was warm then may not be so now
    local _, err = nebula.try(task.deadline, SECONDS, function()
      scarce(n)
      scenario()
    end)
    local failed = scarce()
    if failed then refused = refused + 1 end
    local where = ("%s, allocation %d of %d: "):format(name, n, count)
    if err and (not failed or err.kind == "timeout") then error(where .. tostring(err), 0) end
    _, err = nebula.try(task.deadline, SECONDS, scenario)
    if err then error(where .. "the next time: " .. tostring(err), 0) end
  end
  settle()
  collectgarbage()
  collectgarbage()
  task.sleep(0.01)
  local left = open_files() - files
  if left > MOST_FILES then error(("%s: %d files were left open"):format(name, left), 0) end
  print(name, refused)
end

local tasks = #task.list()
for _, scenario in ipairs(scenarios) do run(scenario[1], scenario[2]) end
db:close()
print("tasks left", #task.list() - tasks)
