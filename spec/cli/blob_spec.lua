-- nebula blob: the program itself, over a directory and over a real S3 server.
local child = require "spec.support.child"
local core = require "nebula"
local nebula = require "spec.support.nebula"
local s3 = require "spec.support.s3"

local SIZE = 6 << 20 -- more than one part

local function directory_store(project)
  nebula.write(project, { ["nebula.conf.lua"] = ("return { blobs = { url = 'file:%s/store' } }"):format(project) })
  return {}
end

local STORES = { ["a directory"] = directory_store, ["S3"] = function() return s3.environment() end }

for name, environment in pairs(STORES) do
  describe("nebula blob over " .. name, function()
    local project, env

    before_each(function()
      project = nebula.scratch()
      env = environment(project)
      nebula.write(project, { ["in/one.txt"] = "one", ["in/two.txt"] = "two!", ["in/deep/three.bin"] = "\0\1\2" })
    end)

    local function blob(...)
      return nebula.run { args = { "blob", ... }, env = env, cwd = project, stdin = "" }
    end
    local function fine(...)
      local result = blob(...)
      assert.equal(0, result.status, result.stderr)
      return result.stdout
    end
    local function keys(...)
      local list = {}
      for line in fine("ls", "--json", "-r", ...):gmatch "[^\n]+" do list[#list + 1] = core.json.decode(line).key end
      return list
    end

    it("stores files, directories and standard input, and gives them back byte for byte", function()
      local large = core.crypto.random(SIZE)
      nebula.write(project, { ["large.bin"] = large })
      fine("put", "large.bin", "a/large")
      fine("put", "-r", "in", "a/")
      nebula.run { args = { "blob", "put", "-", "a/stdin" }, env = env, cwd = project, stdin = "from a pipe\n" }
      assert.same({ "a/in/deep/three.bin", "a/in/one.txt", "a/in/two.txt", "a/large", "a/stdin" }, keys())
      fine("get", "a/large", "back.bin")
      assert.is_true(child.read_file(project .. "/back.bin") == large)
      assert.equal("from a pipe\n", fine("get", "a/stdin", "-"))
      fine("get", "-r", "a/in/", "out")
      assert.equal("\0\1\2", child.read_file(project .. "/out/deep/three.bin"))
      assert.equal("two!", child.read_file(project .. "/out/two.txt"))
      fine("get", "a/in/*.txt", "globbed")
      assert.equal("one", child.read_file(project .. "/globbed/one.txt"))
      assert.is_nil(child.read_file(project .. "/globbed/deep/three.bin"))
    end)

    it("lists a level at a time, copies, and tells what it knows", function()
      fine("put", "-r", "in/", "x/")
      local listed = fine "ls"
      assert.matches("x/\n$", listed)
      assert.not_matches("one", listed)
      assert.matches("3 objects, 10 B\n$", fine("ls", "-r", "--total"))
      fine("cp", "x/one.txt", "y")
      fine("cp", "-r", "x/", "z/")
      assert.same({ "z/deep/three.bin", "z/one.txt", "z/two.txt" }, keys "z/")
      fine("put", "--content-type", "text/plain", "--metadata", "owner=me", "in/one.txt", "typed")
      local info = core.json.decode(fine("stat", "--json", "typed"))
      assert.same({ "text/plain", "me", 3 }, { info.content_type, info.metadata.owner, info.size })
    end)

    it("deletes one object at once, and many where that is confirmed", function()
      fine("put", "-r", "in", "x/")
      fine("rm", "x/in/one.txt")
      local refused = blob("rm", "-r", "x/")
      assert.equal(2, refused.status)
      assert.matches("2 objects would be deleted: say %-%-yes", refused.stderr)
      assert.matches("delete x/in/two.txt\n", fine("rm", "x/**", "--dry-run"))
      assert.equal(2, #keys())
      fine("rm", "x/in/*.txt", "--yes")
      assert.same({ "x/in/deep/three.bin" }, keys())
    end)

    it("takes a glob that matches nothing as a key, and says where that is none either", function()
      fine("put", "in/one.txt", "a[1].txt")
      fine("put", "in/two.txt", "a2.txt")
      fine("get", "a[1].txt", "literal")
      assert.equal("one", child.read_file(project .. "/literal/a[1].txt"))
      assert.matches("delete a2.txt\n$", fine("rm", "a[2].txt", "--dry-run"))
      fine("rm", "a[1].txt", "--yes")
      assert.same({ "a2.txt" }, keys())
      local none = blob("rm", "b*", "--yes")
      assert.equal(1, none.status)
      assert.matches('no object matches "b*" in', none.stderr, 1, true)
    end)

    it("says what is wrong, and goes on with the rest", function()
      assert.equal(1, blob("get", "nowhere").status)
      assert.equal(1, blob("stat", "nowhere").status)
      assert.equal(2, blob("put", "nofile", "x").status)
      assert.equal(2, blob("put", "in", "x/").status) -- a directory, without -r
      assert.equal(2, blob("cp", "-r", "a/", "b").status)
      assert.equal(2, blob("ls", "x[").status)
      fine("put", "in/one.txt", "kept")
      local again = blob("put", "--no-clobber", "in/two.txt", "kept")
      assert.equal(1, again.status)
      assert.equal("one", fine("get", "kept", "-"))
      nebula.write(project, { ["in/one.txt"] = "changed" })
      local some = blob("put", "--no-clobber", "in/one.txt", "in/two.txt", "many/")
      assert.equal(0, some.status)
      some = blob("put", "--no-clobber", "-r", "in/", "many/")
      assert.equal(1, some.status)
      assert.matches("1 objects, 3 B, 2 failed", some.stdout)
    end)

    it("writes nothing outside of the directory it is told", function()
      for _, key in ipairs { "up/../../escaped", "up//abs", "up/." } do
        fine("put", "in/one.txt", key)
        local refused = blob("get", "-r", "up/", "out")
        assert.equal(1, refused.status)
        assert.matches("names no file below out", refused.stderr)
        fine("rm", key)
      end
      assert.is_nil(child.read_file(project .. "/escaped"))
    end)
  end)
end

describe("a bucket that is missing", function()
  it("is made by what the error says, without a database", function()
    local env, project = s3.environment "nebula-made-by-hand", nebula.scratch()
    local function run(...) return nebula.run { args = { ... }, env = env, cwd = project } end
    local line = run("blob", "ls").stderr:match "create it %((.-%))%)"
    assert.equal("blobs:create_bucket()", line)
    assert.same({ 0, "" }, { run("-e", line).status, run("blob", "ls").stderr })
    assert.equal(0, run("-e", "blobs:delete_bucket()").status)
  end)
end)

describe("nebula blob over TLS", function()
  it("trusts the authority that the environment or nebula.conf.lua names, and says so where neither does", function()
    local env, project = s3.environment(), nebula.scratch()
    env.S3_ENDPOINT = s3.tls_endpoint()
    local function ls() return nebula.run { args = { "blob", "ls" }, env = env, cwd = project } end
    local blind = ls()
    assert.equal(1, blind.status)
    assert.matches("is not trusted: name its authority by ca_file (AWS_CA_BUNDLE)", blind.stderr, 1, true)
    env.AWS_CA_BUNDLE = s3.ca_file()
    assert.same({ 0, "" }, { ls().status, ls().stderr })
    env.AWS_CA_BUNDLE = nil
    nebula.write(project, { ["nebula.conf.lua"] = ("return { s3 = { ca_file = %q } }"):format(s3.ca_file()) })
    assert.same({ 0, "" }, { ls().status, ls().stderr })
  end)
end)

describe("nebula blob presign", function()
  it("gives a URL that works without credentials, for S3 alone", function()
    local env, project = s3.environment(), nebula.scratch()
    nebula.write(project, { ["one.txt"] = "one" })
    assert.equal(0, nebula.run({ args = { "blob", "put", "one.txt", "k" }, env = env, cwd = project }).status)
    local out = nebula.run { args = { "blob", "presign", "k", "--expires", "1m" }, env = env, cwd = project }
    local answer = core.http.request { url = out.stdout:gsub("\n", ""), expect = 200 }
    assert.equal("one", answer.body)
    local none = nebula.scratch()
    local refused = nebula.run { args = { "blob", "presign", "k" }, env = directory_store(none), cwd = none }
    assert.equal(2, refused.status)
    assert.matches("has no presigned URLs", refused.stderr)
    local long = nebula.run { args = { "blob", "presign", "k", "--expires", "8d" }, env = env, cwd = project }
    assert.equal(2, long.status)
    assert.matches("--expires is at most", long.stderr, 1, true)
  end)
end)
