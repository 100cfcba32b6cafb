-- `make valgrind`: what the sanitizers' own malloc does not see. A script that touches PostgreSQL, S3, HTTP,
-- JSON and tasks, in success, refusal and cancel, reads no memory that is not set, and frees all it takes.
local child = require "spec.support.child"
local nebula = require "spec.support.nebula"
local postgres = require "spec.support.postgres"
local s3 = require "spec.support.s3"

local SCRIPT = [[
  local nebula = require "nebula"
  local pool = nebula.pg.connect { url = os.getenv "DATABASE_URL", max_connections = 2 }
  for row in pool:rows "SELECT n, n::text AS t, jsonb_build_object('n', n) AS j FROM generate_series(1, 50) n" do
    assert(nebula.json.decode(nebula.json.encode(row)).n == row.n)
  end
  nebula.task.map({ 1, 2, 3, 4 }, function(n) return pool:value("SELECT $1::int", n) end, { concurrency = 4 })
  assert(select(2, nebula.try(pool.query, pool, "SELECT 1 / 0")))
  local sleeping = nebula.task.spawn(pool.query, pool, "SELECT pg_sleep(100)")
  nebula.task.sleep(0)
  sleeping:cancel()
  nebula.try(sleeping.join, sleeping)
  pool:close()

  local bucket = nebula.s3.connect { endpoint = os.getenv "S3_ENDPOINT", bucket = os.getenv "S3_BUCKET",
    access_key_id = os.getenv "S3_ACCESS_KEY_ID", secret_access_key = os.getenv "S3_SECRET_ACCESS_KEY" }
  bucket:put("a", ("x"):rep(100000))
  assert(#bucket:get "a" == 100000 and bucket:get "none" == nil)
  bucket:download("a", { file = "whole" })
  bucket:download("a", { file = "parts", part_size = 65536 })
  for object in bucket:list {} do assert(object.key == "a") end
  assert(select(2, nebula.try(bucket.put, bucket, "b", 7)))

  local server = require("nebula.httpd").listen {}
  local task = nebula.task.spawn(function() server:accept():answer { body = "ok" } end)
  assert(nebula.http.request({ url = "http://127.0.0.1:" .. server:port() }).body == "ok")
  task:join()
  server:close()
  print "done"
]]

describe("memory under valgrind", function()
  it("is set before it is read, and freed", function()
    local directory, env = nebula.scratch(), s3.environment()
    nebula.write(directory, { ["script.lua"] = SCRIPT })
    env.DATABASE_URL = postgres.database()
    -- The program's own malloc is replaced, so that each block is seen.
    local said = child.run { file = "valgrind", stdout = "pipe", stderr = "pipe", cwd = directory, env = env,
      args = { "--quiet", "--error-exitcode=9", "--leak-check=full", "--show-leak-kinds=all",
        "--errors-for-leak-kinds=all", "--soname-synonyms=somalloc=*mimalloc*", nebula.program, "script.lua" } }
    assert.equal("", said.stderr)
    assert.equal("done\n", said.stdout)
    assert.equal(0, said.status)
  end)
end)
