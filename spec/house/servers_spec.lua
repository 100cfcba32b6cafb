-- The servers of the specs themselves: real, private, and never outliving who started them.
local lfs = require "lfs"
local child = require "spec.support.child"
local nebula = require "spec.support.nebula"
local postgres = require "spec.support.postgres"
local s3 = require "spec.support.s3"

local function gone(pid) return lfs.attributes("/proc/" .. pid) == nil end

describe("the servers of the specs", function()
  it("give each caller an empty database", function()
    local first, second = postgres.database(), postgres.database()
    assert.are_not.equal(first, second)
    for _, url in ipairs { first, second } do
      local count = child.must {
        file = "psql", args = { "-XAt", "-d", url, "-c", "CREATE TABLE t (); SELECT count(*) FROM t" },
      }
      assert.equal("0", count:match("%d+$"))
    end
  end)

  it("are of the PostgreSQL that make was asked for", function()
    local number = child.must {
      file = "psql", args = { "-XAt", "-d", postgres.url(), "-c", "SHOW server_version_num" },
    }
    assert.equal(os.getenv "PGVERSION" or "15", tostring(tonumber(number) // 10000))
  end)

  it("can be stopped, crashed and configured where a spec starts its own", function()
    local server <close> = postgres.server { work_mem = "7MB" }
    local url = server:database("kept")
    local function ask(sql) return child.must { file = "psql", args = { "-XAt", "-d", url, "-c", sql } } end
    assert.equal("7MB", ask("SHOW work_mem"))
    ask("CREATE TABLE t AS SELECT 1 AS x")
    server:restart("immediate")
    assert.equal("1", ask("SELECT x FROM t"))
    assert.truthy(server:log():find("database system was not properly shut down", 1, true))
    server:stop()
    local refused = child.run { file = "psql", args = { "-XAt", "-d", url, "-c", "SELECT 1" } }
    assert.equal(2, refused.status)
  end)

  it("answer S3 over HTTP and HTTPS", function()
    local bucket = s3.bucket()
    for _, endpoint in ipairs { s3.endpoint(), s3.tls_endpoint() } do
      local answer = child.must {
        file = "curl", args = { "-sS", "--cacert", s3.ca_file(), "-o", "/dev/null", "-w", "%{http_code}",
          endpoint .. "/" .. bucket },
      }
      assert.equal("403", answer) -- it is there, and not for everybody
    end
  end)

  it("end with a process that is killed", function()
    local scratch = nebula.scratch()
    nebula.write(scratch, { ["starter.lua"] = [[
      package.path = "./?.lua;" .. package.path
      local server = require("spec.support.postgres").server()
      print(server.process.pid)
      io.stdout:flush()
      require("nebula").task.sleep(600)
    ]] })
    local starter = nebula.spawn { args = { scratch .. "/starter.lua" }, cwd = nebula.root,
      env = { NEBULA_SPEC_BUILD = os.getenv "NEBULA_SPEC_BUILD" }, stdout = "pipe" }
    local pid = tonumber(starter:read())
    assert.is_false(gone(pid))
    starter:kill(9)
    starter:wait()
    child.await("the end of PostgreSQL " .. pid, 60, function() return gone(pid) end)
  end)
end)
