-- stream_spec.lua: objects larger than one request, and as streams, against a real S3 server.
local nebula = require "nebula"
local directory = require "spec.support.directory"
local server = require "spec.support.s3"

local MIB = 1 << 20
local bucket, files, big

local function failure(fn, ...)
  local _, err = nebula.try(fn, ...)
  return err
end

local function write_file(name, data)
  local path = files .. "/" .. name
  local file <close> = assert(io.open(path, "wb"))
  file:write(data)
  return path
end

local function read_file(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read "a"
end

-- A reader of `count` pieces that are all different.
local function pieces(count, size)
  local i = 0
  return function()
    i = i + 1
    if i <= count then return (("%08d"):format(i)):rep(size // 8) end
  end
end

setup(function()
  bucket = nebula.s3.connect(server.options())
  files = directory.make "s3-stream"
  local parts = {}
  for i = 1, 12 do parts[i] = string.char(64 + i):rep(MIB) end
  big = table.concat(parts) .. "tail"
end)

teardown(function() directory.remove(files) end)

describe("bucket:put of more than 5 MiB", function()
  it("sends a string in parts", function()
    local told = {}
    local stored = bucket:put("string", big, {
      content_type = "text/x-letters", metadata = { a = "b" },
      progress = function(bytes) told[#told + 1] = bytes end,
    })
    assert.truthy(stored.etag:match("^%x+%-3$"))
    assert.equal(#big, stored.size)
    assert.equal(#big, told[#told])
    local data, info = bucket:get("string")
    assert.is_true(data == big)
    assert.equal("text/x-letters", info.content_type)
    assert.equal("b", info.metadata.a)
  end)

  it("sends a file", function()
    local stored = bucket:put("file", { file = write_file("big", big) })
    assert.equal(#big, stored.size)
    assert.is_true((bucket:get("file")) == big)
  end)

  it("sends what a function gives, of unknown length", function()
    local stored = bucket:put("function", pieces(200, 80000))
    assert.equal(200 * 80000, stored.size)
    local read = pieces(200, 80000)
    local whole = {}
    for piece in read do whole[#whole + 1] = piece end
    assert.is_true((bucket:get("function")) == table.concat(whole))
  end)

  it("sends what a reader of another object gives", function()
    bucket:put("source", big)
    local source <close> = bucket:reader("source")
    bucket:put("target", source)
    assert.is_true((bucket:get("target")) == big)
  end)

  it("holds a condition", function()
    bucket:put("taken", "x")
    assert.equal("conflict", failure(bucket.put, bucket, "taken", big, { if_none_match = "*" }).kind)
    assert.equal("x", (bucket:get("taken")))
    bucket:put("free", big, { if_none_match = "*" })
    assert.equal(#big, bucket:head("free").size)
  end)

  it("takes larger parts and more of them at once", function()
    assert.truthy(bucket:put("parts", big, { part_size = 6 * MIB, concurrency = 8 }).etag:match("%-3$"))
    assert.equal("validation", failure(bucket.put, bucket, "parts", big, { part_size = MIB }).kind)
  end)
end)

describe("bucket:put of an empty source", function()
  it("stores an empty object", function()
    bucket:put("empty-function", function() return nil end)
    bucket:put("empty-file", { file = write_file("empty", "") })
    assert.equal(0, bucket:head("empty-function").size)
    assert.equal(0, bucket:head("empty-file").size)
  end)
end)

describe("a put that fails leaves nothing behind:", function()
  local function nothing(key)
    assert.is_false(bucket:exists(key))
    assert.same({}, bucket:uploads { prefix = key })
  end

  it("a reader that raises", function()
    local read = pieces(100, 160000)
    local count = 0
    local err = failure(bucket.put, bucket, "raises", function()
      count = count + 1
      if count > 80 then error("the source is gone") end
      return read()
    end)
    assert.truthy(err.message:find("the source is gone", 1, true))
    nothing "raises"
  end)

  it("a reader that gives something else than strings", function()
    local err = failure(bucket.put, bucket, "number", function() return 7 end)
    assert.equal("validation", err.kind)
    assert.truthy(err.message:find("returned a number", 1, true))
    nothing "number"
  end)

  it("a file that is not there, or a directory", function()
    assert.equal("ENOENT", failure(bucket.put, bucket, "nofile", { file = files .. "/none" }).code)
    assert.equal("EISDIR", failure(bucket.put, bucket, "nofile", { file = files }).code)
    nothing "nofile"
  end)

  it("a task that is cancelled in the middle", function()
    local begun = nebula.task.channel(1)
    local task = nebula.task.spawn(function()
      local read = pieces(1000, 800000)
      bucket:put("cancelled", read, { progress = function() pcall(begun.send, begun, true) end })
    end)
    begun:receive()
    task:cancel()
    assert.is_false((pcall(task.join, task)))
    nothing "cancelled"
  end)
end)

describe("bucket:writer", function()
  it("stores what was written once it is finished", function()
    local writer <close> = bucket:writer("written", { content_type = "text/plain" })
    for i = 1, 1000 do writer:write("line ", i, "\n") end
    local stored = writer:finish()
    assert.equal("text/plain", bucket:head("written").content_type)
    assert.equal(stored.size, bucket:head("written").size)
    assert.equal("line 1\nline 2\n", (bucket:get("written", { range = { 0, 13 } })))
    assert.equal("validation", failure(writer.write, writer, "more").kind)
  end)

  it("sends parts while it is written", function()
    local writer <close> = bucket:writer("parts-written")
    for _ = 1, 13 do writer:write(("x"):rep(MIB)) end
    assert.is_nil(bucket:head("parts-written"))
    assert.truthy(writer:finish().etag:match("%-3$"))
    assert.equal(13 * MIB, bucket:head("parts-written").size)
  end)

  it("leaves nothing behind where it is closed unfinished", function()
    do
      local writer <close> = bucket:writer("unfinished")
      for _ = 1, 11 do writer:write(("x"):rep(MIB)) end
    end
    assert.is_false(bucket:exists("unfinished"))
    assert.same({}, bucket:uploads { prefix = "unfinished" })
  end)

  it("compresses on the way, and a reader decompresses", function()
    for _, kind in ipairs { "zstd", "gzip" } do
      local stored
      do
        local writer <close> = bucket:writer("compressed." .. kind, { compress = kind })
        for i = 1, 100000 do writer:write("line ", i, "\n") end
        stored = writer:finish()
      end
      assert.is_true(stored.size < 400000)
      local whole = {}
      local reader <close> = bucket:reader("compressed." .. kind, { decompress = kind })
      for piece in reader do whole[#whole + 1] = piece end
      local text = table.concat(whole)
      assert.equal("line 1\nline 2\n", text:sub(1, 14))
      assert.equal("line 100000\n", text:sub(-12))
    end
    assert.equal("validation", failure(bucket.writer, bucket, "x", { compress = "lzma" }).kind)
  end)

  it("tells a damaged compressed object", function()
    for _, kind in ipairs { "zstd", "gzip" } do
      local writer <close> = bucket:writer("whole", { compress = kind })
      writer:write(("text "):rep(1000))
      writer:finish()
      local data = bucket:get("whole")
      bucket:put("cut", data:sub(1, -2))
      bucket:put("other", "no such stream")
      for _, key in ipairs { "cut", "other" } do
        local reader <close> = bucket:reader(key, { decompress = kind })
        local err = failure(function()
          for _ in reader do end
        end)
        assert.equal("serialization", err and err.kind)
      end
    end
  end)
end)

describe("bucket:reader", function()
  it("gives an object piece by piece", function()
    bucket:put("read", big)
    local reader <close> = bucket:reader("read")
    assert.equal(#big, reader:info().size)
    local whole = { reader:read(10) }
    assert.equal(("A"):rep(10), whole[1])
    for piece in reader do whole[#whole + 1] = piece end
    assert.is_true(table.concat(whole) == big)
    assert.is_nil(reader:read())
  end)

  it("is nil where there is no object", function() assert.is_nil(bucket:reader("absent")) end)

  it("may be left at any time", function()
    do
      local reader <close> = bucket:reader("read")
      reader:read()
    end
    assert.equal(#big, bucket:head("read").size)
  end)

  it("may be closed twice, and then says so", function()
    local reader = bucket:reader("read")
    reader:close()
    reader:close()
    assert.equal("validation", failure(reader.read, reader).kind)
  end)
end)

describe("bucket:download", function()
  it("writes an object into a file, in ranges", function()
    bucket:put("down", big, { metadata = { a = "b" } })
    local told = 0
    local info = bucket:download("down", {
      file = files .. "/down", part_size = 2 * MIB, progress = function(bytes) told = bytes end,
    })
    assert.equal("b", info.metadata.a)
    assert.equal(#big, told)
    assert.is_true(read_file(files .. "/down") == big)
  end)

  it("writes an empty object", function()
    bucket:put("none", "")
    for _ = 1, 30 do bucket:download("none", { file = files .. "/none" }) end -- its file is named once each time
    assert.equal("", read_file(files .. "/none"))
  end)

  it("takes the place of a file only when it is whole", function()
    local path = write_file("kept", "before")
    assert.is_nil(bucket:download("absent", { file = path }))
    assert.equal("before", read_file(path))
    bucket:download("down", { file = path })
    assert.is_true(read_file(path) == big)
  end)

  it("tells where it cannot write", function()
    local err = failure(bucket.download, bucket, "down", { file = files .. "/no/such/directory" })
    assert.equal("io", err.kind)
    assert.equal("ENOENT", err.code)
    assert.equal("validation", failure(bucket.download, bucket, "down").kind)
  end)
end)

describe("bucket:copy in parts", function()
  it("keeps the bytes and what is said about them, or says something else", function()
    bucket:put("copy-from", big, { content_type = "text/x", cache_control = "no-store", metadata = { a = "b" } })
    local copied = bucket:copy("copy-from", "copy/ü", { part_size = 5 * MIB })
    assert.truthy(copied.etag:match("^%x+%-3$"))
    local data, info = bucket:get("copy/ü")
    assert.is_true(data == big)
    assert.equal("text/x", info.content_type)
    assert.equal("no-store", info.cache_control)
    assert.same({ a = "b" }, info.metadata)
    bucket:copy("copy-from", "copy/2", { part_size = 5 * MIB, metadata = { c = "d" } })
    assert.same({ c = "d" }, bucket:head("copy/2").metadata)
  end)

  it("takes one request where the object fits into a part", function()
    bucket:put("small", "data", { metadata = { a = "b" } })
    bucket:copy("small", "small2", { part_size = 5 * MIB })
    assert.same({ a = "b" }, bucket:head("small2").metadata)
  end)

  it("reaches into another bucket", function()
    local options = server.options()
    nebula.s3.connect(options):put("elsewhere", big)
    bucket:copy("elsewhere", "here", { from_bucket = options.bucket, part_size = 6 * MIB })
    assert.is_true((bucket:get "here") == big)
  end)

  it("holds a condition, tells an absent source and leaves nothing behind", function()
    assert.equal("not_found", failure(bucket.copy, bucket, "absent", "copy/3", { part_size = 5 * MIB }).kind)
    local err = failure(bucket.copy, bucket, "copy-from", "copy/2", { part_size = 5 * MIB, if_none_match = "*" })
    assert.equal("conflict", err.kind)
    assert.same({ c = "d" }, bucket:head("copy/2").metadata)
    assert.same({}, bucket:uploads { prefix = "copy/" })
  end)
end)
