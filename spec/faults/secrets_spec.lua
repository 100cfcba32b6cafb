-- No secret in what the host says: every log, error and dump of programs that are given passwords, keys,
-- tokens and signatures, at the most talkative levels, in health and against servers that refuse or are not
-- there, is searched for them (FAULTS: "every log, error and dump searched for secrets").
local child = require "spec.support.child"
local core = require "nebula"
local http_proxy = require "spec.support.http_proxy"
local nebula = require "spec.support.nebula"
local postgres = require "spec.support.postgres"
local prompts = require "spec.repl.prompt"
local s3 = require "spec.support.s3"

-- Each is looked for as it stands, as URLs escape it, and in base64.
local SECRETS = {
  database = "pg:hunter2/pass&word", s3 = s3.secret_access_key, wrong = "nebula/not+this/key0000000000000000000000",
  session = "FwoGZXIvYXdzEJr//session-token==", webhook = "whsec_c2VjcmV0LW9mLXRoZS1ob29r", http = "http-hunter2%&x",
  bearer = "bearer-hunter2-0123456789",
}

local function escaped(text)
  return (text:gsub("[^%w%-%._~]", function(c) return ("%%%02X"):format(c:byte()) end))
end

local FORMS = {}
for name, secret in pairs(SECRETS) do
  for _, form in ipairs { secret, escaped(secret), escaped(secret):lower(), core.crypto.base64(secret) } do
    FORMS[form] = name
  end
end

-- Fails where the text holds a secret, or a SigV4 signature.
local function search(where, text)
  for form, name in pairs(FORMS) do
    local at = text:find(form, 1, true)
    if at then
      error(("%s holds the %s secret: %s"):format(where, name, text:sub(math.max(1, at - 200), at + #form + 60)), 2)
    end
  end
  local signature = text:match "X%-Amz%-Signature=%x+" or text:match "Signature=%x%x%x%x%x%x%x%x+"
  if signature then error(("%s holds a signature: %s"):format(where, signature), 2) end
end

-- All files below a directory.
local function search_files(directory)
  for entry in core.fs.walk(directory) do
    if entry.type == "file" then search(entry.path, core.fs.read(entry.path)) end
  end
end

describe("secrets", function()
  local database, service, refused, talkative

  lazy_setup(function()
    local url = postgres.database()
    database = url:gsub("^(%w+://)[^@/]*@?", "%1nebula:" .. escaped(SECRETS.database):gsub("%%", "%%%%") .. "@", 1)
    -- An answer as of AWS, which gives back what was sent.
    service = http_proxy.start(s3.endpoint())
    refused = [[<Error><Code>SignatureDoesNotMatch</Code><Message>The signature does not match</Message>
      <StringToSign>AWS4-HMAC-SHA256</StringToSign><SignatureProvided>Signature=0123456789abcdef</SignatureProvided>
      <SessionToken>]] .. SECRETS.session .. "</SessionToken></Error>"
    talkative = { NEBULA_LOG = "debug", NEBULA_TRACE = "1", ENABLE_STATEMENT_LOGGING = "true" }
  end)

  lazy_teardown(function() service:close() end)

  local function environment(...)
    local env = {}
    for _, given in ipairs { talkative, ... } do
      for name, value in pairs(given) do env[name] = value end
    end
    return env
  end

  -- Runs the program and searches what it says and leaves; returns what it said.
  local function run(args, env)
    local home = nebula.scratch()
    env = environment(env, { HOME = home, XDG_STATE_HOME = home .. "/state" })
    local said = nebula.run { args = args, cwd = home, env = env }
    local where = "nebula " .. table.concat(args, " "):sub(1, 60)
    search(where .. ", standard output,", said.stdout)
    search(where .. ", standard error,", said.stderr)
    search_files(home)
    return said
  end

  -- Prints all that is to be known of each failure, and of the values that carry secrets.
  local DUMP = [[
    local function dump(value, depth)
      if type(value) ~= "table" or depth > 6 then return print(value, type(value)) end
      for k, v in pairs(value) do io.write(tostring(k), " = "); dump(v, depth + 1) end
    end
    local function tell(fn, ...)
      local result, err = nebula.try(fn, ...)
      print(result, err)
      nebula.log.error("it failed", { result = result, err = err, text = tostring(err) })
      if err then dump(err, 0) print(err.traceback, err.detail) print(nebula.json.encode { m = err.message }) end
      return result
    end
  ]]

  it("of PostgreSQL stand in no log, error or dump", function()
    local said = run({ "-e", DUMP .. [[
      local url = os.getenv "DATABASE_URL"
      local pool <close> = nebula.pg.connect { url = url, max_connections = 1, connection_timeout = 3 }
      repeat until nebula.try(pool.value, pool, "SELECT 1") -- on a busy machine it takes longer to connect
      tell(pool.query, pool, "SELECT 1 / 0")
      tell(pool.query, pool, "SELECT $1::text, count(*) FROM pg_class", "x")
      local held <close> = pool:acquire()
      nebula.task.spawn(function() tell(pool.query, pool, "SELECT 1") end):join()
      dump(pool:stats(), 0)
      dump(nebula.task.list(), 0)
      print(pool, held)
      local base = url:gsub("%?.*", "")
      for _, broken in ipairs { base:gsub("@[^/]*/", "@127.0.0.1:1/"), base:gsub("@[^/]*/", "@nowhere.invalid/"),
        base:gsub("@[^/]*/", "@h:port/"), base:gsub("@[^/]*/", "@[::1/"), url .. "&sslmode=maybe", url .. "&none=1",
        url:gsub("@", ":@", 1), (url:gsub("/nebula[%w_]*%?", "/no_such_database?")) } do
        tell(function()
          local other <close> = nebula.pg.connect { url = broken, connection_timeout = 2 }
          return other:value "SELECT 1"
        end)
      end
      print "to the end"]] }, { DATABASE_URL = database })
    assert.truthy(said.stdout:find("to the end", 1, true), said.stderr)
    assert.truthy(said.stderr:find("SELECT 1 / 0", 1, true))
  end)

  it("of S3 stand in no log, error or dump", function()
    service:rules { { path = "/told", ["do"] = "answer", status = 403, body = refused },
      { path = "/broken", ["do"] = "answer", status = 500, body = refused }, { path = "/lost", ["do"] = "reset" } }
    local env = s3.environment()
    env.S3_ENDPOINT = service.url
    env.WRONG, env.SESSION = SECRETS.wrong, SECRETS.session
    local said = run({ "-e", DUMP .. [[
      local E = os.getenv
      local function connect(changed)
        local options = { endpoint = E "S3_ENDPOINT", bucket = E "S3_BUCKET", path_style = true,
          access_key_id = E "S3_ACCESS_KEY_ID", secret_access_key = E "S3_SECRET_ACCESS_KEY", attempts = 2 }
        for name, value in pairs(changed or {}) do options[name] = value end
        return nebula.s3.connect(options)
      end
      local well = connect()
      well:put("a", "data")
      dump(well:head "a", 0)
      print(well)
      local others = { well, connect { secret_access_key = E "WRONG" }, connect { session_token = E "SESSION" },
        connect { endpoint = "http://127.0.0.1:1" }, connect { endpoint = "http://nowhere.invalid" } }
      for _, bucket in ipairs(others) do
        for _, key in ipairs { "a", "told", "broken", "lost" } do
          tell(bucket.put, bucket, key, ("x"):rep(100))
          tell(bucket.get, bucket, key)
          tell(bucket.download, bucket, key, { file = "a.file" })
        end
        tell(function() for object in bucket:list {} do print(object.key) end end)
      end
      tell(connect, { secret_access_key = E "WRONG" .. "\n" })
      tell(connect, { session_token = { E "SESSION" } })
      tell(connect, { secret = E "WRONG" })
      tell(connect, { endpoint = "http://u:" .. "nebula%2Fnot%2Bthis%2Fkey0000000000000000000000@h" })
      local url = well:presign("told", {})
      tell(nebula.http.request, { url = url, expect = 200 })
      tell(nebula.http.request, { url = url:gsub("^http://[^/]*", "http://127.0.0.1:1") })
      print "to the end"]] }, env)
    assert.truthy(said.stdout:find("to the end", 1, true), said.stderr)
    assert.truthy(said.stdout:find("SignatureDoesNotMatch", 1, true))
  end)

  it("of HTTP requests stand in no log, error or dump", function()
    service:rules { { path = "/told", ["do"] = "answer", status = 403, body = "no" },
      { path = "/hold", ["do"] = "hold" }, { path = "/lost", ["do"] = "reset" } }
    local said = run({ "-e", DUMP .. [[
      local base, secret, bearer = os.getenv "BASE", os.getenv "ESCAPED", os.getenv "BEARER"
      local headers = { Authorization = "Bearer " .. bearer }
      for _, path in ipairs { "/told", "/hold", "/lost" } do
        local url = base:gsub("//", "//user:" .. secret:gsub("%%", "%%%%") .. "@") .. path .. "?token=" .. secret
        tell(nebula.http.request, { url = url, headers = headers, expect = 200, deadline = 0.3 })
      end
      tell(nebula.http.request, { url = "nothing://user:" .. secret .. "@h/?token=" .. secret })
      tell(nebula.http.request, { url = "http://user:" .. secret .. "@[::1/?token=" .. secret })
      tell(nebula.http.request, { url = base, headers = { Authorization = "Bearer " .. bearer .. "\n" } })
      tell(nebula.http.request, { url = base, proxy = "http://user:" .. secret .. "@127.0.0.1:1" })
      print "to the end"]] },
      { BASE = service.url, ESCAPED = escaped(SECRETS.http), BEARER = SECRETS.bearer })
    assert.truthy(said.stdout:find("to the end", 1, true), said.stderr)
  end)

  it("of its surroundings are told by no command", function()
    local s3_env = s3.environment()
    local well = environment({ DATABASE_URL = database }, s3_env)
    local broken = environment(well, { DATABASE_URL = (database:gsub("@[^/]*/", "@127.0.0.1:1/"):gsub("%?.*", "")),
      S3_SECRET_ACCESS_KEY = SECRETS.wrong, S3_SESSION_TOKEN = SECRETS.session,
      DATABASE_CONNECT_TIMEOUT_SECONDS = "1" })
    local unreadable = environment(broken, { DATABASE_URL = (database:gsub("@[^/]*/", "@h:port/"):gsub("%?.*", "")) })
    assert.equal(0, run({ "migrate", "up" }, well).status)
    for i, env in ipairs { well, broken, unreadable } do
      for _, args in ipairs { { "doctor" }, { "doctor", "--json" }, { "migrate", "status" }, { "queue", "stats" },
        { "sql", "SELECT 1" }, { "blob", "ls" }, { "task", "health" }, { "worker", "--drain" } } do
        local said = run(args, env)
        if args[1] == "sql" then assert.equal(i == 1, said.status == 0, said.stderr) end
      end
    end
  end)

  it("of a worker's surroundings are in no log, metric or job", function()
    service:rules { { path = "/hook", ["do"] = "answer", status = 400, body = "no" } }
    local home = nebula.scratch()
    nebula.write(home, { ["handlers/fails.lua"] = [[
      return function(ctx)
        local nebula = require "nebula"
        ctx.log.info("about to fail", { url = os.getenv "DATABASE_URL", password = os.getenv "PW" })
        error(nebula.error { kind = "script", message = "cannot reach " .. os.getenv "DATABASE_URL" })
      end]] })
    local storage <close> = require("nebula.storage").new { database_url = postgres.database() }
    storage:run_migrations()
    local url = storage.db:value "SELECT current_database()"
    url = database:gsub("^(.-@[^/]*/)[^?]*", "%1" .. url)
    local jobs = { storage:push_job { payload = { handler = "fails" }, max_retries = 1 },
      storage:push_job { payload = { handler = "http", url = service.url:gsub("//", "//user:"
        .. escaped(SECRETS.http):gsub("%%", "%%%%") .. "@") .. "/hook?token=" .. escaped(SECRETS.http) },
        max_retries = 1 } }
    local worker = nebula.spawn { args = { "worker", "--metrics", "127.0.0.1:0" }, cwd = home, stderr = "pipe",
      env = environment { DATABASE_URL = url, PW = SECRETS.database, NEBULA_WEBHOOK_SECRET = SECRETS.webhook } }
    local log = ""
    local reading = core.task.spawn(function()
      for piece in function() return worker:read "stderr" end do log = log .. piece end
    end)
    child.await("the jobs to end", 60, function()
      return storage.db:value "SELECT count(*) FROM workflow_jobs WHERE status IN ('dead', 'failed')" == #jobs
    end, worker)
    local port = log:match "metrics are served.-port=(%d+)"
    for _, path in ipairs { "/metrics", "/readyz" } do
      search(path, core.http.request({ url = ("http://127.0.0.1:%s%s"):format(port, path) }).body)
    end
    worker:kill()
    worker:wait()
    reading:join()
    search("the worker's log", log)
    for row in storage.db:rows "SELECT error FROM workflow_jobs" do search("a job's error", row.error or "") end
    search_files(home)
  end)

  it("typed at the prompt are in no history", function()
    local prompt <close> = prompts.open { DATABASE_URL = database }
    prompt:line(("x = '%s' -- my password"):format(SECRETS.database), "")
    prompt:line(("y = nebula.try(nebula.pg.connect, { url = 'postgres://u:%s@127.0.0.1:1/d' })"):format(
      escaped(SECRETS.database)), "")
    prompt:line(("headers = { Authorization = 'Bearer %s' }"):format(SECRETS.bearer), "")
    prompt:line("'remembered'", "remembered")
    prompt:type "\4"
    prompt.process:wait(60)
    assert.truthy(child.read_file(prompt.home .. "/state/nebula/history"):find("remembered", 1, true))
    search_files(prompt.home)
  end)
end)
