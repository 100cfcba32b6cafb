-- doctor/blobs.lua: what may be wrong with the blob store.
local blobs = require "nebula.blobs"
local config = require "nebula.config"
local nebula = require "nebula"
local system = require "nebula.system"
local ui = require "nebula.ui"

local checks = {}

local SKEW_SECONDS, SKEW_MOST = 60, 900 -- S3 refuses signatures from 15 minutes on
local LEAST_FREE, LEAST_SHARE = 1 << 30, 0.05
local MONTHS = { Jan = 1, Feb = 2, Mar = 3, Apr = 4, May = 5, Jun = 6, Jul = 7, Aug = 8, Sep = 9, Oct = 10, Nov = 11,
  Dec = 12 }

local REMEDIES = {
  NoSuchBucket = "create the bucket, or correct S3_BUCKET",
  InvalidAccessKeyId = "correct S3_ACCESS_KEY_ID",
  SignatureDoesNotMatch = "correct S3_SECRET_ACCESS_KEY (and S3_REGION)",
  RequestTimeTooSkewed = "synchronise this machine's clock",
  AccessDenied = "grant s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket on the bucket",
  ExpiredToken = "renew the session token",
  UntrustedCertificate = "name its authority: AWS_CA_BUNDLE, or s3 = { ca_file = ... } in nebula.conf.lua",
}

-- What each operation says of the rights, in this order; a failure ends the list.
local function try_operations(self, store)
  local key = ".nebula-doctor/" .. nebula.crypto.uuid_v7()
  local steps = {
    { "list", function()
      local objects, state, first, closing = store:list { prefix = key }
      local _ <close> = closing
      objects(state, first)
    end },
    { "write", function() store:upload(key, key) end },
    { "read", function() assert(store:download(key) == key, "what was read is not what was written") end },
    { "delete", function() store:delete(key) end },
  }
  for _, step in ipairs(steps) do
    local _, err = nebula.try(step[2])
    if err then
      if err.kind == "cancelled" then error(err, 0) end
      local unreachable = err.kind == "config" and "set what it names"
        or store.kind == "s3" and "start the service, or correct S3_ENDPOINT and S3_REGION"
      self:fail("blobs", ("%s: cannot %s: %s"):format(store.place, step[1], require("nebula.report").line(err)),
        REMEDIES[err.code] or unreachable or "make the directory writable for this user")
      return
    end
  end
  self:ok("blobs", "%s: may list, write, read and delete", store.place)
end

local function free_disk(self, directory)
  local space = system.space(directory)
  if not space then return end -- nothing was ever stored, and it cannot be made: said above
  local text = ("%s of %s are free under %s"):format(ui.bytes(space.free), ui.bytes(space.total), directory)
  if space.free < LEAST_FREE or space.free < space.total * LEAST_SHARE then
    self:warn("disk", text, "delete artifacts that are no longer wanted, or move the directory to a larger disk")
  else
    self:ok("disk", "%s", text)
  end
end

-- The service tells its time with each answer, also with one that refuses.
local function clock(self, s3)
  local before = nebula.time.now()
  local bundle = os.getenv "AWS_CA_BUNDLE"
  local answer = nebula.try(nebula.http.request, { url = s3.endpoint, method = "HEAD", deadline = 10,
    ca_file = s3.ca_file or bundle ~= "" and bundle or nil, proxy = s3.proxy })
  local date = answer and answer.headers.date
  local day, month, year, time = (date or ""):match "(%d+) (%a+) (%d+) (%d+:%d+:%d+)"
  if not (day and MONTHS[month]) then return end
  local there = nebula.time.parse(("%s-%02d-%02dT%sZ"):format(year, MONTHS[month], tonumber(day), time))
  local skew = there - before
  if math.abs(skew) > SKEW_SECONDS then
    local add = math.abs(skew) > SKEW_MOST and self.fail or self.warn
    local text = "the service's clock is %.0f s %s this machine's; signatures are refused from %d s on"
    add(self, "S3 clock", text:format(math.abs(skew), skew > 0 and "ahead of" or "behind", SKEW_MOST),
      "synchronise this machine's clock")
  else
    self:ok("S3 clock", "the service's clock is within %d s of this machine's", math.ceil(math.abs(skew)) + 1)
  end
end

--- Every check of the configured store.
function checks.run(self)
  local store <close> = blobs.open()
  try_operations(self, store)
  if store.kind == "directory" then
    free_disk(self, (store.place:gsub("^file:", "")))
  elseif config.settings().s3.endpoint then
    clock(self, config.settings().s3)
  end
end

return checks
