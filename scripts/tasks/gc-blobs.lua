-- tasks/gc-blobs.lua: nebula task gc-blobs --prefix artifacts/ [--grace 7d] [--dry-run] [--yes]
--
-- Objects that no row of `blobs` names are first listed in blob_orphans, and deleted by a run that finds
-- them there still after the grace period, unchanged and still unowned: an upload whose row is not yet
-- written has that long. Listing goes on where an interrupted run ended. Archives are nobody's orphans, nor
-- are the artifacts of what is in them, as long as they are there.
local archive = require "nebula.archive"
local nebula = require "nebula"

local PAGE, HEADS = 1000, 32

local LIST = [[
  WITH page AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[]) AS p (key, etag, size)
  ), owned AS (
    DELETE FROM blob_orphans o WHERE o.key = ANY ($1) AND EXISTS (SELECT FROM blobs b WHERE b.key = o.key)
  )
  INSERT INTO blob_orphans (key, etag, size)
  SELECT key, etag, size FROM page p
  WHERE NOT EXISTS (SELECT FROM blobs b WHERE b.key = p.key)
  ON CONFLICT (key) DO UPDATE
  SET etag = excluded.etag, size = excluded.size,
    found_at = CASE WHEN blob_orphans.etag = excluded.etag THEN blob_orphans.found_at ELSE now() END
]]

local COUNT = [[
  SELECT count(*) AS objects, coalesce(sum(size), 0)::bigint AS bytes
  FROM unnest($1::text[], $2::bigint[]) AS p (key, size)
  WHERE NOT EXISTS (SELECT FROM blobs b WHERE b.key = p.key)
]]

local DUE = [[
  FROM blob_orphans o
  WHERE found_at <= now() - make_interval(secs => $1) AND starts_with(key, $2)
  AND NOT EXISTS (SELECT FROM blobs b WHERE b.key = o.key)
]]

-- Calls fn(keys, etags, sizes) for each page of objects behind `after`.
local function each_page(ctx, prefix, after, fn)
  local keys, etags, sizes = {}, {}, {}
  local function send()
    if #keys > 0 then fn(keys, etags, sizes) end
    keys, etags, sizes = {}, {}, {}
  end
  for object in ctx.blobs:list { prefix = prefix, start_after = after } do
    if object.key and not archive.owns(ctx.blobs, object.key) then
      local n = #keys + 1
      keys[n], etags[n], sizes[n] = object.key, object.etag, object.size
      if n == PAGE then send() end
    end
  end
  send()
end

local function list(ctx, prefix)
  local saved = ctx.checkpoint:load()
  local after = saved and saved.prefix == prefix and saved.after or nil
  if after then ctx.log.info("listing goes on", { after = after }) end
  local listed = saved and after and saved.listed or 0
  each_page(ctx, prefix, after, function(keys, etags, sizes)
    ctx.db:transaction(function(tx)
      tx:exec(LIST, keys, etags, sizes)
      ctx.checkpoint:save({ prefix = prefix, after = keys[#keys], listed = listed + #keys }, tx)
    end)
    listed = listed + #keys
    ctx.progress(listed, nil, "objects")
    ctx.throttle(0)
  end)
  return listed
end

-- Deletes those of a page that are still what was listed; the others leave the list. Those that could
-- not be looked at stay on it; the last reason is returned.
local function delete_page(ctx, rows)
  local why
  local seen = nebula.task.map(rows, function(row)
    local looked, err = nebula.try(function() return { ctx.blobs:head(row.key) } end)
    if err and (err.kind == "cancelled" or not err.retryable) then error(err, 0) end
    why = err or why
    return looked or false
  end, { concurrency = HEADS })
  local keys, gone, bytes = {}, {}, 0
  for i, row in ipairs(rows) do
    local info = seen[i] and seen[i][1]
    if seen[i] then gone[#gone + 1] = row.key end
    if info and info.etag == row.etag then keys[#keys + 1], bytes = row.key, bytes + row.size end
  end
  ctx.blobs:delete_many(keys)
  ctx.db:exec("DELETE FROM blob_orphans WHERE key = ANY ($1)", gone)
  return #keys, bytes, why
end

return {
  summary = "Delete objects that no artifact's row names, some time after they were first seen so",
  destructive = true,

  options = {
    prefix = { type = "string", required = true, help = 'where artifacts alone are kept; "" is the whole store' },
    grace = { type = "duration", default = "7d", help = "how long an object must have been an orphan" },
  },

  preview = function(ctx, opts)
    local found = { orphans = 0, orphan_bytes = 0 }
    each_page(ctx, opts.prefix, nil, function(keys, _, sizes)
      local row = ctx.db:one(COUNT, keys, sizes)
      found.orphans, found.orphan_bytes = found.orphans + row.objects, found.orphan_bytes + row.bytes
    end)
    local due = ctx.db:one("SELECT count(*) AS objects, coalesce(sum(size), 0)::bigint AS bytes " .. DUE, opts.grace,
      opts.prefix)
    found.would_delete, found.would_delete_bytes = due.objects, due.bytes
    return found
  end,

  run = function(ctx, opts)
    local done = { forgotten = archive.forget_gone(ctx.db, ctx.blobs), deleted = 0, bytes = 0 }
    done.listed = list(ctx, opts.prefix)
    local after, failure = "", nil
    while true do
      local rows = ctx.db:query("SELECT key, etag, size " .. DUE .. " AND key > $3 ORDER BY key LIMIT $4", opts.grace,
        opts.prefix, after, PAGE)
      if #rows == 0 then break end
      local count, bytes, why = delete_page(ctx, rows)
      after, failure = rows[#rows].key, why or failure
      done.deleted, done.bytes = done.deleted + count, done.bytes + bytes
      ctx.progress(done.deleted, nil, "orphans")
      ctx.throttle(0)
    end
    if failure then error(failure, 0) end
    ctx.checkpoint:save(nil)
    done.orphans = ctx.db:value("SELECT count(*) FROM blob_orphans WHERE starts_with(key, $1)", opts.prefix)
    return done
  end,
}
