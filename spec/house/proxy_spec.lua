-- The fault proxy of the specs: each fault is what it says, in front of a real server.
local nebula = require "nebula"
local child = require "spec.support.child"
local postgres = require "spec.support.postgres"
local proxy = require "spec.support.proxy"

local monotonic = nebula.time.monotonic

-- The directory and database of the shared server's URL.
local SOCKET = postgres.url():match("host=([^&]+)"):gsub("%%(%x%x)", function(hex)
  return string.char(tonumber(hex, 16))
end) .. "/.s.PGSQL.5432"

describe("the fault proxy", function()
  local between

  before_each(function() between = proxy.start { path = SOCKET } end)
  after_each(function() between:close() end)

  local function psql(sql, seconds, to_connect)
    return child.run {
      file = "psql", timeout = seconds or 60, stderr = "stdout",
      args = { "-XAt", "-d", ("postgresql://nebula@127.0.0.1:%d/nebula?sslmode=disable&connect_timeout=%d"):format(
        between.port, to_connect or 60), "-c", sql },
    }
  end

  it("passes everything on as it is", function()
    local result = psql "SELECT length(string_agg(md5(i::text), '')) FROM generate_series(1, 100000) AS i"
    assert.same({ 0, "3200000\n" }, { result.status, result.stdout })
    result = psql "SELECT repeat('x', 3000000)"
    assert.equal(3000001, #result.stdout)
    local counts = between:counts()
    assert.equal(2, counts.accepted)
    assert.is_true(counts.down > 3000000)
    assert.is_true(counts.up > 0)
  end)

  it("slices, delays and throttles without losing a byte", function()
    between:set("both", { slice = 1 })
    local result = psql "SELECT repeat('abc', 3000)"
    assert.equal(("abc"):rep(3000) .. "\n", result.stdout)
    between:clear()
    between:set("down", { latency = 0.1, jitter = 0.02 })
    local began = monotonic()
    assert.equal(0, psql("SELECT 1").status)
    assert.is_true(monotonic() - began >= 0.16) -- two answers, one after the other
    between:clear()
    between:set("down", { bandwidth = 100000 })
    began = monotonic()
    assert.equal(50001, #psql("SELECT repeat('x', 50000)").stdout)
    assert.is_true(monotonic() - began >= 0.4)
  end)

  it("resets, half-closes and stalls, at a byte or at once", function()
    between:set("down", { reset_after = 20000 })
    assert.equal(2, psql("SELECT repeat('x', 50000)").status)
    between:clear()
    between:set("down", { finish_after = 20000 })
    local result = psql "SELECT repeat('x', 50000)"
    assert.same({ 2, 1 }, { result.status, select(2, result.stdout:gsub("closed the connection unexpectedly", "")) })
    between:clear()
    between:set("down", { stall_after = 20000 })
    local _, err = nebula.try(psql, "SELECT repeat('x', 50000)", 0.5)
    assert.equal("timeout", err.kind)
    between:clear()
    local cut
    local before = between:counts().down
    nebula.task.scope(function(scope)
      local asking = scope:spawn(psql, "SELECT pg_sleep(60)")
      child.await("psql's connection", 60, function() return between:counts().down > before + 300 end)
      between:reset()
      cut = asking:join()
    end)
    assert.equal(2, cut.status)
  end)

  it("refuses, resets and leaves unanswered what connects", function()
    between:accept "refuse"
    assert.truthy(psql("SELECT 1").stdout:find("Connection refused", 1, true))
    between:accept "reset"
    assert.equal(2, psql("SELECT 1").status)
    between:accept "silent"
    assert.truthy(psql("SELECT 1", nil, 2).stdout:find("timeout expired", 1, true))
    between:accept "unanswered"
    assert.truthy(psql("SELECT 1", nil, 2).stdout:find("timeout expired", 1, true))
    between:accept "open"
    assert.equal("1\n", psql("SELECT 1").stdout)
  end)

  it("names a command that it does not know", function()
    assert.has_error(function() between:command("set", "both", "speed", 1) end)
    assert.has_error(function() between:command "explode" end)
    assert.equal("1\n", psql("SELECT 1").stdout)
  end)
end)
