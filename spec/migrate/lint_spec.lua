-- Dangerous DDL is named with its rule; what is safe, or allowed with a reason, is not.
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local lint = require "nebula.migrate.lint"
local nebula = require "nebula"
local program = require "spec.support.nebula"

describe("nebula migrate lint", function()
  local function findings(name, text)
    local path = directory.make("lint-" .. child.next_number "directories")
    nebula.fs.write(path .. "/" .. name, text)
    return lint.directory(path)
  end

  local function rules(text, name)
    local names = {}
    for i, one in ipairs(findings(name or "V1__x.sql", text)) do names[i] = one.rule end
    return table.concat(names, " ")
  end

  local CASES = {
    { "CREATE INDEX i ON t (a)", "index" },
    { "CREATE UNIQUE INDEX IF NOT EXISTS i ON public.t (a)", "index" },
    { "CREATE INDEX CONCURRENTLY i ON t (a)", "" },
    { "CREATE INDEX CONCURRENTLY ON t (a)", "unnamed" },
    { "CREATE TABLE t (a INT); CREATE INDEX ON t (a); ALTER TABLE t ALTER a TYPE TEXT", "" },
    { "CREATE TABLE IF NOT EXISTS public.t (a INT); CREATE INDEX ON t (a)", "" },
    { 'CREATE TABLE "T" (a INT); CREATE INDEX ON t (a)', "index" },
    { "ALTER TABLE t ADD COLUMN a INT NOT NULL", "not_null" },
    { "ALTER TABLE t ADD a INT NOT NULL DEFAULT 0, ADD b TEXT", "" },
    { "ALTER TABLE t ALTER COLUMN a SET NOT NULL", "not_null" },
    { "ALTER TABLE t VALIDATE CONSTRAINT c; ALTER TABLE t ALTER COLUMN a SET NOT NULL", "" },
    { "ALTER TABLE t ADD a UUID DEFAULT gen_random_uuid()", "volatile" },
    { "ALTER TABLE t ADD a TIMESTAMPTZ DEFAULT now()", "" },
    { "ALTER TABLE t ALTER COLUMN a TYPE BIGINT", "type" },
    { "ALTER TABLE t ALTER a SET DATA TYPE BIGINT USING a::bigint", "type" },
    { "ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES u (id)", "foreign_key" },
    { "ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES u (id) NOT VALID", "" },
    { "ALTER TABLE t VALIDATE CONSTRAINT f", "" },
    { "ALTER TABLE t ADD CHECK (a > 0)", "check" },
    { "ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0) NOT VALID", "" },
    { "ALTER TABLE t ADD UNIQUE (a)", "unique" },
    { "ALTER TABLE t ADD CONSTRAINT u UNIQUE USING INDEX i", "" },
    { "ALTER TABLE t RENAME COLUMN a TO b", "rename" },
    { "ALTER TABLE t RENAME TO u", "rename" },
    { "ALTER INDEX i RENAME TO j", "rename" },
    { "ALTER TABLE t DROP COLUMN a, DROP CONSTRAINT c", "drop" },
    { "DROP TABLE IF EXISTS t", "drop" },
    { "TRUNCATE t", "drop" },
    { "ALTER TABLE t ADD a INT; UPDATE t SET a = 1", "backfill" },
    { "UPDATE t SET a = 1", "" },
    { "INSERT INTO t VALUES ('DROP TABLE t; ALTER TABLE t RENAME TO u')", "" },
    { "-- DROP TABLE t;\n/* TRUNCATE t; /* nested */ */ SELECT 1", "" },
    { "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS $body$ DROP TABLE t; $body$", "" },
  }

  for _, case in ipairs(CASES) do
    it(("finds %s in %s"):format(case[2] == "" and "nothing" or case[2], case[1]), function()
      assert.equal(case[2], rules(case[1]))
    end)
  end

  it("lets pass what is allowed with a reason, and asks for the reason", function()
    assert.equal("", rules "-- lint: allow rename, because no program reads it yet\nALTER TABLE t RENAME TO u")
    assert.equal("", rules "-- lint: allow rename, drop because both are new\nALTER TABLE t RENAME TO u; DROP TABLE v")
    assert.equal("exception rename", rules "-- lint: allow rename\nALTER TABLE t RENAME TO u")
    assert.equal("exception", rules "-- lint: allow renames, because of this\nSELECT 1")
    assert.equal("", rules('return { up = "DROP TABLE t", allow = { drop = "never released" } }', "V1__x.lua"))
    assert.equal("exception drop", rules('return { up = "DROP TABLE t", allow = { drop = "" } }', "V1__x.lua"))
  end)

  it("reads the SQL inside of functions, and names file, line and the safe way", function()
    local found = findings("V1__x.lua", [==[
return {
  up = {
    "ALTER TABLE t ADD COLUMN a INTEGER",
    function(db, migrate)
      -- db:exec "DROP TABLE commented"
      db:exec "ALTER TABLE t RENAME TO u"
      db:exec [[
        DROP TABLE v
      ]]
      migrate.backfill(db, { table = "u", set = "a = 1" })
    end,
  },
}
]==])
    assert.same({ { 4, "backfill" }, { 6, "rename" }, { 8, "drop" } },
      { { found[1].line, found[1].rule }, { found[2].line, found[2].rule }, { found[3].line, found[3].rule } })
    assert.equal(3, #found)
    assert.matches("transaction = false and migrate.backfill", found[1].message)
  end)

  it("exits 1 where something is found, and 0 where not, without a database", function()
    local project = program.scratch()
    program.write(project, { ["migrations/V1__x.sql"] = "\nDROP TABLE t;\n" })
    local result = program.run { args = { "migrate", "lint" }, cwd = project }
    assert.equal(1, result.status, result.stderr)
    assert.matches("V1__x%.sql:2: drop: programs that run", result.stdout)
    result = program.run { args = { "migrate", "lint", "--json" }, cwd = project }
    assert.equal("drop", nebula.json.decode(result.stdout)[1].rule)
    program.write(project, { ["migrations/V1__x.sql"] = "-- lint: allow drop, because it is unused\nDROP TABLE t;\n" })
    assert.equal(0, program.run({ args = { "migrate", "lint" }, cwd = project }).status)
  end)
end)
