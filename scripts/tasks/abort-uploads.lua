-- tasks/abort-uploads.lua: nebula task abort-uploads --older-than 1d [--dry-run] [--yes]
local nebula = require "nebula"

local function old(ctx, opts)
  local before, uploads = nebula.time.now() - opts.older_than, {}
  for _, upload in ipairs(ctx.blobs:uploads { prefix = opts.prefix }) do
    if nebula.time.parse(upload.initiated) < before then uploads[#uploads + 1] = upload end
  end
  return uploads
end

return {
  summary = "Abort multipart uploads that were begun and never finished; their parts cost space",
  destructive = true,

  options = {
    older_than = { type = "duration", default = "1d", help = "time since they were begun" },
    prefix = { default = "", help = "only keys that begin so" },
  },

  preview = function(ctx, opts) return { would_abort = #old(ctx, opts) } end,

  run = function(ctx, opts)
    local uploads = old(ctx, opts)
    for i, upload in ipairs(uploads) do
      ctx.blobs:abort(upload)
      ctx.progress(i, #uploads, "uploads")
      ctx.throttle(0)
    end
    return { aborted = #uploads }
  end,
}
