-- s3_spec.lua: what becomes of transfers where the server, or what lies before it, misbehaves. A fault
-- proxy stands between the host and a real S3 server.
local nebula = require "nebula"
local directory = require "spec.support.directory"
local http_proxy = require "spec.support.http_proxy"
local server = require "spec.support.s3"

local MIB = 1 << 20
local LONG = os.getenv "NEBULA_SPEC_LONG" == "1"

local proxy, name, direct, files

local function failure(fn, ...)
  local _, err = nebula.try(fn, ...)
  return err
end

-- A Bucket behind the proxy.
local function connect(changes)
  local options = server.options(name)
  options.endpoint = proxy.url
  for option, value in pairs(changes or {}) do options[option] = value end
  return nebula.s3.connect(options)
end

local function answer(status, changes)
  local rule = { ["do"] = "answer", status = status }
  for field, value in pairs(changes or {}) do rule[field] = value end
  return rule
end

-- How many requests the proxy saw whose target has this in it.
local function seen(part, method)
  local count = 0
  for _, entry in ipairs(proxy:log()) do
    if entry.target:find(part, 1, true) and (not method or entry.method == method) then count = count + 1 end
  end
  return count
end

setup(function()
  name = server.bucket()
  proxy = http_proxy.start(server.endpoint())
  direct = nebula.s3.connect(server.options(name))
  files = directory.make "s3-faults"
end)

teardown(function()
  proxy:close()
  directory.remove(files)
end)

describe("errors of the server", function()
  it("at a third of all requests are overcome", function()
    local bucket = connect { attempts = 20 }
    local rules = {}
    for _, status in ipairs { 500, 502, 503 } do rules[#rules + 1] = answer(status, { percent = 12 }) end
    proxy:rules(rules)
    local keys = {}
    for i = 1, LONG and 1000 or 60 do keys[i] = ("third/%04d"):format(i) end
    nebula.task.map(keys, function(key) bucket:put(key, key) end, { concurrency = 16 })
    local same = nebula.task.map(keys, function(key) return (bucket:get(key)) == key end, { concurrency = 16 })
    for i = 1, #keys do assert.is_true(same[i]) end
  end)

  it("at all requests end after the attempts that were allowed", function()
    for _, status in ipairs { 500, 502, 503 } do
      proxy:rules { answer(status) }
      local err = failure(function() connect { attempts = 3 }:get "x" end)
      assert.equal("s3", err.kind)
      assert.is_true(err.retryable)
      assert.truthy(err.message:find(("(%d)"):format(status), 1, true))
      assert.equal(3, seen "/x")
    end
  end)

  it("that last end in a quota of retries, not in a storm", function()
    proxy:rules { answer(500) }
    local bucket = connect { attempts = 4 }
    local list = {}
    for i = 1, 400 do list[i] = i end
    nebula.task.map(list, function() assert.truthy(failure(bucket.get, bucket, "storm")) end, { concurrency = 64 })
    local count = seen "/storm"
    assert.is_true(count <= 400 + 100, count) -- 500 tokens, five a retry
    proxy:rules {}
    assert.is_nil((bucket:get "storm")) -- it goes on working
  end)

  it("that are no one's fault but the caller's are not repeated", function()
    for _, status in ipairs { 400, 403, 405, 501 } do
      proxy:rules { answer(status) }
      local err = failure(function() connect():get "x" end)
      assert.equal("s3", err.kind)
      assert.is_false(err.retryable)
      assert.equal(1, seen "/x")
    end
  end)

  it("that ask for time get it", function()
    proxy:rules {
      answer(503, { times = 1, headers = { "Retry-After: 1" }, body = "<Error><Code>SlowDown</Code></Error>" }),
    }
    assert.is_nil((connect():get "slow"))
    local log = proxy:log()
    assert.equal(2, #log)
    assert.is_true(log[2].at - log[1].at >= 1)
  end)

  it("that ask for more time than the deadline leaves are told at once", function()
    proxy:rules { answer(503, { headers = { "Retry-After: 50" } }) }
    local err = failure(function() connect { deadline = 40 }:get "slow" end)
    assert.equal("s3", err.kind)
    assert.equal(50, err.retry_after)
    assert.equal(1, seen "/slow")
  end)

  it("under 200 are errors", function()
    local late = answer(200, { body = "<?xml version='1.0'?>\n<Error><Code>InternalError</Code></Error>" })
    late.method, late.times = "PUT", 1
    direct:put("from", "data")
    proxy:rules { late }
    connect():copy("from", "to")
    assert.equal(2, seen("/to", "PUT"))
    assert.equal("data", (direct:get "to"))
    late.times = 100
    proxy:rules { late }
    assert.equal("InternalError", failure(function() connect { attempts = 2 }:copy("from", "to2") end).code)
    late.method, late.path = "POST", "uploadId="
    proxy:rules { late }
    assert.equal("InternalError", failure(function()
      connect { attempts = 2 }:put("late", ("x"):rep(6 * MIB))
    end).code)
    assert.same({}, direct:uploads { prefix = "late" })
    assert.is_false(direct:exists "late")
  end)
end)

describe("a silent server", function()
  it("ends at the limit for the first byte", function()
    proxy:rules { { ["do"] = "hold" } }
    local bucket, began = connect { first_byte_timeout = 0.3, attempts = 1 }, nebula.time.monotonic()
    local err = failure(bucket.get, bucket, "x")
    assert.equal("timeout", err.kind)
    assert.truthy(err.message:find("no answer within 0.3 s", 1, true), err.message)
    assert.is_true(nebula.time.monotonic() - began < 30) -- far from the 60 s of the default
  end)

  it("ends at the deadline of the operation, whatever it was doing", function()
    direct:put("big", ("x"):rep(MIB))
    for _, rule in ipairs { { ["do"] = "hold" }, { stop = 1000 } } do
      proxy:rules { rule }
      local bucket = connect { deadline = 0.5 }
      assert.equal("timeout", failure(bucket.get, bucket, "big").kind)
      assert.equal("timeout", failure(bucket.download, bucket, "big", { file = files .. "/big" }).kind)
      assert.equal("timeout", failure(function()
        local reader <close> = bucket:reader "big"
        for _ in reader do end
      end).kind)
      assert.is_nil(io.open(files .. "/big"))
    end
  end)

  it("in the middle of a body ends at the limit for a stall", function()
    proxy:rules { { stop = 1000 } }
    local bucket = connect { stall_timeout = 1, attempts = 1 }
    local err = failure(bucket.get, bucket, "big")
    assert.equal("timeout", err.kind)
    assert.equal("s3", err.source)
  end)

  it("that dribbles its answer ends at the limit for its speed", function()
    proxy:rules { { rate = 1024 } }
    local bucket = connect { stall_timeout = 2, low_speed = 100000, attempts = 1 }
    assert.equal("timeout", failure(bucket.get, bucket, "big").kind)
  end)
end)

describe("a damaged answer", function()
  local function text_of(read) return (read("damaged")) end

  it("is found and read again: cut short, with a wrong length, with other bytes", function()
    local data = ("0123456789"):rep(5000)
    direct:put("damaged", data)
    for _, fault in ipairs { { cut = 1000 }, { length = 7 }, { flip = 4321 } } do
      fault.times, fault.method = 2, "GET"
      proxy:rules { fault }
      local bucket = connect()
      assert.equal(data, text_of(function(key) return bucket:get(key) end))
      fault.times = 100
      proxy:rules { fault }
      local err = failure(bucket.get, bucket, "damaged")
      assert.equal("s3", err.kind)
      assert.truthy(err.code == "ConnectionBroken" or err.code == "BadDigest", err.code)
    end
  end)

  it("does not become a file, and leaves none", function()
    for _, fault in ipairs { { cut = 1000 }, { length = 7 }, { flip = 4321 } } do
      fault.method = "GET"
      proxy:rules { fault }
      local bucket = connect { attempts = 2 }
      assert.equal("s3", failure(bucket.download, bucket, "damaged", { file = files .. "/damaged" }).kind)
      assert.is_nil(io.open(files .. "/damaged"))
    end
    for entry in require "lfs".dir(files) do assert.truthy(entry:find "^%.%.?$", entry) end
  end)

  it("is found by a reader at its end", function()
    proxy:rules { { flip = 4321, method = "GET" } }
    local reader <close> = connect():reader "damaged"
    assert.equal("BadDigest", failure(function()
      for _ in reader do end
    end).code)
  end)

  it("is found by its checksum where the server knows one", function()
    local data = ("x"):rep(1000)
    local crc = nebula.crypto.base64((">I4"):pack(nebula.crypto.crc32c(data)))
    local bucket = connect { checksum = "crc32c", attempts = 2 }
    proxy:rules { answer(200, { body = data, headers = { "x-amz-checksum-crc32c: " .. crc } }) }
    assert.equal(data, (bucket:get "sum"))
    assert.equal("ENABLED", proxy:log()[1].headers["x-amz-checksum-mode"])
    proxy:rules { answer(200, { body = "y" .. data:sub(2), headers = { "x-amz-checksum-crc32c: " .. crc } }) }
    local err = failure(bucket.get, bucket, "sum")
    assert.equal("BadDigest", err.code)
    assert.truthy(err.message:find("not those of the checksum", 1, true))
    assert.equal(2, #proxy:log())
  end)
end)

describe("a download of what fits into one part", function()
  it("is one request", function()
    for _, size in ipairs { 0, 1, 100000 } do
      direct:put("small", ("x"):rep(size))
      proxy:rules {}
      assert.equal(size, connect():download("small", { file = files .. "/small", part_size = 100000 }).size)
      assert.equal(size, #nebula.fs.read(files .. "/small"))
      assert.equal(1, #proxy:log())
      assert.equal("GET", proxy:log()[1].method)
      os.remove(files .. "/small")
    end
  end)
end)

describe("a download of many ranges", function()
  it("is compared with the checksum of the whole", function()
    local data = {}
    for i = 1, 300000 do data[i] = ("%07d\n"):format(i) end
    data = table.concat(data)
    direct:put("ranges", data)
    local sum = "x-amz-checksum-crc32c: " .. nebula.crypto.base64((">I4"):pack(nebula.crypto.crc32c(data)))
    local bucket = connect { checksum = "crc32c" }
    proxy:rules { { method = "GET", times = 1, header = sum } }
    bucket:download("ranges", { file = files .. "/ranges", part_size = 100000 })
    assert.is_true(nebula.fs.read(files .. "/ranges") == data)
    proxy:rules { { method = "GET", times = 1, header = sum }, { skip = 7, times = 1, flip = 5 } }
    local err = failure(bucket.download, bucket, "ranges", { file = files .. "/ranges2", part_size = 100000 })
    assert.equal("BadDigest", err.code)
    assert.is_nil(io.open(files .. "/ranges2"))
    os.remove(files .. "/ranges")
  end)

  it("asks alone for one that broke, from its first byte", function()
    local data = nebula.crypto.random(6 * MIB)
    direct:put("broken-range", data)
    local sum = "x-amz-checksum-crc32c: " .. nebula.crypto.base64((">I4"):pack(nebula.crypto.crc32c(data)))
    proxy:rules { { method = "GET", times = 1, header = sum }, { skip = 1, times = 2, cut = 1500000 } }
    local path = files .. "/broken-range"
    connect({ checksum = "crc32c" }):download("broken-range", { file = path, part_size = 2 * MIB, concurrency = 1 })
    assert.is_true(nebula.fs.read(path) == data)
    assert.equal(1 + 3 + 2, #proxy:log())
    os.remove(path)
  end)
end)

describe("a checksum of what is stored", function()
  it("goes along, and is compared with the server's", function()
    local bucket = connect { checksum = "crc32c", unsigned_payload = true, attempts = 2 }
    proxy:rules {}
    bucket:put("crc", "123456789")
    assert.equal("4waSgw==", proxy:log()[1].headers["x-amz-checksum-crc32c"])
    proxy:rules { { method = "PUT", header = "x-amz-checksum-crc32c: 4waSgw==" } }
    bucket:put("crc", "123456789")
    proxy:rules { { method = "PUT", header = "x-amz-checksum-crc32c: AAAAAA==" } }
    local err = failure(bucket.put, bucket, "crc", "123456789")
    assert.equal("BadDigest", err.code)
    assert.truthy(err.message:find("the server stored other bytes than were sent", 1, true))
    assert.equal(2, #proxy:log())
  end)

  it("goes along with each part, and stands in what completes them", function()
    local bucket = connect { checksum = "crc32c" }
    local data = { ("a"):rep(5 * MIB), ("b"):rep(1000) }
    proxy:rules {}
    bucket:put("crc-parts", table.concat(data))
    local sums = {}
    for i, part in ipairs(data) do sums[i] = nebula.crypto.base64((">I4"):pack(nebula.crypto.crc32c(part))) end
    local complete
    for _, entry in ipairs(proxy:log()) do
      local number = tonumber(entry.target:match "partNumber=(%d)")
      if number then assert.equal(sums[number], entry.headers["x-amz-checksum-crc32c"]) end
      if entry.target:find "uploads" then assert.equal("CRC32C", entry.headers["x-amz-checksum-algorithm"]) end
      if entry.method == "POST" and not number then complete = entry.body end
    end
    for _, sum in ipairs(sums) do assert.truthy(complete:find("<ChecksumCRC32C>" .. sum .. "<", 1, true)) end
  end)

  it("is not sent where nobody asked for it", function()
    proxy:rules {}
    local bucket = connect()
    bucket:put("plain", "x")
    bucket:get "plain"
    for _, entry in ipairs(proxy:log()) do
      for header in pairs(entry.headers) do assert.is_nil(header:find("x-amz-checksum", 1, true), header) end
    end
  end)
end)

describe("an upload in parts", function()
  local data = {}
  for i = 1, 5 do data[i] = string.char(96 + i):rep(5 * MIB) end
  data = table.concat(data)

  it("sends the part again that failed, and no other", function()
    proxy:rules { answer(500, { path = "partNumber=3", times = 2 }) }
    connect():put("part", data)
    for number = 1, 5 do assert.equal(number == 3 and 3 or 1, seen("partNumber=" .. number)) end
    assert.is_true(direct:get "part" == data)
  end)

  it("whose part cannot be sent leaves nothing behind", function()
    proxy:rules { answer(500, { path = "partNumber=3" }) }
    local bucket = connect { attempts = 2 }
    assert.equal("InternalError", failure(bucket.put, bucket, "nopart", data).code)
    assert.is_false(direct:exists "nopart")
    assert.same({}, direct:uploads { prefix = "nopart" })
  end)

  it("is whole where the answer to its completion was lost", function()
    proxy:rules { { ["do"] = "lose", method = "POST", path = "uploadId=", times = 1 } }
    assert.equal(#data, connect():put("lost", data).size)
    assert.is_true(direct:get "lost" == data)
  end)

  it("of a process that was killed shows up, and is aborted by its age", function()
    local host = require "spec.support.nebula"
    proxy:rules { { ["do"] = "hold", path = "partNumber=2" } }
    local killed = host.spawn {
      args = { "-e", ([[
        local bucket = nebula.s3.connect { endpoint = %q, bucket = %q, access_key_id = %q, secret_access_key = %q }
        bucket:put("killed", ("x"):rep(11 << 20), { progress = function() print "sent" io.stdout:flush() end })
      ]]):format(proxy.url, name, server.access_key_id, server.secret_access_key) },
    }
    assert.truthy(killed:read():find "sent")
    killed:kill(9)
    killed:wait()
    assert.is_false(direct:exists "killed")
    assert.equal("killed", direct:uploads { prefix = "killed" }[1].key)
    assert.same({}, direct:uploads { prefix = "killed", older_than = "1h" })
    assert.equal(0, direct:abort_uploads { prefix = "killed", older_than = "1h" })
    assert.equal(1, direct:abort_uploads { prefix = "killed", older_than = 0 })
    assert.same({}, direct:uploads { prefix = "killed" })
  end)
end)

describe("a copy that is too large for one request", function()
  it("goes in parts", function()
    direct:put("large", ("x"):rep(6 * MIB))
    local rule = answer(400, { method = "PUT", path = "/copied", times = 1 })
    for _, code in ipairs { "EntityTooLarge", "InvalidRequest" } do
      rule.body = "<Error><Code>" .. code .. "</Code></Error>"
      -- The server says it is 6 GiB long; that is what is asked for, and refused as a range.
      proxy:rules { rule, { method = "HEAD", path = "/large", header = "Content-Length: 6442450944" } }
      local err = failure(function() connect():copy("large", "copied") end)
      assert.equal("InvalidRange", err.code)
      assert.is_true(seen "partNumber=" > 0)
      assert.same({}, direct:uploads { prefix = "copied" })
      proxy:rules { rule } -- 6 MiB would have fit: the refusal meant something else
      assert.equal(code, failure(function() connect():copy("large", "copied") end).code)
    end
  end)
end)

describe("a conditional write whose answer is lost", function()
  it("has an unknown outcome, and is not sent twice", function()
    proxy:rules { { ["do"] = "lose", method = "PUT" } }
    local err = failure(function() connect():put("once", "x", { if_none_match = "*" }) end)
    assert.equal("unknown_outcome", err.kind)
    assert.equal(1, seen("/once", "PUT"))
    assert.equal("x", (direct:get "once"))
  end)
end)

describe("one more request corrects", function()
  local AHEAD = 20 * 60

  it("a clock that is wrong", function()
    local theirs = os.date("!%a, %d %b %Y %H:%M:%S GMT", os.time() + AHEAD)
    proxy:rules {
      answer(403, {
        times = 1, headers = { "Date: " .. theirs }, body = "<Error><Code>RequestTimeTooSkewed</Code></Error>",
      }),
      answer(200, { body = "data" }),
    }
    local bucket = connect()
    assert.equal("data", (bucket:get "x"))
    assert.equal("data", (bucket:get "x")) -- and is known from then on
    local log = proxy:log()
    assert.equal(3, #log)
    local function sent(entry)
      local y, mo, d, h, mi, s = entry.headers["x-amz-date"]:match "(....)(..)(..)T(..)(..)(..)Z"
      return nebula.time.parse(("%s-%s-%sT%s:%s:%sZ"):format(y, mo, d, h, mi, s))
    end
    local function about(seconds) return seconds > AHEAD - 60 and seconds < AHEAD + 60 end
    assert.is_true(about(sent(log[2]) - sent(log[1])))
    assert.is_true(about(sent(log[3]) - sent(log[1])))
  end)

  it("a wrong region, by header or by text", function()
    for _, rule in ipairs {
      answer(301, { headers = { "x-amz-bucket-region: eu-north-1" } }),
      answer(400, { body = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-north-1</Region></Error>" }),
    } do
      rule.times = 1
      proxy:rules { rule, answer(200, { body = "data" }) }
      assert.equal("data", (connect():get "x"))
      local log = proxy:log()
      assert.equal(2, #log)
      assert.truthy(log[1].headers.authorization:find("/us-east-1/s3/", 1, true))
      assert.truthy(log[2].headers.authorization:find("/eu-north-1/s3/", 1, true))
    end
  end)

  it("a temporary redirect to another address, signed for that", function()
    local other <close> = http_proxy.start(server.endpoint())
    direct:put("moved", "data")
    proxy:rules { answer(307, { headers = { "Location: " .. other.url .. "/" .. name .. "/moved" } }) }
    assert.equal("data", (connect():get "moved"))
    assert.equal(1, #proxy:log())
    assert.equal(1, #other:log())
  end)

  it("no redirect that leads nowhere, or around in circles", function()
    for _, location in ipairs { "Location: " .. proxy.url .. "/" .. name .. "/x", "Location: ftp://x/", "X: y" } do
      proxy:rules { answer(307, { headers = { location } }) }
      local err = failure(function() connect():get "x" end)
      assert.equal("TemporaryRedirect", err.code)
      assert.is_true(seen "/x" <= 2)
    end
  end)

  it("an answer that is no XML", function()
    for _, body in ipairs { "", "<html><body>502</body></html>", ("<a>"):rep(10000), "\0\1\2", ("x"):rep(200000) } do
      proxy:rules { answer(200, { body = body }) }
      local bucket = connect { attempts = 1 }
      assert.equal("MalformedAnswer", failure(function() bucket:list()() end).code)
      assert.equal("s3", failure(bucket.copy, bucket, "a", "b").kind)
    end
  end)
end)
