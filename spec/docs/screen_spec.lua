-- The README's screens: what is typed there, typed into the real prompt, makes just that screen.
local blocks = require "spec.docs.blocks"
local core = require "nebula"
local postgres = require "spec.support.postgres"
local prompts = require "spec.repl.prompt"

local PROMPT = "nebula orders> "

describe("the README's screens", function()
  local env

  lazy_setup(function()
    env = { DATABASE_URL = postgres.database(), PAGER = "" }
    local storage = require("nebula.storage").new { database_url = env.DATABASE_URL }
    storage:run_migrations { log = function() end }
    storage:close()
    local db <close> = core.pg.connect { url = env.DATABASE_URL }
    db:exec [[
      INSERT INTO workflow_jobs (id, workflow_id, execution_id, scheduled_at, status, created_at, payload)
      SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), now(),
        CASE WHEN g <= 1204 THEN 'completed' WHEN g <= 1341 THEN 'pending' ELSE 'dead' END, now(),
        '{"handler": "invoice", "url": "https://example.org/7.pdf", "lines": [1, 2.5]}'
      FROM generate_series(1, 1352) g
    ]]
  end)

  for _, block in ipairs(blocks.read "README.md") do
    if block.language == "screen" then
      it(("at line %d are as shown"):format(block.line), function()
        local prompt <close> = prompts.open(env, nil, nil, { rows = 60, columns = 92 })
        for line in block.text:gmatch "[^\n]+" do
          local typed = line:match("^" .. PROMPT .. "(.*)$")
          if typed then prompt:line(typed, "") end
        end
        local text = prompt.screen:text():gsub("\n[^\n]*$", "") -- the last prompt
        text = text:gsub(prompt.prompt, PROMPT)
        text = text:sub((assert(text:find(PROMPT, 1, true))))
        assert.equal((block.text:gsub("\n$", "")), (text:gsub("[ \n]+$", "")))
      end)
    end
  end
end)
