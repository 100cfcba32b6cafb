-- nebula.log, as a program's standard error shows it.
local host = require "spec.support.nebula"
local json = require("nebula").json

--- Runs code with a NEBULA_LOG and gives the lines on standard error.
local function lines_of(setting, code)
  local result = host.run { args = { "-e", 'local log = require("nebula").log\n' .. code },
    env = { NEBULA_LOG = setting } }
  assert.equal(0, result.status, result.stderr)
  local lines = {}
  for line in result.stderr:gmatch "([^\n]*)\n" do lines[#lines + 1] = line end
  return lines, result
end

local function rest(line) return (line:gsub("^%d+%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%d%d%d%dZ ", "")) end

describe("nebula.log", function()
  it("writes time, level, message and sorted fields on one line", function()
    local lines = lines_of("info", [[log.info("archived", { rows = 12, day = "2026-11-21", url = "file:/a b",
      ok = true })]])
    assert.equal(1, #lines)
    assert.equal('info  archived day=2026-11-21 ok=true rows=12 url="file:/a b"', rest(lines[1]))
    assert.are_not.equal(lines[1], rest(lines[1]))
  end)

  it("writes what NEBULA_LOG asks for", function()
    local all = [[log.debug "a" log.info "b" log.warn "c" log.error "d"
      print(log.enabled "debug", log.enabled "info", log.enabled "error")]]
    local cases = { debug = 4, info = 3, warn = 2, error = 1, off = 0, [""] = 3, ["text:warn"] = 2, json = 3 }
    for setting, count in pairs(cases) do assert.equal(count, #lines_of(setting, all), setting) end
    local lines, result = lines_of("warn", all)
    assert.equal("false\tfalse\ttrue\n", result.stdout)
    assert.equal("warn  c", rest(lines[1]))
  end)

  it("says so where NEBULA_LOG is not understood", function()
    local lines = lines_of("loud", [[log.info "x"]])
    assert.equal(2, #lines)
    assert.truthy(lines[1]:find("NEBULA_LOG is not understood", 1, true))
    assert.truthy(lines[1]:find("value=loud", 1, true))
  end)

  it("writes JSON lines that can be read back", function()
    local lines = lines_of("json:debug", [[
      log.debug("a\n\"b\"\0\xff", { n = 1, f = 1.5, t = { 1, { x = "y" } }, time = "mine", level = 2,
        big = 2^53, null = require("nebula").null })]])
    local record = json.decode(lines[1])
    assert.equal('a\n"b"\0\u{FFFD}', record.message)
    assert.equal("debug", record.level)
    assert.same({ 1, { x = "y" } }, record.t)
    assert.equal("mine", record.time_)
    assert.equal(2, record.level_)
    assert.equal(json.null, record.null)
    assert.equal(1, record.n)
  end)

  it("keeps a record on its line, whatever is in it", function()
    local lines = lines_of("info", [[
      log.info("one\ntwo\r\27[31mred\0", { ["a\nb"] = "c\nd\27", t = { "x\ny" }, e = "", f = print, n = 0/0,
        bad = setmetatable({}, { __tostring = function() error "no" end }) })]])
    assert.equal(1, #lines)
    assert.truthy(lines[1]:find([[one\ntwo\x0d\x1b[31mred\x00 "a\nb"="c\nd\u001b" bad="<an error in __tostring>" e=""]],
      1, true),
      lines[1])
    assert.is_nil(lines[1]:find "%c")
  end)

  it("lets no secret through", function()
    local SECRET = "hunter2"
    for _, setting in ipairs { "info", "json" } do
      local lines, result = lines_of(setting, ([[
        local s = "%s"
        log.info("connecting to postgres://nebula:" .. s .. "@db/x?sslmode=require&password=" .. s)
        log.info("conninfo host=db password='" .. s .. " " .. s .. "' user=x",
          { url = "https://u:" .. s .. "@h/p?X-Amz-Signature=" .. s })
        log.info("fields", { password = s, db_password = s, PGPASSWORD = s, token = s, secret_access_key = s,
          api_key = s,
          Authorization = s, cookie = s, nested = { deep = { { session_token = s } } },
            [ "x-amz-signature" ] = { s } })
        log.info("Authorization: Bearer " .. s .. " " .. s)
        log.info('a line of CSV: 1,"say password=""' .. s .. '"" now"')
        log.info('within JSON: "password=\\"' .. s .. " " .. s .. '\\""')
        log.info("of SQL: password='a''" .. s .. "'")
        log.info('sent {"password": "' .. s .. '", "n": 1}', { e = require("nebula").error { kind = "io",
          message = "https://u:" .. s .. "@h" } })
        log.with { secret = s }.with { a = "://a:" .. s .. "@b" }.error("x")
      ]]):format(SECRET))
      assert.equal(9, #lines, result.stderr)
      assert.is_nil(result.stderr:find(SECRET, 1, true), result.stderr)
      assert.truthy(result.stderr:find("postgres://nebula:***@db/x?sslmode=require&password=***", 1, true))
    end
  end)

  it("leaves what is no secret", function()
    local lines = lines_of("info", [[log.info("key=a b", { key = "a/b", unique_key = "u", monkey = 1,
      url = "http://h:80/x@y" })]])
    assert.equal('info  key=a b key=a/b monkey=1 unique_key=u url=http://h:80/x@y', rest(lines[1]))
  end)

  it("makes loggers that add fields", function()
    local lines = lines_of("info", [[
      local job = log.with { job = 7, worker = "w" }
      job.info("begin")
      job.with { job = 8 }.warn("end", { worker = "v" })
      print(pcall(log.with, 1))
      print(pcall(log.info, "x", 1))]])
    assert.equal("info  begin job=7 worker=w", rest(lines[1]))
    assert.equal("warn  end job=8 worker=v", rest(lines[2]))
    assert.equal(2, #lines)
  end)

  it("cuts long values and deep tables", function()
    local lines = lines_of("json", [[
      local loop = {} loop.loop = loop
      local many = {} for i = 1, 1000 do many[i] = i end
      log.info(("x"):rep(100000), { loop = loop, many = many, long = ("y"):rep(100000) })]])
    local record = json.decode(lines[1])
    assert.equal(8192, #record.message)
    assert.equal(8192, #record.long)
    assert.equal("...", record.many[101])
  end)
end)
