-- checksum.lua: works jobs pushed by queue.push("checksum", { key = "reports/7.pdf", sha256 = "..." }).
-- A handler gets a context and the job; what it returns is the job's result, what it raises is
-- judged by the policy: another try, or dead.
local nebula = require "nebula"

return {
  summary = "Read an artifact back and compare its SHA-256",

  run = function(ctx, job)
    local bytes = ctx.blobs:download(job.payload.key)
    if not bytes then
      error(nebula.error { kind = "not_found", message = job.payload.key .. " is not in the store" })
    end

    local found = nebula.crypto.sha256(bytes)
    if found ~= job.payload.sha256 then
      error(nebula.error { kind = "validation", message = job.payload.key .. " has the SHA-256 " .. found })
    end
    return { bytes = #bytes }
  end,
}
