-- The main job on real input, `nebula run`, which `make run` calls: every file of a directory goes
-- through the queue and comes out as an artifact, checked here with other programs' eyes.
local core = require "nebula"
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local nebula = require "spec.support.nebula"
local postgres = require "spec.support.postgres"
local s3 = require "spec.support.s3"

local SANITIZED = directory.build:find "asan" ~= nil
local MANY_FILES = SANITIZED and 300 or 3000
local MOST_RESIDENT_KB = 30 * 1024

local AWKWARD_NAMES = {
  "plain.txt", "with space.txt", "quote'd.txt", "percent%41.txt", "ünïcode/ñame.txt", "deep/er/est.txt", "emoji-🌍.txt",
}

-- The SHA-256 of each file below a directory: { ["sub/name"] = "..." }, as sha256sum sees them.
local function sums(where)
  local found = {}
  local listed = child.must {
    file = "find", args = { ".", "-type", "f", "-exec", "sha256sum", "-z", "{}", "+" }, cwd = where,
  }
  for sum, name in listed:gmatch "(%x+)  %./([^%z]+)" do found[name] = sum end
  return found
end

describe("nebula run", function()
  local function run(options)
    options.args = { "run", "--json", options.tree }
    options.tree = nil
    local result = nebula.run(options)
    local summary = result.stdout:find "^{" and core.json.decode(result.stdout) or nil
    return summary, result
  end

  it("stores every file as an artifact in S3 whose bytes are the file's", function()
    local tree, here, bucket = nebula.scratch(), nebula.scratch(), s3.bucket()
    local files = { ["empty.bin"] = "", ["large.bin"] = core.crypto.random(7 << 20) }
    for i, name in ipairs(AWKWARD_NAMES) do files[name] = ("content %d\n"):format(i) end
    nebula.write(tree, files)
    local env = s3.environment(bucket)
    env.DATABASE_URL = postgres.database()

    local summary, result = run { tree = tree, env = env, cwd = here }
    assert.equal(0, result.status, result.stdout .. result.stderr)
    assert.equal(#AWKWARD_NAMES + 2, summary.jobs)
    assert.equal(summary.jobs, summary.verified)
    assert.equal(0, summary.failed)

    local db <close> = core.pg.connect { url = env.DATABASE_URL }
    local store = core.s3.connect(s3.options(bucket))
    local expected, stored = sums(tree), {}
    for _, row in ipairs(db:query "SELECT state FROM executions WHERE status = 'completed'") do
      local path = row.state.path:gsub("%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end)
      assert.equal(expected[path], row.state.sha256)
      stored[path] = core.crypto.sha256((store:get(row.state.key)))
    end
    assert.same(expected, stored)
  end)

  it("works thousands of files in one process of at most 30 MB", function()
    local tree, here = nebula.scratch(), nebula.scratch()
    child.must {
      file = "bash", cwd = tree,
      args = { "-c", ("for ((i = 1; i <= %d; i++)); do echo $i > $i.txt; done"):format(MANY_FILES) },
    }
    local database = postgres.database()
    nebula.write(here, {
      ["nebula.conf.lua"] = ("return { blobs = { url = 'file:%s/blobs' } }"):format(here),
    })
    local env = { DATABASE_URL = database }
    local started = nebula.spawn { args = { "run", "--json", tree }, env = env, cwd = here, stderr = "/dev/null" }
    local resident = 0
    local ended
    repeat
      ended = started:wait(0.05)
      local status = child.read_file("/proc/" .. started.pid .. "/status") or ""
      resident = math.max(resident, tonumber(status:match "VmHWM:%s*(%d+)") or 0)
    until ended
    local summary = core.json.decode((started:read_all()))
    assert.same({ status = 0 }, ended)
    assert.equal(MANY_FILES, summary.jobs)
    assert.equal(MANY_FILES, summary.verified)
    if not SANITIZED then assert.is_true(resident < MOST_RESIDENT_KB, resident .. " KB resident") end
  end)

  it("names the directory that is not there, and exits 2", function()
    local env = { DATABASE_URL = postgres.database() }
    local _, result = run { tree = "/nowhere/at/all", env = env, cwd = nebula.scratch() }
    assert.equal(2, result.status)
    assert.truthy(result.stderr:find("/nowhere/at/all", 1, true), result.stderr)
  end)

  it("fails by name where S3 refuses the credentials, and leaves no job stuck", function()
    local tree = nebula.scratch()
    nebula.write(tree, { ["one.txt"] = "1" })
    local env = s3.environment()
    env.DATABASE_URL, env.S3_SECRET_ACCESS_KEY = postgres.database(), "not-the-secret-of-this-key"
    local _, result = run { tree = tree, env = env, cwd = nebula.scratch() }
    assert.equal(1, result.status, result.stderr)
    assert.truthy(result.stderr:find("SignatureDoesNotMatch", 1, true), result.stderr)
    assert.is_nil((result.stdout .. result.stderr):find("not-the-secret", 1, true))
    local db <close> = core.pg.connect { url = env.DATABASE_URL }
    assert.equal(0, db:value "SELECT count(*) FROM workflow_jobs WHERE status NOT IN ('dead', 'completed')")
    assert.equal("failed", db:value "SELECT status FROM executions")
  end)
end)
