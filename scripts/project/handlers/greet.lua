-- handlers/greet.lua: works the jobs of: nebula queue push greet '{"name": "world"}'
local nebula = require "nebula"

return {
  summary = "Write a greeting down, exactly once",
  deadline = "30s",

  run = function(ctx, job)
    local name = job.payload.name
    if type(name) ~= "string" then
      error(nebula.error { kind = "validation", message = "the payload has no name" })
    end
    return ctx.tx(function(tx) -- the row and the job's completion commit together, or neither
      tx:exec("INSERT INTO greetings (name, text) VALUES ($1, $2)", name, "Hello, " .. name .. "!")
      return { greeted = name } -- the job's result
    end)
  end,
}
