-- tasks/copy-blobs.lua: nebula task copy-blobs --to file:/srv/blobs | --to s3://bucket [--to-endpoint URL]
--
-- Copies what the other store lacks, or has in another size or older. An interrupted run goes on where
-- it ended. Credentials for the other store come from the profile named, or the AWS_* chain.
local nebula = require "nebula"
local raise = require "nebula.raise"
local stores = require "nebula.blobs"

local PAGE = 200
local KEPT = { "content_type", "content_encoding", "content_disposition", "content_language", "cache_control",
  "metadata" }

local function open(opts)
  if opts.to:find "^file:/" then return stores.open { url = opts.to } end
  local bucket = opts.to:match "^s3://([^/]+)/?$"
  if not bucket then
    raise("config", "copy-blobs: --to is file:/a/directory or s3://bucket, not %q", opts.to)
  end
  return stores.open { bucket = bucket, endpoint = opts.to_endpoint, region = opts.to_region,
    profile = opts.to_profile, path_style = opts.to_endpoint ~= nil }
end

local function same(there, object)
  return there ~= nil and there.size == object.size
    and nebula.time.parse(there.last_modified) >= nebula.time.parse(object.last_modified)
end

-- Bytes copied; nil where the object was there, or is gone by now.
local function copy(from, to, object)
  if same(to:head(object.key), object) then return nil end
  local reader <close> = from:reader(object.key)
  if not reader then return nil end
  local info, kept = reader:info(), {}
  for _, name in ipairs(KEPT) do kept[name] = info[name] end
  return to:put(object.key, reader, kept).size
end

local function each_page(from, prefix, after, fn)
  local page = {}
  for object in from:list { prefix = prefix, start_after = after } do
    page[#page + 1] = object
    if #page == PAGE then
      fn(page)
      page = {}
    end
  end
  if #page > 0 then fn(page) end
end

return {
  summary = "Copy objects into another store: a directory to S3, a bucket to another one",

  options = {
    to = { type = "string", required = true, help = "file:/a/directory, or s3://bucket" },
    to_endpoint = { type = "string", help = "of an S3 service that is not AWS" },
    to_region = { type = "string", help = "of the bucket" },
    to_profile = { type = "string", help = "of ~/.aws/credentials, for the other store" },
    prefix = { default = "", help = "only keys that begin so" },
    concurrency = { default = 8, min = 1, max = 64, help = "objects copied at once" },
  },

  preview = function(ctx, opts)
    local to <close> = open(opts)
    local found = { objects = 0, would_copy = 0, bytes = 0 }
    each_page(ctx.blobs, opts.prefix, nil, function(page)
      local there = nebula.task.map(page, function(object) return same(to:head(object.key), object) end,
        { concurrency = opts.concurrency })
      found.objects = found.objects + #page
      for i, object in ipairs(page) do
        if not there[i] then found.would_copy, found.bytes = found.would_copy + 1, found.bytes + object.size end
      end
    end)
    return found
  end,

  run = function(ctx, opts)
    local to <close> = open(opts)
    local place = { to = opts.to, endpoint = opts.to_endpoint, prefix = opts.prefix }
    local saved = ctx.checkpoint:load()
    local goes_on = saved and saved.to == place.to and saved.endpoint == place.endpoint and saved.prefix == place.prefix
    if goes_on then ctx.log.info("copying goes on", { after = saved.after }) end
    local done = { objects = 0, copied = 0, bytes = 0 }
    each_page(ctx.blobs, opts.prefix, goes_on and saved.after or nil, function(page)
      local copied = nebula.task.map(page, function(object) return copy(ctx.blobs, to, object) or false end,
        { concurrency = opts.concurrency })
      for _, bytes in ipairs(copied) do
        if bytes then done.copied, done.bytes = done.copied + 1, done.bytes + bytes end
      end
      done.objects, place.after = done.objects + #page, page[#page].key
      ctx.checkpoint:save(place)
      ctx.progress(done.objects, nil, "objects")
      ctx.throttle(0)
    end)
    ctx.checkpoint:save(nil)
    return done
  end,
}
