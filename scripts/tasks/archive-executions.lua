-- tasks/archive-executions.lua: nebula task archive-executions --older-than 30d [--dry-run] [--yes]
--
-- Each object holds up to `per_object` executions, those that ended first. While one is read back, the
-- rows of the next are read. The keys of those under way are noted before they are written, so that an
-- interrupted run leaves nothing behind for good.
local archive = require "nebula.archive"
local nebula = require "nebula"
local workflow_names = require "nebula.tasks.workflow_names"

local LONGEST = 1 -- seconds of a part that the rest after it is measured by

local function which(ctx, opts)
  return {
    status = opts.status,
    before = ctx.db:value("SELECT now() - make_interval(secs => $1)", opts.older_than),
    workflows = workflow_names("archive-executions", ctx.db, opts.workflow),
  }
end

local function count(ctx, of)
  return ctx.db:value("SELECT count(*)" .. archive.WHICH, of.status, of.before, of.workflows)
end

-- Archives part after part, until nothing is left or somebody asks to stop. Two do it, of which one at a
-- time has the turn to read rows; `run` is what they share.
local function work(ctx, run, checkpoint)
  while true do
    local turn <close> = run.turn:acquire()
    if run.stopped or run.ended then return end
    local _, stopped = nebula.try(ctx.throttle, math.min(run.took, LONGEST), "executions")
    run.stopped = stopped
    if stopped then return end
    local key, started = archive.new_key(run.prefix), nebula.time.monotonic()
    checkpoint:save { key = key }
    local manifest = archive.write(ctx, { which = run.which, key = key, limit = run.limit, after = run.after,
      checkpoint = checkpoint,
      moved = function(after)
        run.after, run.took = after, nebula.time.monotonic() - started
        turn:release()
      end })
    if not manifest then
      run.ended = true
      return checkpoint:save(nil)
    end
    run.add(manifest)
  end
end

return {
  summary = "Move finished executions, with their jobs and history, into the blob store",
  destructive = true,

  options = {
    older_than = { type = "duration", default = "30d", help = "time since they ended" },
    status = { type = "list", choices = archive.FINISHED, default = archive.FINISHED, help = "which executions" },
    workflow = { type = "list", default = {}, help = "only these workflows, by name" },
    prefix = { default = "archive/executions/", help = "what the keys begin with" },
    per_object = { default = 500000, min = 1, max = 1000000, help = "executions in one object" },
  },

  preview = function(ctx, opts) return { would_archive = count(ctx, which(ctx, opts)) } end,

  run = function(ctx, opts)
    local slots = { ctx.checkpoint:slot "1", ctx.checkpoint:slot "2" }
    for _, checkpoint in ipairs(slots) do
      local left = checkpoint:load()
      if left then
        ctx.log.info("removing what an interrupted run left", { key = left.key })
        archive.discard(ctx.blobs, left.key)
      end
    end
    local done = { archives = 0, executions = 0, jobs = 0, bytes = 0, size = 0 }
    local run = { which = which(ctx, opts), prefix = opts.prefix, limit = opts.per_object, took = 0,
      turn = nebula.task.semaphore(1) }
    function run.add(manifest)
      ctx.log.info("archived", { key = manifest.key, executions = manifest.counts.execution, size = manifest.size })
      done.archives, done.executions = done.archives + 1, done.executions + manifest.counts.execution
      done.jobs, done.bytes = done.jobs + manifest.counts.job, done.bytes + manifest.bytes
      done.size = done.size + manifest.size
      ctx.progress(done.executions, run.total, "executions")
    end
    nebula.task.scope(function(scope)
      for _, checkpoint in ipairs(slots) do scope:spawn(work, ctx, run, checkpoint) end
      run.total = count(ctx, run.which)
    end)
    if run.stopped then error(run.stopped, 0) end
    return done
  end,
}
