-- Every example of the documents runs as it stands, in its order, in one new project on an empty
-- database.
local child = require "spec.support.child"
local nebula = require "spec.support.nebula"
local postgres = require "spec.support.postgres"
local blocks = require "spec.docs.blocks"

local function runs(document)
  local project, environment

  lazy_setup(function()
    project = nebula.scratch()
    nebula.write(project, { ["nebula.conf.lua"] = ("return { blobs = 'file:%s/blobs' }"):format(project) })
    environment = {
      PATH = nebula.root .. "/build:" .. os.getenv "PATH",
      HOME = project,
      DATABASE_URL = postgres.database(),
    }
    local migrated = nebula.run { args = { "migrate", "up" }, env = environment, cwd = project }
    assert(migrated.status == 0, migrated.stderr)
  end)

  local function run(file, args)
    local result = child.run { file = file, args = args, env = environment, cwd = project, stdin = "", timeout = 120 }
    assert.equal(0, result.status, result.stdout .. result.stderr)
  end

  for _, block in ipairs(blocks.read(document)) do
    local place = ("line %d (%s)"):format(block.line, block.heading)
    if block.words.file then
      it("has a file at " .. place .. " that compiles", function()
        assert(load(block.text, "=" .. block.words.file, "t"))
        nebula.write(project, { [block.words.file] = block.text })
      end)
    elseif block.language == "lua" then
      it("has a script at " .. place .. " that runs", function()
        nebula.write(project, { ["example.lua"] = block.text })
        run(nebula.program, { "example.lua" })
      end)
    elseif block.language == "sh" and not block.words["by-hand"] then
      it("has commands at " .. place .. " that run", function() run("bash", { "-eu", "-c", block.text }) end)
    end
  end
end

for _, document in ipairs { "README.md", "examples/RECIPES.md" } do
  describe(document, function() runs(document) end)
end
