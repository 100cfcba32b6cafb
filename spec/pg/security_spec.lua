-- Who is at the other end, and who may listen: TLS, SCRAM, and what no message says.
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local host = require "spec.support.nebula"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local pg = nebula.pg

-- An address of this machine that no other server of the specs has.
local function own_address()
  return ("127.%d.%d.%d"):format(50 + child.next_number "addresses", child.pid // 250 % 250 + 1, child.pid % 250 + 1)
end

local PASSWORD = "pass'word"

describe("pg security", function()
  local server, plain, where, address, plain_address

  local function openssl(...)
    child.must { file = "openssl", args = { ... }, cwd = where, user = child.is_root and "postgres" or nil }
  end

  setup(function()
    where = directory.make("tls-" .. child.next_number "tls", child.is_root and "postgres" or nil)
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=spec authority",
      "-keyout", "ca.key", "-out", "ca.pem")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=db.example", "-addext",
      "subjectAltName=DNS:db.example", "-keyout", "server.key", "-out", "server.csr")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
      "-days", "30", "-copy_extensions", "copy", "-out", "server.pem")
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=somebody else",
      "-keyout", "other.key", "-out", "other.pem")
    do
      local hba <close> = assert(io.open(where .. "/hba", "w"))
      hba:write "local all all trust\nhost all all 127.0.0.0/8 scram-sha-256\n"
    end
    child.must { file = "chmod", args = { "755", where } }
    child.must { file = "chmod", args = { "644", where .. "/hba", where .. "/ca.pem", where .. "/other.pem" } }
    address, plain_address = own_address(), own_address()
    server = postgres.server {
      listen_addresses = address, ssl = "on", ssl_cert_file = where .. "/server.pem",
      ssl_key_file = where .. "/server.key", hba_file = where .. "/hba", password_encryption = "scram-sha-256",
    }
    plain = postgres.server { listen_addresses = plain_address, hba_file = where .. "/hba" }
    for _, one in ipairs { server, plain } do
      local db <close> = pg.connect(one:url())
      db:exec("CREATE USER app PASSWORD " .. pg.literal(PASSWORD))
    end
  end)
  teardown(function()
    server:close()
    plain:close()
    directory.remove(where)
  end)

  local function url(options)
    local parts = { "user=app dbname=nebula password='pass\\'word'" }
    for name, value in pairs(options) do parts[#parts + 1] = ("%s='%s'"):format(name, value) end
    return table.concat(parts, " ")
  end

  local function ask(options)
    local db <close> = pg.connect { url = url(options), max_connections = 1, connection_timeout = 20 }
    return db:one "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
  end

  local function refused(options)
    local row, err = nebula.try(ask, options)
    assert.is_nil(row)
    assert.not_matches("pass.?'word", tostring(err) .. (err.detail or ""))
    return err.message
  end

  it("verifies a server on another machine by default: its authority and its name", function()
    local ca = where .. "/ca.pem"
    assert.is_true(ask({ host = "db.example", hostaddr = address, sslrootcert = ca }).ssl)
    assert.matches("does not match host name",
      refused { host = "evil.example", hostaddr = address, sslrootcert = ca })
    assert.matches("certificate verify failed.*sslrootcert=",
      refused { host = "db.example", hostaddr = address, sslrootcert = where .. "/other.pem" })
    assert.matches("certificate verify failed", refused { host = "db.example", hostaddr = address })
    assert.matches("SSL.*sslmode=", refused { host = "db.example", hostaddr = plain_address, sslrootcert = ca })
  end)

  it("does as the URL says", function()
    assert.is_false(ask({ host = "db.example", hostaddr = plain_address, sslmode = "disable" }).ssl)
    assert.is_true(ask({ host = "evil.example", hostaddr = address, sslmode = "require" }).ssl)
    assert.is_true(ask({ host = "evil.example", hostaddr = address, sslmode = "verify-ca",
      sslrootcert = where .. "/ca.pem" }).ssl)
  end)

  it("asks no certificate of a server on this machine", function()
    assert.is_false(ask({ host = plain_address }).ssl)
    assert.is_true(ask({ host = address }).ssl) -- it has TLS: what is there is used
  end)

  it("asks after a server on another machine that is silent, unless the URL says otherwise", function()
    -- When the kernel will look after the client's end of the connection next, in seconds (proc(5): tcp).
    local function next_probe(options)
      local db <close> = pg.connect { url = url(options), max_connections = 1 }
      local port = ("%04X"):format(db:value "SELECT inet_client_port()")
      while true do -- the timer may stand for something unacknowledged at first
        for line in io.lines "/proc/net/tcp" do
          local kind, after = line:match("^ *%d+: %x+:" .. port .. " %x+:%x+ 01 %x+:%x+ (%x+):(%x+)")
          if kind == "02" then return tonumber(after, 16) / 100 end
        end
        nebula.task.sleep(0.01)
      end
    end
    local other = { host = "db.example", hostaddr = plain_address, sslmode = "disable" }
    local after = next_probe(other)
    assert.is_true(after <= 30, "the next look is in " .. after .. " s")
    other.keepalives_idle = 900
    after = next_probe(other)
    assert.is_true(after > 30 and after <= 900, "the next look is in " .. after .. " s")
    local file <close> = assert(io.open "/proc/sys/net/ipv4/tcp_keepalive_time")
    local system = file:read "n"
    after = next_probe { host = plain_address }
    assert.is_true(after > system - 60 and after <= system, "the next look is in " .. after .. " s")
  end)

  it("trusts the system's authorities where nobody named one", function()
    local function run(file)
      return host.run {
        args = { "-e", "print(db:value 'SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()')" },
        env = { DATABASE_URL = url { host = "db.example", hostaddr = address }, SSL_CERT_FILE = file, HOME = where },
      }
    end
    local result = run(where .. "/ca.pem")
    assert.same({ 0, "true\n" }, { result.status, result.stdout }, result.stderr)
    result = run(where .. "/other.pem")
    assert.equal(1, result.status)
    assert.matches("certificate verify failed", result.stderr)
  end)

  it("binds SCRAM to the channel, or refuses where it cannot", function()
    local ca = where .. "/ca.pem"
    assert.is_true(ask({ host = "db.example", hostaddr = address, sslrootcert = ca, channel_binding = "require" }).ssl)
    assert.matches("channel binding",
      refused { host = "db.example", hostaddr = address, sslmode = "disable", channel_binding = "require" })
  end)

  it("cancels over TLS", function()
    local db <close> = pg.connect {
      url = url { host = "db.example", hostaddr = address, sslrootcert = where .. "/ca.pem" }, max_connections = 1,
    }
    local _, err = nebula.try(db.exec, db, { "DO $$ BEGIN PERFORM pg_sleep(60); END $$", deadline = 0.2 })
    assert.equal("timeout", err.kind)
    assert.is_true(db:value "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
  end)

  it("says what a wrong password is, and not which", function()
    local db <close> = pg.connect { url = ("host=%s user=app dbname=nebula password=hunter2"):format(address) }
    local _, err = nebula.try(db.value, db, "SELECT 1")
    assert.matches("password authentication failed", err.message)
    assert.not_matches("hunter2", tostring(err) .. (err.detail or ""))
  end)
end)
