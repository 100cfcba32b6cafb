-- A job worked by whoever answers at a URL, in any language:
--
--   {"handler": "http", "url": "https://engine.example/jobs", "body": {"invoice_id": 7}, "timeout": "30s"}
--
-- The body is posted as JSON. An answer of 2xx completes the job, its result is {status, body}. 408, 425,
-- 429, 5xx and no answer at all fail it, to be tried again as the policy says, or when Retry-After says;
-- any other status fails it as nothing that a second try would mend. Redirects are not followed.
--
-- Requests are signed as Standard Webhooks 1.0 says (https://www.standardwebhooks.com):
--
--   webhook-id         the job's id, the same at each attempt: an idempotency key
--   webhook-timestamp  when it was sent, in epoch seconds: refuse what is older than a few minutes
--   webhook-signature  "v1," and the base64 of HMAC-SHA256(secret, id "." timestamp "." body)
--
-- NEBULA_WEBHOOK_SECRET holds the secret: "whsec_" and base64. Several, separated by blanks, give as many
-- signatures, so that a secret can be changed without a gap. Without it nothing is signed.
local check = require "nebula.check"
local nebula = require "nebula"
local options = require "nebula.options"
local raise = require "nebula.raise"

local TIMEOUT = 30 -- seconds
local MOST_RESULT = 256 * 1024 -- bytes of an answer
local FIELDS = { handler = true, url = true, body = true, headers = true, timeout = true }
local SUCCESS = {}
for status = 200, 299 do SUCCESS[#SUCCESS + 1] = status end

local function secrets()
  local keys = {}
  for text in (os.getenv "NEBULA_WEBHOOK_SECRET" or ""):gmatch "%S+" do
    local key = nebula.try(nebula.crypto.unbase64, text:match "^whsec_(.+)$")
    if not key then
      raise("config", "NEBULA_WEBHOOK_SECRET wants whsec_ and base64, or several of that, separated by blanks")
    end
    keys[#keys + 1] = key
  end
  return keys
end

-- The headers that say which job this is, and that it comes from us.
local function signed(job, body)
  local stamp = tostring(math.floor(nebula.time.now()))
  local signatures = {}
  for i, key in ipairs(secrets()) do
    local text = ("%s.%s.%s"):format(job.id, stamp, body)
    signatures[i] = "v1," .. nebula.crypto.base64(nebula.crypto.hmac(key, text, { raw = true }))
  end
  return {
    ["webhook-id"] = job.id, ["webhook-timestamp"] = stamp,
    ["webhook-signature"] = #signatures > 0 and table.concat(signatures, " ") or nil,
    ["nebula-attempt"] = (job.retry_count or 0) + 1,
  }
end

-- What is kept of an answer: JSON as such, anything else as text.
local function kept(answer)
  local body = answer.body
  if body == "" then return { status = answer.status } end
  local decoded
  if (answer.headers["content-type"] or ""):find("json", 1, true) then
    decoded = nebula.try(nebula.json.decode, body)
  end
  if decoded == nil then decoded = utf8.len(body) and body:gsub("%z", "\u{FFFD}") or nil end
  return { status = answer.status, body = decoded, bytes = #body }
end

return {
  summary = "Post the job to a URL",
  run = function(_, job)
    local payload = check.fields("the http job's payload", job.payload, FIELDS)
    local url = check.text("payload.url", payload.url)
    local timeout = options.duration(payload.timeout or TIMEOUT)
      or raise("validation", "payload.timeout wants a duration, not %s", tostring(payload.timeout))
    local body = nebula.json.encode(payload.body == nil and nebula.json.object() or payload.body)
    local headers = signed(job, body)
    headers["content-type"] = "application/json"
    for name, value in pairs(check.fields("payload.headers", payload.headers or {}, payload.headers or {})) do
      if not headers[name:lower()] then headers[name] = value end
    end
    return kept(nebula.http.request {
      url = url, method = "POST", headers = headers, body = body, deadline = timeout, max_bytes = MOST_RESULT,
      expect = SUCCESS,
    })
  end,
}
