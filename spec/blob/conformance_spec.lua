-- conformance_spec.lua: what scripts may rely on whatever holds the blobs: the same behaviours of an S3
-- bucket and of a directory.
local nebula = require "nebula"
local directory = require "spec.support.directory"
local server = require "spec.support.s3"

local function failure(fn, ...)
  local _, err = nebula.try(fn, ...)
  return err
end

local stores = {
  ["an S3 bucket"] = function() return nebula.s3.connect(server.options()) end,
  ["an S3 bucket over HTTPS"] = function()
    local options = server.options()
    options.endpoint, options.ca_file = server.tls_endpoint(), server.ca_file()
    return nebula.s3.connect(options)
  end,
  ["an S3 bucket without signed payloads, with CRC32C"] = function()
    local options = server.options()
    options.unsigned_payload, options.checksum = true, "crc32c"
    return nebula.s3.connect(options)
  end,
  ["an S3 bucket by the name of its host"] = function()
    local options = server.options()
    options.endpoint, options.path_style = "http://" .. server.dns_name, false
    options.proxy = server.endpoint() -- the gateway takes requests as a proxy gets them
    return nebula.s3.connect(options)
  end,
  ["a directory"] = function(files) return nebula.blob.open { url = "file:" .. files .. "/store" } end,
}

for name, open in pairs(stores) do
  describe(name, function()
    local store, files

    setup(function()
      files = directory.make("conformance" .. name:gsub("%W", "-"))
      store = open(files)
    end)

    teardown(function() directory.remove(files) end)

    local function keys(options)
      local out = {}
      for object in store:list(options) do out[#out + 1] = object.key or object.prefix end
      return out
    end

    it("stores bytes and tells about them", function()
      local stored = store:put("a/b", "data\0\255", { content_type = "text/x", metadata = { who = "me" } })
      assert.equal(6, stored.size)
      assert.equal("string", type(stored.url))
      local data, info = store:get("a/b")
      assert.equal("data\0\255", data)
      assert.equal("a/b", info.key)
      assert.equal(6, info.size)
      assert.equal(stored.etag, info.etag)
      assert.equal("text/x", info.content_type)
      assert.same({ who = "me" }, info.metadata)
      assert.truthy(info.last_modified:match("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d[%.%d]*Z$"))
      local head = store:head("a/b")
      for _, field in ipairs { "key", "size", "etag", "content_type" } do assert.equal(info[field], head[field]) end
      assert.is_true(store:exists("a/b"))
    end)

    it("gives nil for what is absent", function()
      assert.is_nil((store:get("absent")))
      assert.is_nil(store:head("absent"))
      assert.is_false(store:exists("absent"))
      assert.is_nil(store:reader("absent"))
      assert.is_nil(store:download("absent", { file = files .. "/absent" }))
      store:delete("absent")
      assert.equal("not_found", failure(store.copy, store, "absent", "x").kind)
    end)

    it("deletes on a condition", function()
      local kept = store:put("delete-kept", "x")
      for _, other in ipairs { ("0"):rep(32), kept.etag:sub(1, 8) } do
        assert.equal("conflict", failure(store.delete, store, "delete-kept", { if_match = other }).kind)
        assert.is_true(store:exists "delete-kept")
      end
      store:delete("delete-kept", { if_match = kept.etag })
      assert.is_false(store:exists "delete-kept")
    end)

    it("replaces an object as a whole", function()
      store:put("replaced", "a longer text", { metadata = { a = "1" } })
      store:put("replaced", "short")
      local data, info = store:get("replaced")
      assert.equal("short", data)
      assert.same({}, info.metadata)
      store:delete("replaced")
      assert.is_false(store:exists("replaced"))
    end)

    it("takes any key but an empty, a long or a NUL one", function()
      for _, key in ipairs { "a b", "a+b%20", "ü/😀", "a//b", "/a", "../a", "a/../b", ".", "..", "q?x#y", "a\nb",
        "a\r\nb", "%2e%2e/x", "x/", ("k"):rep(1024) } do
        store:put(key, key)
        assert.equal(key, (store:get(key)))
        assert.equal(key, store:list { prefix = key }().key)
        store:delete(key)
      end
      for _, key in ipairs { "", ("k"):rep(1025), "a\0b" } do
        assert.equal("validation", failure(store.put, store, key, "x").kind)
        assert.equal("validation", failure(store.get, store, key).kind)
      end
    end)

    it("holds conditions", function()
      local first = store:put("condition", "1", { if_none_match = "*" })
      assert.equal("conflict", failure(store.put, store, "condition", "2", { if_none_match = "*" }).kind)
      store:put("condition", "2", { if_match = first.etag })
      assert.equal("conflict", failure(store.put, store, "condition", "3", { if_match = first.etag }).kind)
      local data, info = store:get("condition")
      assert.equal("2", data)
      assert.equal("conflict", failure(store.get, store, "condition", { if_match = first.etag }).kind)
      assert.equal("conflict", failure(store.get, store, "condition", { if_none_match = info.etag }).kind)
      assert.equal("conflict", failure(function()
        local writer <close> = store:writer("condition", { if_none_match = "*" })
        writer:write("4")
        writer:finish()
      end).kind)
      assert.equal("2", (store:get("condition")))
    end)

    it("reads ranges", function()
      store:put("range", "0123456789")
      assert.equal("234", (store:get("range", { range = { 2, 4 } })))
      assert.equal("89", (store:get("range", { range = { 8 } })))
      assert.equal("789", (store:get("range", { range = { -3 } })))
      assert.equal("89", (store:get("range", { range = { 8, 100 } })))
      local _, info = store:get("range", { range = { 0, 0 } })
      assert.equal(10, info.size)
      local outside = failure(store.get, store, "range", { range = { 10, 12 } })
      assert.same({ "validation", "InvalidRange" }, { outside.kind, outside.code })
      assert.equal("validation", failure(store.get, store, "range", { range = { 4, 2 } }).kind)
      assert.equal("limit", failure(store.get, store, "range", { max_bytes = 9 }).kind)
    end)

    it("tells that an object has not changed", function()
      local etag = store:put("same", "x").etag
      for _, method in ipairs { "get", "head", "reader" } do
        local err = failure(store[method], store, "same", { if_none_match = etag })
        assert.same({ "conflict", "NotModified" }, { err.kind, err.code })
      end
      assert.equal("x", (store:get("same", { if_none_match = ("0"):rep(32) })))
    end)

    it("refuses what no store could keep, before anything is written", function()
      local many = {}
      for i = 1, 11 do many["tag" .. i] = "x" end
      for _, options in ipairs {
        { tags = many }, { tags = { [("k"):rep(129)] = "" } }, { tags = { k = ("v"):rep(257) } },
        { tags = { [""] = "" } },
        { metadata = { ["a b"] = "x" } }, { metadata = { a = "x\r\nb: y" } }, { content_type = "x\ny" },
        { if_none_match = ("0"):rep(32) },
      } do
        local err = failure(store.put, store, "refused", "x", options)
        assert.equal("validation", err and err.kind)
        assert.is_nil((store:get "refused"))
      end
      store:put("tagged-before", "x", { tags = { a = "b" } })
      assert.equal("validation", failure(store.tag, store, "tagged-before", many).kind)
      assert.same({ a = "b" }, store:tag "tagged-before")
    end)

    it("copies", function()
      store:put("from", "data", { content_type = "text/x", metadata = { a = "1" } })
      local copied = store:copy("from", "to")
      local data, info = store:get("to")
      assert.equal("data", data)
      assert.equal("text/x", info.content_type)
      assert.same({ a = "1" }, info.metadata)
      assert.equal(info.etag, copied.etag)
      assert.equal("string", type(copied.url))
      local err = failure(store.copy, store, "nowhere", "to")
      assert.equal("not_found", err.kind)
      assert.matches('"nowhere"', err.message, 1, true)
    end)

    it("holds the conditions of a copy", function()
      store:put("copy-source", "new")
      local kept = store:put("copy-kept", "old")
      for _, condition in ipairs {
        { if_none_match = "*" }, { if_match = ("0"):rep(32) }, { if_match = kept.etag:sub(1, 8) },
      } do
        local err = failure(store.copy, store, "copy-source", "copy-kept", condition)
        assert.equal("conflict", err.kind)
        assert.equal("old", (store:get "copy-kept"))
      end
      assert.equal("conflict", failure(store.copy, store, "copy-source", "copy-none", { if_match = "*" }).kind)
      assert.is_nil((store:get "copy-none"))
      store:copy("copy-source", "copy-kept", { if_match = kept.etag })
      assert.equal("new", (store:get "copy-kept"))
      store:copy("copy-source", "copy-none", { if_none_match = "*" })
      assert.equal("new", (store:get "copy-none"))
    end)

    it("copies with other metadata, and keeps what nothing is said about", function()
      store:put("from", "data", { content_type = "text/x", metadata = { a = "1" }, tags = { t = "1" } })
      store:copy("from", "to")
      assert.same({ t = "1" }, store:tag "to")
      store:copy("from", "to", { storage_class = "STANDARD" })
      assert.same({ a = "1" }, store:head("to").metadata)
      assert.equal("text/x", store:head("to").content_type)
      store:copy("from", "to", { metadata = { b = "2" } })
      assert.same({ b = "2" }, store:head("to").metadata)
      store:copy("from", "to", { metadata = {} })
      assert.same({}, store:head("to").metadata)
    end)

    it("keeps tags, which change nothing else of an object", function()
      store:put("tagged", "data", { metadata = { m = "1" }, tags = { a = "1 & <2>", ["b c"] = "" } })
      local before = store:head "tagged"
      assert.same({ m = "1" }, before.metadata)
      assert.same({ a = "1 & <2>", ["b c"] = "" }, store:tag "tagged")
      store:tag("tagged", { ["ü"] = "x" })
      assert.same({ ["ü"] = "x" }, store:tag "tagged")
      local after = store:head "tagged"
      after.last_modified = before.last_modified -- a store may count tags as a change
      assert.same(before, after)
      assert.equal("data", (store:get "tagged"))
      store:tag("tagged", {})
      assert.same({}, store:tag "tagged")
      store:put("tagged", "new")
      assert.same({}, store:tag "tagged")
      assert.is_nil(store:tag "absent")
      assert.equal("not_found", failure(store.tag, store, "absent", { a = "b" }).kind)
      assert.equal("validation", failure(store.tag, store, "tagged", "a=b").kind)
    end)

    it("lists in the order of the keys' bytes, folded, limited, from a key on", function()
      for _, key in ipairs { "l/a", "l/a/1", "l/a-", "l/b/1", "l/b/2", "l/c", "l/ü" } do store:put(key, "x") end
      assert.same({ "l/a", "l/a-", "l/a/1", "l/b/1", "l/b/2", "l/c", "l/ü" }, keys { prefix = "l/" })
      assert.same({ "l/a", "l/a-", "l/a/", "l/b/", "l/c", "l/ü" }, keys { prefix = "l/", delimiter = "/" })
      assert.same({ "l/a/1", "l/b/1" }, keys { prefix = "l/", start_after = "l/a-", limit = 2 })
      assert.same(keys { prefix = "l/" }, keys { prefix = "l/", page_size = 2 })
      assert.same({}, keys { prefix = "none" })
      local object = store:list { prefix = "l/c" }()
      assert.equal(1, object.size)
      assert.equal(store:head("l/c").etag, object.etag)
      assert.equal(2, store:delete_many { "l/c", "absent" })
      assert.is_false(store:exists("l/c"))
    end)

    it("streams in and out", function()
      local i = 0
      local stored = store:put("stream", function()
        i = i + 1
        if i <= 100 then return ("%07d\n"):format(i):rep(1000) end
      end)
      assert.equal(800000, stored.size)
      local reader <close> = store:reader("stream")
      assert.equal(800000, reader:info().size)
      assert.equal("0000001\n", reader:read(8))
      local count = 8
      for piece in reader do count = count + #piece end
      assert.equal(800000, count)
      local again <close> = store:reader("stream")
      assert.equal(800000, store:put("streamed", again).size)
      assert.is_true((store:get("streamed")) == (store:get("stream")))
    end)

    it("writes an object that appears when it is finished", function()
      do
        local writer <close> = store:writer("written", { content_type = "text/y" })
        assert.equal(writer, writer:write("a", 1, "b"))
        assert.is_false(store:exists("written"))
        assert.equal(3, writer:finish().size)
      end
      assert.equal("a1b", (store:get("written")))
      assert.equal("text/y", store:head("written").content_type)
      do
        local writer <close> = store:writer("unfinished")
        writer:write("lost")
      end
      assert.is_false(store:exists("unfinished"))
    end)

    it("compresses on the way", function()
      for _, kind in ipairs { "zstd", "gzip" } do
        local writer <close> = store:writer("compressed", { compress = kind })
        writer:write(("text "):rep(10000))
        local stored = writer:finish()
        assert.is_true(stored.size < 1000)
        assert.equal(stored.size, #store:get("compressed"))
        local reader <close> = store:reader("compressed", { decompress = kind })
        local whole = { reader:read(5) }
        for piece in reader do whole[#whole + 1] = piece end
        assert.equal(("text "):rep(10000), table.concat(whole))
        store:put("plain", "no such stream")
        local wrong <close> = store:reader("plain", { decompress = kind })
        assert.equal("serialization", failure(wrong.read, wrong).kind)
      end
    end)

    it("compresses at a level", function()
      local text = {}
      for i = 1, 20000 do text[i] = ("%d %x"):format(i, i * 7919 % 65521) end
      text = table.concat(text, " ")
      for kind, most in pairs { zstd = 19, gzip = 9 } do
        local function size(level)
          local writer <close> = store:writer("level", { compress = kind, level = level })
          writer:write(text)
          return writer:finish().size
        end
        assert.is_true(size(most) < size(1))
        local usual = size(nil)
        assert.equal(usual, size(kind == "zstd" and 3 or 6))
        local reader <close> = store:reader("level", { decompress = kind })
        local whole = {}
        for piece in reader do whole[#whole + 1] = piece end
        assert.is_true(table.concat(whole) == text)
        for _, level in ipairs { 0, most + 1, 1.5, "x" } do
          assert.equal("validation", failure(store.writer, store, "level", { compress = kind, level = level }).kind)
        end
      end
      assert.matches("level is of compress", failure(store.writer, store, "level", { level = 3 }).message, 1, true)
    end)

    it("lists uploads that are under way, and aborts them", function()
      local large = ("x"):rep(6 << 20)
      local writer <close> = store:writer "uploads/ü"
      writer:write(large)
      local begun
      repeat
        begun = store:uploads { prefix = "uploads/" }
      until #begun == 1
      assert.equal("uploads/ü", begun[1].key)
      assert.equal("string", type(begun[1].id))
      assert.is_true(math.abs(nebula.time.parse(begun[1].initiated) - nebula.time.now()) < 600)
      assert.same({}, store:uploads { prefix = "other" })
      assert.same({}, store:uploads { prefix = "uploads/", older_than = "1h" })
      assert.equal(0, store:abort_uploads { prefix = "uploads/", older_than = "1h" })
      assert.equal("validation", failure(store.abort_uploads, store, { prefix = "uploads/" }).kind)
      store:abort(begun[1])
      store:abort(begun[1].key, begun[1].id)
      assert.same({}, store:uploads { prefix = "uploads/" })
      local err = failure(writer.finish, writer)
      assert.equal("NoSuchUpload", err.code)
      assert.equal("not_found", err.kind)
      assert.is_false(store:exists "uploads/ü")
      do
        local other <close> = store:writer "uploads/other"
        other:write(large)
        repeat until store:abort_uploads { prefix = "uploads/", older_than = 0 } == 1
      end
      assert.same({}, store:uploads())
    end)

    it("tells its progress", function()
      local told
      local function progress(bytes) told = bytes end
      store:put("progress", "12345", { progress = progress })
      assert.equal(5, told)
      local pieces = { "12", "3" }
      store:put("progress", function() return table.remove(pieces, 1) end, { progress = progress })
      assert.equal(3, told)
      store:download("progress", { file = files .. "/progress", progress = progress, part_size = 1 << 20 })
      assert.equal(3, told)
      for _, method in ipairs { "put", "download" } do
        local what = method == "put" and "data" or { file = files .. "/x", progress = 7 }
        assert.equal("validation", failure(store[method], store, "progress", what, { progress = 7 }).kind)
      end
    end)

    it("is there as a whole, and is only deleted empty", function()
      store:put("there", "x")
      assert.is_true(store:bucket_exists())
      assert.equal("BucketNotEmpty", failure(store.delete_bucket, store).code)
      assert.equal("x", (store:get "there"))
    end)

    it("makes URLs for others, or says that it has none", function()
      store:put("shared", "data")
      local url, err = nebula.try(store.presign, store, "shared", { expires = "5m" })
      if err then
        assert.equal("config", err.kind)
        assert.truthy(err.message:find("they need S3", 1, true))
      else
        assert.truthy(url:find("X-Amz-Signature=", 1, true))
      end
    end)

    it("moves files in and out", function()
      local path = files .. "/file"
      do
        local file <close> = assert(io.open(path, "wb"))
        file:write(("file"):rep(100000))
      end
      store:put("file", { file = path })
      store:download("file", { file = files .. "/copy" })
      local copy <close> = assert(io.open(files .. "/copy", "rb"))
      assert.equal(("file"):rep(100000), copy:read "a")
      assert.equal("io", failure(store.put, store, "x", { file = files .. "/none" }).kind)
      assert.is_false(store:exists("x"))
    end)

    it("stores nothing where its source fails", function()
      assert.truthy(failure(store.put, store, "failed", function() error "gone" end).message:find("gone", 1, true))
      assert.equal("validation", failure(store.put, store, "failed", function() return {} end).kind)
      assert.equal("validation", failure(store.put, store, "failed", 7).kind)
      assert.is_false(store:exists("failed"))
    end)

    it("refuses options it does not know", function()
      assert.truthy(failure(store.put, store, "x", "y", { contenttype = "x" }).message:find("content_type", 1, true))
      assert.equal("validation", failure(store.list, store, { prefx = "x" }).kind)
    end)
  end)
end
