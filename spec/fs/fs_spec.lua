-- nebula.fs on a real file system.
local nebula = require "nebula"
local fs, task = nebula.fs, nebula.task

local function refused(kind, code, fn, ...)
  local value, err = nebula.try(fn, ...)
  assert.is_nil(value)
  assert.equal(kind, err.kind, err.message)
  assert.equal(code, err.code)
  return err
end

describe("nebula.fs", function()
  local root
  before_each(function() root = fs.tempdir() end)
  after_each(function() fs.remove(root, { recursive = true }) end)

  it("reads and writes whole files", function()
    local path = root .. "/a"
    for _, data in ipairs { "", "x", ("\0\xff"):rep(100000) } do
      fs.write(path, data)
      assert.equal(data, fs.read(path))
      fs.write(path, data, { atomic = false })
      assert.equal(data, fs.read(path))
    end
    assert.truthy(#fs.read "/proc/self/status" > 100) -- has no size of its own
  end)

  it("keeps or sets permissions", function()
    local path = root .. "/a"
    fs.write(path, "x", { mode = 384 })
    assert.equal(384, fs.stat(path).mode)
    fs.write(path, "y")
    assert.equal(384, fs.stat(path).mode)
    fs.write(path, "y", { mode = 420, atomic = false })
    assert.equal(420, fs.stat(path).mode)
  end)

  it("replaces atomically: nobody sees half a file, nothing is left beside it", function()
    local path, size = root .. "/a", 300000
    fs.write(path, ("a"):rep(size))
    task.scope(function(scope)
      for _, letter in ipairs { "b", "c", "d" } do
        scope:spawn(function() for _ = 1, 20 do fs.write(path, letter:rep(size)) end end)
      end
      for _ = 1, 60 do
        local data = fs.read(path)
        assert.equal(size, #data)
        assert.equal(data:sub(1, 1):rep(size), data)
      end
    end)
    local count = 0
    for name in fs.list(root) do count = count + (name ~= "a" and 1 or 0) end
    assert.equal(0, count)
  end)

  it("bounds what is read", function()
    fs.write(root .. "/a", ("x"):rep(100))
    assert.equal(100, #fs.read(root .. "/a", { max_bytes = 100 }))
    refused("limit", nil, fs.read, root .. "/a", { max_bytes = 99 })
    refused("limit", nil, fs.read, "/dev/zero", { max_bytes = 1000000 })
  end)

  it("names path and errno in its errors", function()
    local err = refused("io", "ENOENT", fs.read, root .. "/none")
    assert.truthy(err.message:find(root .. "/none: No such file or directory", 1, true), err.message)
    refused("io", "EISDIR", fs.read, root)
    refused("io", "ENOENT", fs.write, root .. "/none/a", "x")
    refused("io", "ENOENT", fs.hash, root .. "/none")
    refused("io", "ENOENT", fs.open, root .. "/none")
    refused("io", "EISDIR", fs.open, root)
    refused("io", "ENOENT", fs.rename, root .. "/none", root .. "/a")
    refused("io", "ENOENT", fs.realpath, root .. "/none")
    refused("io", "ENOENT", function() for _ in fs.list(root .. "/none") do error "entry" end end)
    refused("io", "ENOSPC", fs.write, "/dev/full", "x", { atomic = false })
    refused("validation", nil, fs.read, "")
    refused("validation", nil, fs.read, "a\0b")
    refused("validation", nil, fs.read, 12)
    refused("validation", nil, fs.write, root .. "/a", nil)
    refused("validation", nil, fs.read, root, { bytes = 1 })
  end)

  it("says what a path names", function()
    fs.write(root .. "/a", "12345")
    local stat = fs.stat(root .. "/a")
    assert.equal("file", stat.type)
    assert.equal(5, stat.size)
    assert.is_true(math.abs(stat.modified - nebula.time.now()) < 60)
    assert.equal("directory", fs.stat(root).type)
    assert.is_nil(fs.stat(root .. "/none"))
    assert.is_nil(fs.stat(root .. "/a/b"))
    assert.is_true(fs.exists(root .. "/a"))
    assert.is_false(fs.exists(root .. "/none"))
    assert.equal(root .. "/a", fs.realpath(root .. "/./a"))
    assert.equal("link", fs.stat("/proc/self/exe", { follow = false }).type)
    assert.equal("file", fs.stat("/proc/self/exe").type)
  end)

  it("makes and removes directories", function()
    refused("io", "ENOENT", fs.mkdir, root .. "/a/b/c")
    fs.mkdir(root .. "/a/b/c", { parents = true })
    fs.mkdir(root .. "/a/b/c", { parents = true })
    refused("io", "EEXIST", fs.mkdir, root .. "/a")
    fs.write(root .. "/a/file", "x")
    refused("io", "EEXIST", fs.mkdir, root .. "/a/file", { parents = true })
    refused("io", "ENOTEMPTY", fs.remove, root .. "/a")
    assert.is_true(fs.remove(root .. "/a", { recursive = true }))
    assert.is_false(fs.remove(root .. "/a"))
    assert.is_false(fs.exists(root .. "/a"))
  end)

  it("renames over what is there", function()
    fs.write(root .. "/a", "a")
    fs.write(root .. "/b", "b")
    fs.rename(root .. "/a", root .. "/b")
    assert.equal("a", fs.read(root .. "/b"))
    assert.is_false(fs.exists(root .. "/a"))
  end)

  it("hashes a file of any size", function()
    local data = nebula.crypto.random(1000000)
    fs.write(root .. "/a", data)
    local digest, size = fs.hash(root .. "/a")
    assert.equal(nebula.crypto.sha256(data), digest)
    assert.equal(1000000, size)
    fs.write(root .. "/a", "")
    assert.equal(nebula.crypto.sha256 "", (fs.hash(root .. "/a")))
  end)

  it("lists and walks", function()
    local made = {}
    for i = 1, 600 do
      local name = ("d%d/e%d/f%d"):format(i % 3, i % 7, i)
      fs.mkdir(root .. "/" .. name:match "^(.*)/", { parents = true })
      fs.write(root .. "/" .. name, name, { atomic = false })
      made[name] = true
    end
    local directories, files = {}, 0
    for entry in fs.walk(root .. "/") do
      assert.equal(root .. "/" .. entry.relative, entry.path)
      if entry.type == "file" then
        files = files + 1
        assert.is_true(made[entry.relative])
        assert.equal(#entry.relative, entry.size)
        assert.is_true(directories[entry.relative:match "^(.*)/"])
      else
        directories[entry.relative] = true
      end
    end
    assert.equal(600, files)
    local names = {}
    for name, type in fs.list(root) do names[#names + 1] = name .. ":" .. type end
    table.sort(names)
    assert.same({ "d0:directory", "d1:directory", "d2:directory" }, names)
  end)

  it("leaves a walk early without leaking directories", function()
    local function open()
      local n = 0
      for _ in fs.list "/proc/self/fd" do n = n + 1 end
      return n
    end
    for i = 1, 300 do fs.write(root .. "/" .. i, "", { atomic = false }) end
    local before = open()
    for _ = 1, 50 do
      for entry in fs.walk(root) do
        if entry.type == "file" then break end
      end
    end
    assert.equal(before, open())
  end)

  it("reads and writes handles in pieces", function()
    local path = root .. "/a"
    do
      local out <close> = fs.open(path, "wx")
      out:write("hello "):write("world"):sync()
    end
    refused("io", "EEXIST", fs.open, path, "wx")
    fs.open(path, "a"):write("!"):close()
    local file <close> = fs.open(path)
    assert.equal("hello", file:read(5))
    assert.equal(" world!", file:read())
    assert.is_nil(file:read())
    refused("io", "EBADF", file.write, file, "x")
    refused("validation", nil, file.read, file, 0)
    file:close()
    file:close()
    refused("validation", nil, file.read, file)
    refused("validation", nil, fs.open, path, "rw")
  end)

  it("refuses two operations on one handle at once, and survives a cancel in the middle", function()
    local file, err, _ = fs.open("/dev/zero"), nil, nil
    for _ = 1, 20 do -- a busy machine may have read it all by then
      local first = task.spawn(function() return #file:read(8000000) end)
      task.sleep(0)
      _, err = nebula.try(file.read, file, 1)
      assert.equal(8000000, first:join())
      if err then break end
    end
    assert.equal("validation", err.kind)
    for _ = 1, 20 do
      local handle = fs.open("/dev/zero")
      local reader = task.spawn(function() return handle:read(1000000) end)
      task.sleep(0)
      reader:cancel()
      nebula.try(reader.join, reader)
      handle = nil -- luacheck: ignore
      collectgarbage()
    end
    file:close()
  end)

  it("lets other tasks run while it waits", function()
    local ticks = 0
    local ticker = task.spawn(function() while true do task.sleep(0) ticks = ticks + 1 end end)
    fs.write(root .. "/a", ("x"):rep(3000000))
    fs.hash(root .. "/a")
    ticker:cancel()
    assert.is_true(ticks > 0)
  end)
end)
