-- The prompt's dot commands, help, read-only mode and completion of names in the database.
local child = require "spec.support.child"
local core = require "nebula"
local nebula = require "spec.support.nebula"
local postgres = require "spec.support.postgres"
local prompts = require "spec.repl.prompt"

describe("the prompt's commands", function()
  local env, db, blobs

  lazy_setup(function()
    env = { DATABASE_URL = postgres.database() }
    db = core.pg.connect { url = env.DATABASE_URL }
    db:exec "CREATE TABLE parcels (id bigint PRIMARY KEY, weight int NOT NULL DEFAULT 3, note text)"
    db:exec "INSERT INTO parcels VALUES (1, 7, 'first'), (2, 9, NULL)"
    blobs = nebula.scratch()
  end)

  lazy_teardown(function() db:close() end)

  local function open(args)
    local home = nebula.scratch()
    nebula.write(home, { ["nebula.conf.lua"] = ("return { blobs = 'file:%s' }"):format(blobs) })
    return prompts.open(env, args, home)
  end

  it("describe tables", function()
    local prompt <close> = open()
    prompt:line(".tables", "parcels")
    prompt:line(".d parcels", "weight")
    prompt:line(".d nothing_like_it", "there is no table nothing_like_it")
    prompt:line(".explain SELECT * FROM parcels", "Seq Scan on parcels")
  end)

  it("show results in other forms, and into a file", function()
    local prompt <close> = open()
    local rows = "sql 'SELECT id, note FROM parcels ORDER BY id'"
    prompt:line(".format csv", "format: csv")
    prompt:line(rows, "1,first")
    prompt:line(".format jsonl", "jsonl")
    prompt:line(rows, '{"id":1,"note":"first"}\r\n{"id":2,"note":null}')
    prompt:line(".format table", "table")
    prompt:line(".x", "expanded: on")
    prompt:line(rows, "note  first")
    prompt:line(".x off", "off")
    prompt:line(".format lua", "lua")
    prompt:line("{ 'a', b = 1 }", '{ "a", b = 1 }')
    prompt:line(".format no", 'there is no format "no"')
    prompt:line(".output out.txt", "results go to out.txt")
    prompt:line("{ kept = 1 }", "")
    prompt:line(".output", "terminal")
    assert.equal("{ kept = 1 }\n", child.read_file(prompt.home .. "/out.txt"))
  end)

  it("look into the process", function()
    local prompt <close> = open()
    prompt:line("task.spawn(task.sleep, 1000)", "task")
    prompt:line(".tasks", "waits for")
    prompt:line(".pool", "max")
    prompt:line(".pool", "what ") -- the name's column first
    prompt:line("plot({ 1 })", "plot wants two columns")
    prompt:line("plot(1, 'a', 'b')", "the rows are a list, not a number")
    prompt:line(".stats", "Lua memory")
    prompt:line(".timing on", "timing: on")
    prompt:line("1 + 1", " ms")
    prompt:line("error('broken', 0)", "broken")
    prompt:line(".error", "traceback")
  end)

  it("load a file, watch an expression, keep results, name the nearest command, leave", function()
    local prompt <close> = open()
    nebula.write(prompt.home, { ["given.lua"] = "given = 41 return given" })
    prompt:line(".load given.lua", "41")
    prompt:line("given", "41")
    prompt:line("given + 1", "42")
    prompt:line("_1 + _2", "83")
    prompt:type ".watch 0.01 (function() given = given + 1 return given end)()\r"
    prompt:expect "44"
    prompt:type "\3"
    prompt:expect "interrupted"
    prompt:expect(prompt.prompt)
    prompt:line(".tabels", "did you mean .tables?")
    prompt:line(".help", ".explain SQL")
    prompt:type ".quit\r"
    assert.equal(0, prompt.process:wait(60).status)
  end)

  it("tell of native functions, methods and Lua's own from their documents", function()
    local prompt <close> = open()
    prompt:line("help()", "help(db)")
    prompt:line("help(nebula.crypto.uuid_v7)", "nebula.crypto.uuid_v7(")
    prompt:line("help(db.query)", "db:query(sql, ...)")
    prompt:line("help(db)", "pool:acquire(")
    prompt:line("help 'nebula.time.parse'", "infinity")
    prompt:line("help(storage.get_job)", "A job with all its columns, or nil.")
    prompt:line("help(print)", "")
  end)

  it("run init.lua at the start", function()
    local home = nebula.scratch()
    nebula.write(home, { [".config/nebula/init.lua"] = "greeting = 'from init' .. '.lua'" })
    local prompt <close> = prompts.open({}, nil, home)
    prompt:line("greeting", "from init.lua")
  end)

  it("write nothing where the prompt is read-only", function()
    local prompt <close> = open { "repl", "--read-only" }
    prompt:line("db:exec 'DELETE FROM parcels'", "read-only transaction")
    prompt:line("blobs:upload('key', 'data')", "read-only")
    prompt:line("blobs:abort_uploads { older_than = 0 }", "read-only")
    prompt:line("storage:run_migrations()", "read-only")
    prompt:line("db:value 'SELECT count(*) FROM parcels'", "2")
    prompt:line(".read-only off", "start another to write")
    assert.equal(2, db:value "SELECT count(*) FROM parcels")
  end)

  it("switch to read-only and back", function()
    local prompt <close> = open()
    prompt:type ".read-only\r"
    prompt:expect "(read-only)> "
    prompt:type "db:exec 'DELETE FROM parcels'\r"
    prompt:expect "read-only transaction"
    prompt:line(".read-only off", "read-only: off")
    prompt:line("db:exec 'UPDATE parcels SET weight = weight'", "2")
  end)

  it("complete commands, tables, columns and keys inside strings", function()
    local prompt <close> = open()
    prompt:line("blobs:upload('archive/day-1.zst', 'x')", "file:")
    prompt:line("db:value 'SELECT 1'", "1")
    child.await("the tables to be read", 60, function()
      prompt:type "sql 'SELECT weight FROM parc\t"
      prompt:type "\5 --\21" -- the line's end, and away with it
      core.task.sleep(0.02)
      return prompt.output:find("FROM parcels", 1, true)
    end)
    prompt:type "\21"
    prompt:type "sql [[SELECT id FROM parcels WHERE wei\t"
    prompt:expect "WHERE weight"
    prompt:type "\21.exp\t"
    prompt:expect ".explain"
    prompt:type "\21"
    child.await("the keys to be read", 60, function()
      prompt:type "blobs:get('archive/d\t\21"
      core.task.sleep(0.02)
      return prompt.output:find("archive/day-1.zst", prompt.seen, true)
    end)
  end)

  it("complete options, files, names of the project, and show signatures", function()
    local prompt <close> = open()
    nebula.write(prompt.home, { ["given_file.lua"] = "", ["policies/gentle.lua"] = "return {}" })
    for typed, shown in pairs {
      ["queue.push('x', {}, { pri\t"] = "priority",
      ["nebula.pg.connect { slow\t"] = "slow_query",
      [".load given_\t"] = "given_file.lua",
      ["nebula.policy.load('gen\t"] = "gentle",
      ["queue.push('inv\t"] = "inventory",
      ["storage:list_jobs { status = 'pend\t"] = "'pending",
      ["db:value(\t"] = "db:value(sql, ...)",
      ["nebula.time.pars\t"] = "nebula.time.parse(",
      [".timing of\t"] = "off",
    } do
      prompt:type(typed)
      prompt:expect(shown)
      prompt:type "\21"
    end
  end)

  it("write what a task writes above the line, and keep URLs with passwords out of the history", function()
    local prompt <close> = open()
    prompt:line("task.spawn(function() while not nebula.system.stat 'go' do task.sleep(0.01) end "
      .. "io.write('from ', 'io.write') end)", "task")
    prompt:type "6 *"
    prompt:expect "6 *"
    nebula.write(prompt.home, { ["go/on"] = "" })
    prompt:expect "from io.write"
    prompt:expect "6 *"
    prompt:line(" 7", "42")
    prompt:line("u = 'postgresql://me:hunter2@host/db'", "")
    prompt:type ".quit\r"
    prompt.process:wait(60)
    assert.falsy(child.read_file(prompt.home .. "/state/nebula/history"):find("hunter2", 1, true))
  end)
end)
