-- tasks/list-archives.lua: nebula task list-archives [--verify]
local archive = require "nebula.archive"
local nebula = require "nebula"

return {
  summary = "The archives of executions in the blob store",
  read_only = true,

  options = {
    prefix = { default = "archive/executions/", help = "what their keys begin with" },
    verify = { default = false, help = "read each to its end and compare it with its manifest" },
  },

  run = function(ctx, opts)
    local rows = {}
    for key in archive.list(ctx.blobs, opts.prefix) do
      local manifest, err = nebula.try(archive.manifest, ctx.blobs, key)
      if manifest and opts.verify then err = select(2, nebula.try(archive.verify, ctx.blobs, manifest)) end
      rows[#rows + 1] = {
        archive = key, executions = manifest and manifest.counts.execution, jobs = manifest and manifest.counts.job,
        size = manifest and manifest.size, first = manifest and manifest.ended.first,
        last = manifest and manifest.ended.last, state = err and err.message or opts.verify and "verified" or "listed",
      }
      ctx.progress(#rows, nil, "archives")
    end
    return { rows = rows, columns = { "archive", "executions", "jobs", "size", "first", "last", "state" } }
  end,
}
