-- jobs.lua: the job operations of a Storage, joined from the files of jobs/, one a subject:
--
--   push     in, with the policy's admission      claim    out, under leases with fencing tokens
--   outcome  what becomes of a job that ran       manage   list, cancel, requeue, counts, workers
--   pause    lanes, or all, of which nothing is taken
local jobs = {}

for _, part in ipairs { "push", "claim", "manage" } do
  for name, method in pairs(require("nebula.jobs." .. part)) do jobs[name] = method end
end
for name, method in pairs(require("nebula.jobs.pause").methods) do jobs[name] = method end

return jobs
