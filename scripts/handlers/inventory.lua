-- handlers/inventory.lua: works the jobs of `nebula run`: one file each.
--
-- The file's bytes become an artifact under a key made of its path, so that a second run replaces
-- it. The result goes into the execution's state, in the transaction that completes the job: a job
-- that runs twice books once.
local nebula = require "nebula"
local inventory = require "nebula.inventory"

local SMALL = 1 << 20 -- read at once up to here; larger files are streamed

-- The artifact's URL, size and SHA-256.
local function store(ctx, job, path, key)
  local info = nebula.fs.stat(path)
  if not info then error(nebula.error { kind = "not_found", message = path .. " is gone" }) end
  local data = info.size <= SMALL and nebula.fs.read(path) or { file = path }
  local url, kept = ctx.blobs:upload(key, data, { execution_id = job.execution_id })
  return url, kept.size, kept.sha256
end

return {
  summary = "Keep a file as an artifact, with its size and SHA-256 in the execution's state",
  deadline = "10m",

  run = function(ctx, job)
    local file = inventory.decode(job.payload.path)
    local key = inventory.key(job.payload.root, file)
    local url, size, digest = store(ctx, job, job.payload.root .. "/" .. file, key)
    local result = { path = job.payload.path, key = key, url = url, size = size, sha256 = digest }

    return ctx.tx(function(tx)
      ctx.storage:update_execution({ id = job.execution_id, status = "running" }, tx)
      ctx.storage:update_execution({ id = job.execution_id, status = "completed", state = result }, tx)
      return { bytes = size }
    end)
  end,
}
