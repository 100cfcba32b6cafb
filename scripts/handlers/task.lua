-- An admin task as a job: `{"handler": "task", "task": "purge-jobs", "options": {"keep": {"dead": "90d"}}}`. Its
-- result is the job's. Where it runs already, anywhere, the job comes again later.
local check = require "nebula.check"
local tasks = require "nebula.tasks"

return {
  summary = "Run an admin task",
  run = function(ctx, job)
    local payload = job.payload
    return tasks.run(ctx.storage, check.text("payload.task", payload.task), payload.options)
  end,
}
