-- transfer_spec.lua: transfers of objects over a network that fails, onto disks that are full, larger
-- than memory, and in processes that are killed.
local nebula = require "nebula"
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local host = require "spec.support.nebula"
local proxy = require "spec.support.proxy"
local server = require "spec.support.s3"
local stopwatch = require "spec.support.stopwatch"

local MIB = 1 << 20
local LONG = os.getenv "NEBULA_SPEC_LONG" == "1"
local STREAM_MIB = LONG and 1024 or 150
local MOST_MIB = os.getenv "NEBULA_SPEC_PRELOAD" and 500 or 64
local KILLS = LONG and 100 or 8

local between, name, direct, files

local function failure(fn, ...)
  local _, err = nebula.try(fn, ...)
  return err
end

local function connect(changes)
  local options = server.options(name)
  options.endpoint = "http://127.0.0.1:" .. between.port
  for option, value in pairs(changes or {}) do options[option] = value end
  return nebula.s3.connect(options)
end

-- The same Bucket in a host of its own.
local function connect_code(endpoint)
  return ("local nebula = require 'nebula' local bucket = nebula.s3.connect { endpoint = %q, bucket = %q, "
    .. "access_key_id = %q, secret_access_key = %q } "):format(endpoint, name, server.access_key_id,
    server.secret_access_key)
end

setup(function()
  name = server.bucket()
  between = proxy.start { port = math.tointeger(server.endpoint():match ":(%d+)$") }
  direct = nebula.s3.connect(server.options(name))
  files = directory.make "transfer-faults"
end)

teardown(function()
  between:close()
  directory.remove(files)
end)

before_each(function()
  between:clear()
  between:accept "open"
end)

describe("a network that swallows everything", function()
  it("ends each call at its deadline, and is forgotten afterwards", function()
    local bucket, data = connect { deadline = 1, connect_timeout = 60, stall_timeout = 60 }, ("x"):rep(6 * MIB)
    direct:put("swallowed", data)
    local calls = {
      function() return bucket:get "swallowed" end,
      function() return bucket:put("new", data) end,
      function() return bucket:download("swallowed", { file = files .. "/x" }) end,
      function() return bucket:list()() end,
      function() return bucket:delete_many { "a", "b" } end,
    }
    for _, how in ipairs { "silent", "unanswered" } do
      between:accept(how)
      between:reset()
      for _, call in ipairs(calls) do
        local elapsed = stopwatch()
        local err = failure(call)
        local took = elapsed()
        assert.equal("timeout", err.kind, tostring(err))
        assert.is_true(took < (LONG and 1.1 or 30), took)
      end
    end
    between:accept "open"
    between:set("down", { stall_after = 100000 })
    assert.equal("timeout", failure(calls[1]).kind)
    between:clear()
    between:reset()
    local patient = connect()
    assert.is_true(patient:get "swallowed" == data)
  end)

  it("ends connecting at the limit for it", function()
    between:accept "unanswered"
    between:reset()
    local err = failure(function() connect { connect_timeout = 0.2, attempts = 1 }:get "x" end)
    assert.truthy(err.code == "EndpointUnreachable" or err.code == "Timeout", err.code)
  end)
end)

describe("a network that breaks, cuts and delays", function()
  it("gives every caller its own object, whole", function()
    local keys = {}
    for i = 1, 24 do
      keys[i] = ("own/%02d"):format(i)
      direct:put(keys[i], (keys[i]):rep(2000))
    end
    local bucket = connect { attempts = 20 }
    for _, faults in ipairs { { latency = 0.05, jitter = 0.05 }, { slice = 7 }, { reset_after = 30000 },
      { finish_after = 30000 } } do
      between:clear()
      between:set("down", faults)
      local function is_own(key) return (bucket:get(key)) == key:rep(2000) end
      local same = nebula.task.map(keys, is_own, { concurrency = 8 })
      for i = 1, #keys do assert.is_true(same[i]) end
      between:reset()
    end
  end)

  it("sends an upload whole, byte by byte and with broken connections", function()
    local data = ("0123456789"):rep(100)
    between:set("both", { slice = 1 })
    connect():put("bytes", data)
    assert.equal(data, (direct:get "bytes"))
    between:clear()
    -- Not before the upload has its id: one whose id is lost on the way is nobody's to abort.
    local count, begun = 0, nebula.task.channel(1)
    local breaker = nebula.task.spawn(function()
      begun:receive()
      while true do
        nebula.task.sleep(0.02)
        between:reset()
        count = count + 1
        if count == 20 then return end
      end
    end)
    local parts = {}
    for i = 1, 3 do parts[i] = string.char(64 + i):rep(5 * MIB) end
    data = table.concat(parts)
    local told = false
    connect { attempts = 50 }:put("broken", data, { concurrency = 1, progress = function()
      if not told then begun:send(true) end
      told = true
    end })
    breaker:join()
    assert.is_true(direct:get "broken" == data)
    -- Where the answer to the upload's begin was lost, nobody knows its id: that one is found by its age.
    assert.is_true(#direct:uploads { prefix = "broken" } <= count)
    direct:abort_uploads { prefix = "broken", older_than = 0 }
    assert.same({}, direct:uploads())
  end)
end)

describe("a download whose process is killed", function()
  it("leaves the file that was there, and nothing else", function()
    direct:put("killed", ("x"):rep(6 * MIB))
    local path = files .. "/kept"
    nebula.fs.write(path, "before")
    between:set("down", { stall_after = 3 * MIB })
    local killed = host.spawn {
      args = { "-e", connect_code("http://127.0.0.1:" .. between.port) .. ([[
        bucket:download("killed", { file = %q, part_size = 1 << 20, concurrency = 2, progress = function(bytes)
          print(bytes)
          io.stdout:flush()
        end })
      ]]):format(path) },
    }
    assert.truthy(killed:read():find "%d")
    killed:kill(9)
    killed:wait()
    assert.equal("before", nebula.fs.read(path))
    assert(os.remove(path))
    for entry in require "lfs".dir(files) do assert.truthy(entry:find "^%.%.?$", entry) end
  end)
end)

describe("a disk that is full", function()
  it("fails a download by name, and leaves no file of it", function()
    direct:put("wide", ("x"):rep(6 * MIB))
    local code = connect_code(server.endpoint()) .. ([[
      for _, options in ipairs { {}, { part_size = 100000, concurrency = 8 } } do
        options.file = "%s/full"
        local _, err = nebula.try(bucket.download, bucket, "wide", options)
        print(err.kind, err.code)
      end
      print(#bucket:get "wide")
    ]]):format(files)
    local result = child.run {
      file = "/bin/sh", args = { "-c", [[ulimit -f 1000; exec "$@"]], "sh", host.program, "-e", code },
    }
    assert.equal("io\tEFBIG\nio\tEFBIG\n6291456\n", result.stdout, result.stderr)
    for entry in require "lfs".dir(files) do assert.truthy(entry:find "^%.%.?$", entry) end
  end)
end)

describe("a disk that is slower than the network", function()
  it("lets a download wait, and go on", function()
    local data = nebula.crypto.random(8 * MIB):rep(3)
    direct:put("slow-disk", data)
    local fifo, path = files .. "/fifo", files .. "/slow-disk"
    child.must { file = "mkfifo", args = { fifo } }
    -- The one thread that writes files reads a fifo meanwhile: its end is held open.
    local code = connect_code(server.endpoint()) .. ([[
      local blocked
      bucket:download("slow-disk", { file = %q, part_size = 8 << 20, concurrency = 2, progress = function()
        if blocked then return end
        blocked = nebula.task.spawn(nebula.fs.read, %q)
        nebula.task.spawn(function()
          local held <close> = io.open(%q, "w")
          nebula.task.sleep(0.3)
        end)
      end })
      print(blocked:join() == "")
    ]]):format(path, fifo, fifo)
    local result = host.run { args = { "-e", code }, env = { UV_THREADPOOL_SIZE = "1" } }
    assert.equal("true\n", result.stdout, result.stderr)
    assert.is_true(nebula.fs.read(path) == data)
    assert(os.remove(path))
    assert(os.remove(fifo))
  end)
end)

describe("an object larger than memory", function()
  it("is streamed both ways in little of it, and refused at its limit where it is not", function()
    local code = connect_code(server.endpoint()) .. ([[
      local megabytes, piece = %d, ("0123456789abcdef"):rep(1 << 16)
      local i = 0
      bucket:put("huge", function() i = i + 1 return i <= megabytes and piece or nil end)
      local size = 0
      do
        local reader <close> = bucket:reader "huge"
        for part in reader do
          size = size + #part
          if size %% (64 << 20) < #part then nebula.task.sleep(0.1) end -- a slow consumer
        end
      end
      assert(size == megabytes << 20)
      bucket:download("huge", { file = "%s/huge", part_size = 32 << 20 })
      assert(os.remove "%s/huge")
      for line in io.lines "/proc/self/status" do
        local peak = line:match "VmHWM:%%s*(%%d+)"
        if peak then print(tonumber(peak) // 1024) end
      end
      local _, err = nebula.try(bucket.get, bucket, "huge", { max_bytes = 100 << 20 })
      print(err.kind)
      bucket:delete "huge"
    ]]):format(STREAM_MIB, files, files)
    local result = host.run { args = { "-e", code } }
    local peak, kind = result.stdout:match "^(%d+)\n(%a+)\n$"
    assert.equal("limit", kind, result.stderr)
    assert.is_true(tonumber(peak) <= MOST_MIB, peak .. " MiB")
  end)
end)

describe("a directory's object", function()
  it("is whole, old or new, however its writers are killed", function()
    local root = files .. "/store"
    local store = nebula.blob.open { path = root }
    store:put("k", ("0"):rep(MIB))
    for kill = 1, KILLS do
      local writer = host.spawn {
        args = { "-e", ([[
          local nebula = require "nebula"
          local store = nebula.blob.open { path = %q }
          for i = 1, 1000000 do
            store:put("k", tostring(i %% 10):rep(1 << 20))
            print(i)
            io.stdout:flush()
          end
        ]]):format(root) },
      }
      assert.truthy(writer:read())
      for _ = 1, kill % 4 do writer:read() end
      writer:kill(9)
      writer:wait()
      local data = store:get "k"
      assert.equal(MIB, #data)
      assert.equal(data:sub(1, 1):rep(MIB), data)
    end
    local keys = {}
    for object in store:list() do keys[#keys + 1] = object.key end
    assert.same({ "k" }, keys)
  end)
end)
