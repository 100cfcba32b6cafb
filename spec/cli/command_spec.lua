-- The command line's frame: help everywhere, suggestions, exit statuses.
local nebula = require "spec.support.nebula"

local function run(...) return nebula.run { args = { ... } } end

describe("nebula", function()
  it("says its version", function() assert.truthy(run("--version").stdout:find "^nebula %d+%.%d+%.%d+\n$") end)

  it("lists its commands with a line each", function()
    local help = run "--help"
    assert.equal(0, help.status)
    for _, name in ipairs { "dev", "sql", "repl" } do assert.truthy(help.stdout:find("\n  " .. name .. " +%u")) end
    assert.falsy(help.stdout:find("cannot be loaded", 1, true))
  end)

  it("helps with every command and subcommand", function()
    for name in run("--help").stdout:match("Commands:\n(.*)"):gmatch "  (%l[%w-]*)  +%u" do
      for _, args in ipairs { { name, "--help" }, { "help", name } } do
        local answer = run(table.unpack(args))
        assert.equal(0, answer.status, name)
        assert.truthy(answer.stdout:find("usage: nebula " .. name, 1, true), name)
      end
    end
    assert.truthy(run("dev", "reset", "--help").stdout:find("--yes", 1, true))
  end)

  it("suggests the nearest name", function()
    for _, case in ipairs {
      { "did you mean sql?", "slq" }, { "did you mean --help?", "--hlep" }, { "did you mean status?", "dev", "staus" },
      { "did you mean --json?", "sql", "--jsn", "SELECT 1" },
    } do
      local answer = run(table.unpack(case, 2))
      assert.equal(2, answer.status)
      assert.truthy(answer.stderr:find(case[1], 1, true), case[2])
      assert.equal("", answer.stdout)
    end
  end)

  it("wants a subcommand where there are some", function()
    local answer = run "dev"
    assert.equal(2, answer.status)
    assert.truthy(answer.stderr:find("down, reset, status, up", 1, true))
  end)
end)

describe("configuration", function()
  local function read(env, files)
    local where = nebula.scratch()
    nebula.write(where, files or {})
    local code = "local s = nebula.config.settings() " ..
      "return nebula.json.encode { s.database, s.s3 or false, s.project or false }"
    local answer = nebula.run { args = { "-e", code }, env = env, cwd = where }
    return answer, answer.status == 0 and require("nebula").json.decode(answer.stdout) or nil
  end

  it("reads the environment over nebula.conf.lua over defaults", function()
    local _, settings = read({ DATABASE_MAX_CONNECTIONS = "7", S3_BUCKET = "from-environment" }, {
      ["nebula.conf.lua"] = [[
        return { database = { max_size = 50, idle_timeout = "5m" }, s3 = { bucket = "from-file" } }]],
    })
    assert.equal(7, settings[1].max_connections)
    assert.equal(7, settings[1].min_connections)
    assert.equal(300, settings[1].idle_timeout)
    assert.equal(1800, settings[1].max_lifetime)
    assert.equal("from-environment", settings[2].bucket)
    assert.equal("us-east-1", settings[2].region)
    assert.is_false(settings[2].path_style)
  end)

  it("takes what else nebula.s3.connect knows from nebula.conf.lua", function()
    local conf = [[return {
      s3 = { bucket = "from-file", ca_file = "ca.pem", checksum = "crc32c", stall_timeout = "1m" },
    }]]
    local _, settings = read({}, { ["nebula.conf.lua"] = conf })
    assert.same({ settings[3] .. "/ca.pem", "crc32c", 60 },
      { settings[2].ca_file, settings[2].checksum, settings[2].stall_timeout })
    local answer = read({}, { ["nebula.conf.lua"] = "return { s3 = { checksum = 'md5' } }" })
    assert.equal(2, answer.status)
    assert.matches('nebula.conf.lua: s3.checksum "md5" is none of crc32c, none', answer.stderr, 1, true)
  end)

  it("refuses a bad value by its name, with status 2 and without the secret", function()
    for name, value in pairs {
      DATABASE_URL = "my-secret-url", DATABASE_MAX_CONNECTIONS = "many", DATABASE_MIN_CONNECTIONS = "-1",
      DATABASE_CONNECT_TIMEOUT_SECONDS = "0", DATABASE_IDLE_TIMEOUT_SECONDS = "x",
      DATABASE_MAX_LIFETIME_SECONDS = "-5",
      S3_ENDPOINT = "localhost:9000", S3_BUCKET = "no spaces here", S3_USE_PATH_STYLE = "perhaps",
      S3_SECRET_ACCESS_KEY = "my-secret key", ENABLE_STATEMENT_LOGGING = "sometimes",
      NEBULA_LOG = "loud", NEBULA_TRACE = "yes",
    } do
      local answer = read { [name] = value }
      assert.equal(2, answer.status, name)
      assert.truthy(answer.stderr:find(name, 1, true), name)
      assert.falsy(answer.stderr:find("my-secret", 1, true), name)
    end
  end)

  it("refuses what does not fit together", function()
    assert.equal(2, read({ S3_ENDPOINT = "http://localhost:9000" }).status)
    assert.equal(2, read({ S3_BUCKET = "bucket", S3_ACCESS_KEY_ID = "alone" }).status)
    local answer = read({ DATABASE_MIN_CONNECTIONS = "20", DATABASE_MAX_CONNECTIONS = "10" })
    assert.truthy(answer.stderr:find("DATABASE_MIN_CONNECTIONS", 1, true))
  end)

  it("names an unknown section or option of nebula.conf.lua, and its syntax errors", function()
    for text, wanted in pairs {
      ["return { workers = {} }"] = "did you mean worker?",
      ["return { s3 = { buckt = 'x' } }"] = "did you mean bucket?",
      ["return {"] = "nebula.conf.lua:1:", ["return 5"] = "returns no table",
    } do
      local answer = read({}, { ["nebula.conf.lua"] = text })
      assert.equal(2, answer.status)
      assert.truthy(answer.stderr:find(wanted, 1, true), answer.stderr)
    end
  end)

  it("without a database says what to do", function()
    local answer = nebula.run { args = { "sql", "SELECT 1" }, cwd = "/" }
    assert.equal(2, answer.status)
    assert.truthy(answer.stderr:find("DATABASE_URL", 1, true))
    assert.truthy(answer.stderr:find("nebula dev up", 1, true))
  end)
end)
