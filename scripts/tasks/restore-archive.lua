-- tasks/restore-archive.lua: nebula task restore-archive --archive KEY[,KEY] [--execution ID,...]
--
-- What is in the database already stays as it is; the archives stay where they are.
local archive = require "nebula.archive"
local check = require "nebula.check"
local raise = require "nebula.raise"

-- The manifests of the archives that are meant, all read before anything is written.
local function chosen(ctx, opts)
  for _, id in ipairs(opts.execution) do
    if not check.is_uuid(id) then raise("config", "restore-archive: --execution wants UUIDs, not %q", id) end
  end
  local keys = opts.archive
  if opts.all then
    keys = {}
    for key in archive.list(ctx.blobs, opts.prefix) do keys[#keys + 1] = key end
  end
  if #keys == 0 then
    raise("config", opts.all and "restore-archive: there is no archive below %s"
      or "restore-archive: name an archive by --archive, or --all of them (below %s)", opts.prefix)
  end
  local manifests = {}
  for i, key in ipairs(keys) do manifests[i] = archive.manifest(ctx.blobs, key) end
  return manifests
end

return {
  summary = "Bring archived executions back into the database",

  options = {
    archive = { type = "list", default = {}, help = "keys, as list-archives prints them" },
    all = { default = false, help = "every archive below the prefix" },
    prefix = { default = "archive/executions/", help = "where --all looks" },
    execution = { type = "list", default = {}, help = "only these executions, by id" },
  },

  preview = function(ctx, opts)
    local found = { archives = 0, executions = 0, jobs = 0 }
    for _, manifest in ipairs(chosen(ctx, opts)) do
      archive.verify(ctx.blobs, manifest)
      found.archives, found.executions = found.archives + 1, found.executions + manifest.counts.execution
      found.jobs = found.jobs + manifest.counts.job
    end
    return found
  end,

  run = function(ctx, opts)
    local manifests = chosen(ctx, opts)
    local done = { archives = 0, executions = 0, history = 0, jobs = 0 }
    for i, manifest in ipairs(manifests) do
      local rows = archive.restore(ctx.db, ctx.blobs, manifest, #opts.execution > 0 and opts.execution or nil)
      done.archives, done.executions = i, done.executions + rows.execution
      done.history, done.jobs = done.history + rows.history, done.jobs + rows.job
      ctx.progress(i, #manifests, "archives")
      ctx.throttle()
    end
    return done
  end,
}
