-- Ends the uploads that were cut off, and removes states that no execution names any more.
return {
  summary = "Remove what interrupted uploads left in the blob store",
  destructive = true,
  options = { older_than = { type = "duration", default = "1d", min = 60, help = "age of what is taken for cut off" } },

  preview = function(ctx, opts)
    return { cut_off_uploads = ctx.db:value(
      "SELECT count(*) FROM blob_uploads WHERE started_at < now() - make_interval(secs => $1)", opts.older_than) }
  end,

  run = function(ctx, opts) return ctx.storage:sweep_blobs { older_than = opts.older_than } end,
}
