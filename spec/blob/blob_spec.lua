-- The directory store: what goes in comes out, in order, verified, and never outside its directory.
local nebula = require "nebula"
local fs, task, crypto = nebula.fs, nebula.task, nebula.crypto

local function refused(kind, code, fn, ...)
  local value, err = nebula.try(fn, ...)
  assert.is_nil(value)
  assert.equal(kind, err.kind, err.message)
  assert.equal(code, err.code, err.message)
  if kind ~= "validation" then assert.equal("blob", err.source) end
  return err
end

local function keys_of(store, options)
  local keys = {}
  for object in store:list(options) do keys[#keys + 1] = object.key or ("<" .. object.prefix .. ">") end
  return keys
end

local function files_of(path)
  local files = {}
  for entry in fs.walk(path) do
    if entry.type == "file" and not entry.relative:find "%%lock/%x%x$" then files[#files + 1] = entry.relative end
  end
  return files
end

local HOSTILE = {
  "../x", "a/../../x", "..", ".", "./a", "a//b", "//", "/", "/etc/passwd", "a/", "a/b/", ".hidden", "a/.git/config",
  "%2e%2e/x", "%2e", "%", "%%", "%-", "a%", "a%+", "%tmp/x", "%lock", "é€😀", "a b", " ", "a\r\nb", "\n", "\127",
    "\xff\xfe",
  "C:\\x", "con", "a*?\"<>|", "~", "-rf", "$HOME", "`id`", ("x"):rep(1024), ("y"):rep(79), ("y"):rep(80),
  ("y"):rep(81), ("y"):rep(80) .. "/z", ("é"):rep(512), ("/"):rep(100), ("a/"):rep(100), ("\1"):rep(300),
}

describe("nebula.blob", function()
  local root, store
  before_each(function()
    root = fs.tempdir()
    store = nebula.blob.open { url = "file:" .. root .. "/store" }
  end)
  after_each(function() fs.remove(root, { recursive = true }) end)

  it("stores, gives back and describes an object", function()
    local data = crypto.random(100000)
    local stored = store:put("a/b.bin", data, { content_type = "application/x", metadata = { Owner = "me",
      empty = "" } })
    assert.same({ etag = crypto.sha256(data), size = 100000, last_modified = stored.last_modified,
      url = "file:" .. root .. "/store/a/b.bin" }, stored)
    local back, info = store:get "a/b.bin"
    assert.equal(data, back)
    assert.equal("application/x", info.content_type)
    assert.same({ owner = "me", empty = "" }, info.metadata)
    assert.same(info, store:head "a/b.bin")
    assert.equal(100000, info.size)
    assert.equal(stored.etag, info.etag)
    assert.is_true(math.abs(nebula.time.parse(info.last_modified) - nebula.time.now()) < 60)
    assert.is_true(store:exists "a/b.bin")
    store:put("a/b.bin", "")
    assert.equal("", (store:get "a/b.bin"))
    assert.same({}, store:head("a/b.bin").metadata)
  end)

  it("gives nil for what is not there", function()
    assert.is_nil(store:get "none")
    assert.is_nil(store:head "none/below")
    assert.is_nil(store:reader "none")
    assert.is_nil(store:download("none", { file = root .. "/x" }))
    assert.is_false(store:exists "none")
    store:delete "none"
    store:put("a", "x")
    assert.is_nil(store:get "a/b")
  end)

  it("opens by path or URL, and refuses the rest", function()
    store:put("k", "v")
    for _, options in ipairs { { path = root .. "/store" }, { path = root .. "/store///" },
      { url = "file://" .. root .. "/store" } } do
      assert.equal("v", (nebula.blob.open(options):get "k"))
    end
    local odd = nebula.blob.open { path = root .. "/with space%41é" }
    assert.equal("file:" .. root .. "/with%20space%2541%C3%A9/k%25", odd:put("k%", "v").url)
    assert.equal("v", (nebula.blob.open { url = odd:url() }:get "k%"))
    for _, options in ipairs { {}, { url = "http://x" }, { url = "file:" }, { url = "file://host/x" }, { path = "" },
      { path = "a", url = "file:/a" } } do
      refused("validation", nil, nebula.blob.open, options)
    end
    fs.write(root .. "/file", "x")
    local err = refused("io", "ENOTDIR", nebula.blob.open, { path = root .. "/file/store" })
    assert.truthy(err.message:find(root .. "/file/store", 1, true))
  end)

  it("keeps hostile keys apart and inside", function()
    for _, key in ipairs(HOSTILE) do store:put(key, "of " .. key, { if_none_match = "*" }) end
    for _, key in ipairs(HOSTILE) do assert.equal("of " .. key, (store:get(key)), key) end
    assert.equal(#HOSTILE, #files_of(root .. "/store"))
    assert.equal(#HOSTILE, #files_of(root))
    local sorted = table.move(HOSTILE, 1, #HOSTILE, 1, {})
    table.sort(sorted, function(a, b) return a < b end)
    assert.same(sorted, keys_of(store))
    for _, key in ipairs(HOSTILE) do store:delete(key) end
    assert.same({}, keys_of(store))
    assert.same({}, files_of(root))
    for _, key in ipairs { "", "a\0b", ("x"):rep(1025), 12 } do
      for _, method in ipairs { "put", "get", "head", "delete", "reader", "writer" } do
        refused("validation", nil, store[method], store, key, method == "put" and "x" or nil)
      end
    end
  end)

  it("keeps keys of a thousand components", function()
    local deep = { ("/"):rep(1024), ("a/"):rep(512) }
    for _, key in ipairs(deep) do store:put(key, key) end
    assert.same(deep, keys_of(store))
    for _, key in ipairs(deep) do assert.equal(key, (store:get(key))) end
    store:delete_many(deep)
    assert.same({}, keys_of(store))
  end)

  it("lists in the order of bytes, by prefix, delimiter and start", function()
    math.randomseed(7)
    local letters, all, seen = { "a", "b", "/", "-", "0", "é", ".", "%", "\1", "\xff", ("q"):rep(79), "//" }, {}, {}
    while #all < 400 do
      local parts = {}
      for i = 1, math.random(1, 7) do parts[i] = letters[math.random(#letters)] end
      local key = table.concat(parts)
      if not seen[key] then
        seen[key] = true
        all[#all + 1] = key
      end
    end
    task.map(all, function(key) store:put(key, key) end, { concurrency = 8 })
    table.sort(all)
    assert.same(all, keys_of(store))
    assert.same(all, keys_of(store, { page_size = 7 }))
    for _, prefix in ipairs { "a", "a/", "b-", "/", "é", ("q"):rep(79), ("q"):rep(80), ("q"):rep(79) .. "a",
      "zz", "a//" } do
      for _, delimiter in ipairs { "", "/", "-", "//" } do
        for _, after in ipairs { "", "a", "b/", all[200] } do
          local want, last = {}, nil
          for _, key in ipairs(all) do
            if key:sub(1, #prefix) == prefix and key > after then
              local _, stop = key:find(delimiter, #prefix + 1, true)
              local given = delimiter ~= "" and stop and ("<" .. key:sub(1, stop) .. ">") or key
              if given ~= last then want[#want + 1] = given end
              last = given
            end
          end
          local options = { prefix = prefix, delimiter = delimiter, start_after = after, page_size = 11 }
          assert.same(want, keys_of(store, options))
        end
      end
    end
    assert.equal(13, #keys_of(store, { limit = 13, page_size = 5 }))
    for object in store:list { limit = 3 } do
      assert.equal(#object.key, object.size)
      assert.equal(crypto.sha256(object.key), object.etag)
    end
  end)

  it("keeps conditions", function()
    local first = store:put("k", "1", { if_none_match = "*" })
    refused("conflict", "PreconditionFailed", store.put, store, "k", "2", { if_none_match = "*" })
    refused("conflict", "PreconditionFailed", store.put, store, "k", "2", { if_match = "nope" })
    refused("conflict", "PreconditionFailed", store.put, store, "none", "2", { if_match = "*" })
    local second = store:put("k", "2", { if_match = '"' .. first.etag .. '"' })
    refused("conflict", "PreconditionFailed", store.get, store, "k", { if_match = first.etag })
    refused("conflict", "PreconditionFailed", store.delete, store, "k", { if_match = first.etag })
    assert.equal("2", (store:get("k", { if_match = second.etag })))
    store:delete("k", { if_match = second.etag })
    assert.is_false(store:exists "k")
    assert.same({}, files_of(root))
  end)

  it("lets exactly one of many writers create, and none lose a compare-and-set", function()
    local won = 0
    local numbers = {}
    for i = 1, 32 do numbers[i] = i end
    task.map(numbers, function(i)
      if nebula.try(store.put, store, "one", tostring(i), { if_none_match = "*" }) then won = won + 1 end
    end, { concurrency = 32 })
    assert.equal(1, won)
    store:put("count", "0")
    task.map(numbers, function()
      while true do
        local value, info = store:get "count"
        local done, err = nebula.try(store.put, store, "count", tostring(value + 1 | 0), { if_match = info.etag })
        if done then return end
        assert.equal("conflict", err.kind)
      end
    end, { concurrency = 8 })
    assert.equal("32", (store:get "count"))
  end)

  it("survives puts and deletes that meet in one directory", function()
    local numbers = {}
    for i = 1, 200 do numbers[i] = i end
    task.map(numbers, function(i)
      local key = "deep/er/" .. i % 4
      store:put(key, "x")
      store:delete(key)
    end, { concurrency = 16 })
    assert.same({}, keys_of(store))
    assert.is_false(fs.exists(root .. "/store/deep"))
  end)

  it("finds every damage", function()
    local data = ("data "):rep(1000)
    store:put("k", data, { metadata = { a = "b" } })
    local path = root .. "/store/" .. files_of(root .. "/store")[1]
    local good = fs.read(path)
    local function damaged(bytes)
      fs.write(path, bytes)
      refused("io", "BadDigest", store.get, store, "k")
      refused("io", "BadDigest", store.download, store, "k", { file = root .. "/out" })
      assert.is_false(fs.exists(root .. "/out"))
      refused("io", "BadDigest", function()
        local reader <close> = store:reader "k"
        for _ in reader do end -- luacheck: ignore
      end)
    end
    for _, at in ipairs { 1, 2500, #data, #data + 1, #data + 3, #good - 56, #good - 40, #good - 35, #good - 10,
      #good } do
      damaged(good:sub(1, at - 1) .. string.char(good:byte(at) ~ 1) .. good:sub(at + 1))
    end
    for _, length in ipairs { 0, 10, 56, #data, #good - 1 } do damaged(good:sub(1, length)) end
    damaged(good .. "x")
    assert.same({ { key = "k", damaged = true } }, (function()
      local all = {}
      for object in store:list() do all[#all + 1] = object end
      return all
    end)())
    store:put("k", "whole again")
    assert.equal("whole again", (store:get "k"))
  end)

  it("reads ranges, and no more than it may", function()
    store:put("k", "0123456789")
    local function range(...) return (store:get("k", { range = { ... } })) end
    assert.equal("234", range(2, 4))
    assert.equal("789", range(7))
    assert.equal("89", range(-2))
    assert.equal("0123456789", range(-20))
    assert.equal("9", range(9, 100))
    refused("validation", "InvalidRange", range, 20)
    refused("validation", nil, store.get, store, "k", { range = { 4, 2 } })
    refused("validation", nil, store.get, store, "k", { range = 4 })
    refused("limit", nil, store.get, store, "k", { max_bytes = 9 })
    assert.equal(10, #store:get("k", { max_bytes = 10 }))
  end)

  it("takes files, functions and readers", function()
    local data = crypto.random(1500000)
    fs.write(root .. "/in", data)
    assert.equal(crypto.sha256(data), store:put("file", { file = root .. "/in" }).etag)
    local pieces = 0
    store:put("function", function()
      pieces = pieces + 1
      task.sleep(0)
      return pieces <= 3 and ("x"):rep(pieces) or nil
    end)
    assert.equal("xxxxxx", (store:get "function"))
    do
      local file <close> = fs.open(root .. "/in")
      store:put("handle", file)
    end
    store:put("reader", store:reader "handle")
    assert.equal(#data, store:reader("handle"):info().size)
    assert.equal(data, (store:get "reader"))
    assert.equal("file:" .. root .. "/store/reader", store:url "reader")
    local err = refused("io", "ENOENT", store.put, store, "none", { file = root .. "/none" })
    assert.truthy(err.message:find(root .. "/none", 1, true))
    for _, bad in ipairs { 12, true, {}, { file = 1 } } do
      refused("validation", nil, store.put, store, "bad", bad)
    end
    refused("io", nil, store.put, store, "bad", function() return nil, "unplugged" end)
    store:put("io", assert(io.open(root .. "/in", "rb")))
    assert.equal(crypto.sha256(data), store:head("io").etag)
    local _, thrown = nebula.try(store.put, store, "bad", function() error "broken reader" end)
    assert.truthy(tostring(thrown):find("broken reader", 1, true))
    refused("validation", nil, store.put, store, "bad", function() return 12 end)
    assert.is_false(store:exists "bad")
    assert.is_nil(files_of(root .. "/store/%tmp")[1])
  end)

  it("writes in pieces, and stores nothing that is not finished", function()
    do
      local writer <close> = store:writer("k", { content_type = "text/plain", if_none_match = "*" })
      for i = 1, 10 do writer:write(i .. "\n") end
      assert.is_false(store:exists "k")
      local stored = writer:finish()
      assert.equal(21, stored.size)
      assert.equal("file:" .. root .. "/store/k", stored.url)
      refused("validation", nil, writer.write, writer, "x")
    end
    assert.equal("text/plain", store:head("k").content_type)
    do
      local writer <close> = store:writer "unfinished"
      writer:write "x"
    end
    nebula.try(function()
      local writer <close> = store:writer "failed"
      writer:write "x"
      error "in the middle"
    end)
    local late <close> = store:writer("k", { if_none_match = "*" })
    late:write "y"
    refused("conflict", "PreconditionFailed", late.finish, late)
    store:writer("empty"):finish()
    assert.same({ "empty", "k" }, keys_of(store))
    assert.same({}, files_of(root .. "/store/%tmp"))
  end)

  it("leaves nothing behind when a task is cancelled in the middle", function()
    for i = 1, 30 do
      local writer = task.spawn(function()
        store:put("k" .. i % 3, function() return ("x"):rep(100000) end)
      end)
      for _ = 1, i do task.sleep(0) end
      writer:cancel()
      nebula.try(writer.join, writer)
    end
    collectgarbage()
    store:put("last", "x")
    assert.same({ "last" }, keys_of(store))
    assert.same({}, files_of(root .. "/store/%tmp"))
  end)

  it("copies and downloads", function()
    store:put("a", "data", { content_type = "text/x", metadata = { a = "1" } })
    local stored = store:copy("a", "b/c")
    assert.equal(crypto.sha256 "data", stored.etag)
    assert.equal("text/x", store:head("b/c").content_type)
    store:copy("a", "a", { metadata = { b = "2" } })
    assert.same({ b = "2" }, store:head("a").metadata)
    refused("not_found", "NoSuchKey", store.copy, store, "none", "x")
    refused("conflict", "PreconditionFailed", store.copy, store, "a", "b/c", { if_none_match = "*" })
    local info = store:download("b/c", { file = root .. "/out" })
    assert.equal("data", fs.read(root .. "/out"))
    assert.equal(4, info.size)
    refused("io", "ENOENT", store.download, store, "a", { file = root .. "/none/out" })
    refused("validation", nil, store.download, store, "a")
  end)

  it("deletes many at once", function()
    for i = 1, 50 do store:put("d/" .. i, "x") end
    local keys = keys_of(store)
    keys[#keys + 1] = "none"
    assert.equal(51, store:delete_many(keys))
    assert.same({}, keys_of(store))
    assert.equal(0, store:delete_many {})
    refused("validation", nil, store.delete_many, store, { "a", "" })
  end)

  it("says what is wrong where nothing can be written, and leaves no part", function()
    store:put("k", "old")
    local host = require "spec.support.nebula"
    local result = require("spec.support.child").run {
      file = "/bin/sh",
      args = { "-c", [[ulimit -f 100; exec "$@"]], "sh", host.program, "-e", ([[
        local nebula = require "nebula"
        local store = nebula.blob.open { path = %q }
        for _, data in ipairs { ("x"):rep(1000000), function() return ("x"):rep(10000) end,
          { file = "/dev/zero" } } do
          local _, err = nebula.try(store.put, store, "k", data)
          print(err.kind, err.code, err.source)
        end]]):format(root .. "/store") },
    }
    assert.equal(("io\tEFBIG\tblob\n"):rep(3), result.stdout, result.stderr)
    assert.equal("old", (store:get "k"))
    assert.same({}, files_of(root .. "/store/%tmp"))
  end)

  it("is created and deleted as a whole", function()
    assert.is_true(store:bucket_exists())
    local writer = store:writer "under way"
    writer:write "x"
    refused("conflict", "BucketNotEmpty", store.delete_bucket, store)
    writer:abort()
    store:delete_bucket()
    assert.is_false(store:bucket_exists())
    assert.is_false(fs.exists(root .. "/store"))
    assert.same({}, store:uploads())
    store:create_bucket()
    assert.is_true(store:bucket_exists())
    store:put("k", "v")
    refused("conflict", "BucketNotEmpty", store.delete_bucket, store)
    assert.equal("v", (store:get "k"))
  end)

  it("keeps at most ten tags, and none that could not be told", function()
    local tags = {}
    for i = 1, 10 do tags["t" .. i] = ("v"):rep(256) end
    store:put("k", "v", { tags = tags })
    assert.same(tags, store:tag "k")
    tags.eleventh = "x"
    for _, bad in ipairs { tags, { [""] = "x" }, { [("n"):rep(129)] = "x" }, { a = ("v"):rep(257) }, { a = "b\0c" },
      { "x" }, { a = {} } } do
      refused("validation", nil, store.tag, store, "k", bad)
      refused("validation", nil, store.put, store, "k", "v", { tags = bad })
    end
  end)

  it("loses no tag or object where both are written at once", function()
    store:put("k", "0")
    local numbers = {}
    for i = 1, 16 do numbers[i] = i end
    task.map(numbers, function(i)
      if i % 2 == 0 then store:tag("k", { n = tostring(i) }) else store:put("k", tostring(i)) end
    end, { concurrency = 8 })
    assert.equal(1, tonumber((store:get "k")) % 2)
    assert.same({ "k" }, keys_of(store))
    assert.same({}, files_of(root .. "/store/%tmp"))
  end)

  it("knows the upload of a process that was killed, and removes it", function()
    local host = require "spec.support.nebula"
    local killed = host.spawn {
      args = { "-e", ([[
        local store = require("nebula").blob.open { path = %q }
        local writer = store:writer "cut/off"
        writer:write "some"
        print "written"
        io.stdout:flush()
        require("nebula").task.sleep(600)
      ]]):format(root .. "/store") },
    }
    killed:read()
    killed:kill(9)
    killed:wait()
    local left = store:uploads()
    assert.equal(1, #left)
    assert.equal("cut/off", left[1].key)
    assert.equal(1, store:abort_uploads { older_than = 0 })
    assert.same({}, files_of(root .. "/store/%tmp"))
    store:abort("cut/off", "../../k") -- no id of ours, and nothing happens
    store:abort("cut/off", ("1"):rep(400))
  end)

  it("refuses options it does not know", function()
    refused("validation", nil, store.put, store, "k", "x", { if_none_matches = "*" })
    refused("validation", nil, store.put, store, "k", "x", { metadata = { a = ("x"):rep(3000) } })
    refused("validation", nil, store.put, store, "k", "x", { content_type = "a\0b" })
    refused("validation", nil, store.put, store, "k", "x", { metadata = { a = {} } })
    refused("validation", nil, store.list, store, { prefixes = "a" })
  end)
end)
