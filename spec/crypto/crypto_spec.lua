-- nebula.crypto against the vectors of its standards.
local nebula = require "nebula"
local crypto = nebula.crypto

local function refused(kind, fn, ...)
  local value, err = nebula.try(fn, ...)
  assert.is_nil(value)
  assert.equal(kind, err.kind)
  return err
end

local MILLION = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"

describe("crypto.sha256", function()
  it("gives the digests of FIPS 180-4", function()
    assert.equal("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", crypto.sha256 "")
    assert.equal("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", crypto.sha256 "abc")
    assert.equal(32, #crypto.sha256("abc", { raw = true }))
  end)

  it("hashes long text while the task waits", function()
    local other = false
    nebula.task.spawn(function() other = true end)
    assert.equal(MILLION, crypto.sha256(("a"):rep(1000000)))
    assert.is_true(other)
  end)

  it("hashes long text where a task cannot wait", function()
    local digest
    table.sort({ 1, 2 }, function(a, b)
      digest = crypto.sha256(("a"):rep(1000000))
      return a < b
    end)
    assert.equal(MILLION, digest)
  end)

  it("survives a cancel while the pool hashes", function()
    for _ = 1, 20 do
      local task = nebula.task.spawn(function() return crypto.sha256(("a"):rep(4000000)) end)
      nebula.task.sleep(0)
      task:cancel()
      nebula.try(task.join, task)
      collectgarbage()
    end
  end)

  it("is fed piece by piece", function()
    local hasher = crypto.sha256_new()
    for _ = 1, 1000 do hasher:update(("a"):rep(1000)) end
    assert.equal(MILLION, hasher:finish())
    refused("validation", hasher.finish, hasher)
    refused("validation", hasher.update, hasher, "x")
    assert.equal(crypto.sha256("ab", { raw = true }), crypto.sha256_new():update("a"):update("b"):finish { raw = true })
  end)

  it("refuses what is no string", function()
    refused("validation", crypto.sha256, 12)
    refused("validation", crypto.sha256, "x", { row = true })
  end)
end)

describe("crypto.hmac", function()
  it("gives the digests of RFC 4231", function()
    assert.equal("b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
      crypto.hmac(("\x0b"):rep(20), "Hi There"))
    assert.equal("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
      crypto.hmac("Jefe", "what do ya want for nothing?"))
    assert.equal("60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
      crypto.hmac(("\xaa"):rep(131), "Test Using Larger Than Block-Size Key - Hash Key First"))
    assert.equal(crypto.hmac("k", ("a"):rep(1000000)), crypto.hmac("k", ("a"):rep(1000000)))
  end)
end)

describe("crypto.crc32c", function()
  it("is the same in one piece and in pieces too short for three lanes", function()
    local text = {}
    for i = 1, 20000 do text[i] = string.char(i * i % 251) end
    text = table.concat(text)
    for length = 3060, 20000, 997 do
      local whole, sum = text:sub(1, length), 0
      for at = 1, length, 1000 do sum = crypto.crc32c(whole:sub(at, at + 999), sum) end
      assert.equal(sum, crypto.crc32c(whole))
    end
  end)

  it("gives the checksums of RFC 3720", function()
    assert.equal(0x8A9136AA, crypto.crc32c(("\0"):rep(32)))
    assert.equal(0x62A8AB43, crypto.crc32c(("\xff"):rep(32)))
    assert.equal(0xE3069283, crypto.crc32c "123456789")
    assert.equal(0, crypto.crc32c "")
  end)

  it("goes on from a checksum, at every alignment", function()
    local text = crypto.random(100)
    for i = 0, #text do
      assert.equal(crypto.crc32c(text), crypto.crc32c(text:sub(i + 1), crypto.crc32c(text:sub(1, i))))
    end
    refused("validation", crypto.crc32c, "x", -1)
    refused("validation", crypto.crc32c, "x", 1 << 32)
  end)
end)

describe("UUIDs", function()
  local FORM = "^%x%x%x%x%x%x%x%x%-%x%x%x%x%-([47])%x%x%x%-[89ab]%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x$"

  it("are of their version and never the same", function()
    local seen = {}
    for _ = 1, 10000 do
      local v4, v7 = crypto.uuid_v4(), crypto.uuid_v7()
      assert.equal("4", v4:match(FORM))
      assert.equal("7", v7:match(FORM))
      assert.is_nil(seen[v4] or seen[v7])
      seen[v4], seen[v7] = true, true
    end
  end)

  it("of version 7 ascend and begin with the time", function()
    local last = ""
    for _ = 1, 20000 do
      local uuid = crypto.uuid_v7()
      assert.is_true(uuid > last)
      last = uuid
    end
    local milliseconds = tonumber(last:sub(1, 8) .. last:sub(10, 13), 16)
    assert.is_true(math.abs(milliseconds / 1000 - os.time()) < 5)
  end)

  it("of version 5 are those of RFC 9562", function()
    assert.equal("2ed6657d-e927-568b-95e1-2665a8aea6a2",
      crypto.uuid_v5("6ba7b810-9dad-11d1-80b4-00c04fd430c8", "www.example.com"))
    refused("validation", crypto.uuid_v5, "6ba7b810", "x")
    refused("validation", crypto.uuid_v5, "6ba7b810-9dad-11d1-80b4-00c04fd430cx", "x")
  end)
end)

describe("bytes as text", function()
  it("goes there and back", function()
    local vectors = { [""] = "", f = "Zg==", fo = "Zm8=", foo = "Zm9v", foob = "Zm9vYg==", fooba = "Zm9vYmE=",
      foobar = "Zm9vYmFy" }
    for data, text in pairs(vectors) do
      assert.equal(text, crypto.base64(data))
      assert.equal(data, crypto.unbase64(text))
    end
    for length = 0, 100 do
      local data = crypto.random(length)
      assert.equal(length, #data)
      assert.equal(data, crypto.unbase64(crypto.base64(data)))
      assert.equal(data, crypto.unhex(crypto.hex(data)))
      assert.equal(data, crypto.unhex(crypto.hex(data):upper()))
    end
    assert.equal("00ff7f", crypto.hex "\0\xff\x7f")
  end)

  it("is strict on the way back", function()
    for _, text in ipairs { "Zg=", "Zg", "Zg===", "Z===", "====", "Zh==", "Zm9=", "Zm9v\n", "Zm-_", "Z g=", "=Zg=" } do
      refused("serialization", crypto.unbase64, text)
    end
    for _, text in ipairs { "0", "0g", "abc", " 00" } do refused("serialization", crypto.unhex, text) end
    assert.truthy(refused("serialization", crypto.unhex, "00zz").message:find("character 3", 1, true))
  end)

  it("draws random bytes up to its limit", function()
    assert.are_not.equal(crypto.random(32), crypto.random(32))
    refused("validation", crypto.random, -1)
    refused("validation", crypto.random, 1 << 30)
  end)
end)
