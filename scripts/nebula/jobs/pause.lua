-- jobs/pause.lua: the queue, or a lane of it, of which no job is taken for a while. Methods of a Storage.
--
-- What runs goes on, and pushes are accepted. A pause is a row: workers of every host look for it each
-- second, claim_jobs at each claim. A job without a lane is of the lane of its workflow's id.
local check = require "nebula.check"

local pause, methods = {}, {}
pause.methods = methods

local ALL = "" -- the lane that means the whole queue

-- Conditions on workflow_jobs: its lane is not paused; and neither is the whole queue. The pauses are read
-- once a statement, before its first row.
pause.LANE_RUNS = "coalesce(lane, workflow_id::text) <> ALL (ARRAY(SELECT p.lane FROM job_pauses p))"
pause.RUNS = "NOT EXISTS (SELECT FROM job_pauses p WHERE p.lane = '') AND " .. pause.LANE_RUNS

local function lane_of(what, lane)
  if lane == nil then return ALL end
  return check.text(what .. ": lane", lane, 500)
end

--- Pauses a lane, or the whole queue.
---@param lane? string
---@param reason? string shown to whoever asks why nothing happens
---@return boolean changed false where it was paused
function methods.pause_queue(self, lane, reason)
  return self.db:exec([[
    INSERT INTO job_pauses (lane, reason)
    VALUES ($1, $2)
    ON CONFLICT (lane) DO NOTHING
  ]], lane_of("pause_queue", lane), reason and check.text("pause_queue: reason", reason, 500)) > 0
end

--- Ends the pause of a lane, or of the whole queue; lanes that were paused by name stay so.
---@param lane? string
---@return boolean changed false where it was not paused
function methods.resume_queue(self, lane)
  local changed = self.db:exec("DELETE FROM job_pauses WHERE lane = $1", lane_of("resume_queue", lane)) > 0
  if changed then self:wake() end
  return changed
end

--- What is paused: the lanes by name; the whole queue has `lane` absent and stands first.
---@return {lane?: string, paused_at: string, paused_by: string, reason?: string}[]
function methods.paused_lanes(self)
  return self.db:query [[
    SELECT nullif(lane, '') AS lane, paused_at, paused_by, reason
    FROM job_pauses
    ORDER BY job_pauses.lane
  ]]
end

return pause
