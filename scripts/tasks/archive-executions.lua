-- tasks/archive-executions.lua: nebula task archive-executions --older-than 30d [--dry-run] [--yes]
--
-- Each object holds up to `per_object` executions, those that ended first. The key of the one under
-- way is noted before it is written, so that an interrupted run leaves nothing behind for good.
local archive = require "nebula.archive"
local nebula = require "nebula"
local workflow_names = require "nebula.tasks.workflow_names"

local function which(ctx, opts)
  return {
    status = opts.status,
    before = ctx.db:value("SELECT now() - make_interval(secs => $1)", opts.older_than),
    workflows = workflow_names("archive-executions", ctx.db, opts.workflow),
  }
end

return {
  summary = "Move finished executions, with their jobs and history, into the blob store",
  destructive = true,

  options = {
    older_than = { type = "duration", default = "30d", help = "time since they ended" },
    status = { type = "list", choices = archive.FINISHED, default = archive.FINISHED, help = "which executions" },
    workflow = { type = "list", default = {}, help = "only these workflows, by name" },
    prefix = { default = "archive/executions/", help = "what the keys begin with" },
    per_object = { default = 200000, min = 1, max = 1000000, help = "executions in one object" },
  },

  preview = function(ctx, opts)
    local of = which(ctx, opts)
    return { would_archive = ctx.db:value("SELECT count(*)" .. archive.WHICH, of.status, of.before, of.workflows) }
  end,

  run = function(ctx, opts)
    local left = ctx.checkpoint:load()
    if left then
      ctx.log.info("removing what an interrupted run left", { key = left.key })
      archive.discard(ctx.blobs, left.key)
    end
    local of = which(ctx, opts)
    local total = ctx.db:value("SELECT count(*)" .. archive.WHICH, of.status, of.before, of.workflows)
    local done = { archives = 0, executions = 0, jobs = 0, bytes = 0, size = 0 }
    while true do
      local key = archive.new_key(opts.prefix)
      ctx.checkpoint:save { key = key }
      local started = nebula.time.monotonic()
      local manifest = archive.write(ctx, of, key, opts.per_object)
      if not manifest then break end
      ctx.log.info("archived", { key = key, executions = manifest.counts.execution, size = manifest.size })
      done.archives, done.executions = done.archives + 1, done.executions + manifest.counts.execution
      done.jobs, done.bytes = done.jobs + manifest.counts.job, done.bytes + manifest.bytes
      done.size = done.size + manifest.size
      ctx.progress(done.executions, total, "executions")
      ctx.throttle(nebula.time.monotonic() - started, "executions")
    end
    ctx.checkpoint:save(nil)
    return done
  end,
}
