-- tasks/sweep-blobs.lua: nebula task sweep-blobs [--older-than 1d] [--dry-run] [--yes]
--
-- What the database itself knows to be left over: uploads that it noted and that never ended, and large
-- states that a later one replaced, or whose execution was never made. It lists no object; those that the
-- database does not know at all are gc-blobs' work.
return {
  summary = "Delete what cut-off uploads left, and large states that no execution has, as the database knows them",
  destructive = true,
  options = { older_than = { type = "duration", default = "1d", min = 60, help = "age of what is left over" } },

  preview = function(ctx, opts)
    return ctx.storage:sweep_blobs { older_than = opts.older_than, dry_run = true }
  end,

  run = function(ctx, opts) return ctx.storage:sweep_blobs { older_than = opts.older_than } end,
}
