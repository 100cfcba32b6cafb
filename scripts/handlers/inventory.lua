-- handlers/inventory.lua: works the jobs of `nebula run`: one file each.
--
-- The file's bytes become an artifact under a key made of its path, so that a second run replaces
-- it. The result goes into the execution's state, in the transaction that completes the job: a job
-- that runs twice books once.
local nebula = require "nebula"
local inventory = require "nebula.inventory"

local SMALL = 1 << 20 -- read at once up to here; larger files are streamed

local KEEP = [[
  INSERT INTO blobs (key, execution_id, size, sha256, url)
  VALUES ($1, $2, $3, $4, $5)
  ON CONFLICT (key)
  DO UPDATE SET execution_id = excluded.execution_id, size = excluded.size, sha256 = excluded.sha256,
    url = excluded.url, created_at = now()
]]

-- The artifact's URL, size and SHA-256.
local function store(ctx, path, key)
  local info = nebula.fs.stat(path)
  if not info then error(nebula.error { kind = "not_found", message = path .. " is gone" }) end
  if info.size <= SMALL then
    local data = nebula.fs.read(path)
    return ctx.blobs:upload(key, data), #data, nebula.crypto.sha256(data)
  end
  local digest, size = nebula.fs.hash(path)
  return ctx.blobs:upload(key, { file = path }), size, digest
end

return {
  summary = "Keep a file as an artifact, with its size and SHA-256 in the execution's state",
  deadline = "10m",

  run = function(ctx, job)
    local file = inventory.decode(job.payload.path)
    local key = inventory.key(job.payload.root, file)
    local url, size, digest = store(ctx, job.payload.root .. "/" .. file, key)
    local result = { path = job.payload.path, key = key, url = url, size = size, sha256 = digest }

    return ctx.tx(function(tx)
      tx:exec(KEEP, key, job.execution_id, size, digest, url)
      ctx.storage:update_execution({ id = job.execution_id, status = "running" }, tx)
      ctx.storage:update_execution({ id = job.execution_id, status = "completed", state = result }, tx)
      return { bytes = size }
    end)
  end,
}
