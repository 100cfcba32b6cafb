-- tasks/verify-blobs.lua: nebula task verify-blobs [--size-only] [--orphans] [--concurrency 16]
--
-- Reads every artifact that a row of `blobs` names, and compares its size and SHA-256. An interrupted
-- run goes on where it ended. Then it lists what no row names, where that is asked for; gc-blobs is what
-- deletes it. Exit status 1 where something is wrong.
local archive = require "nebula.archive"
local nebula = require "nebula"

local PAGE, SHOWN_ORPHANS = 500, 1000
local ROWS = [[
  SELECT key, execution_id, size, sha256 FROM blobs
  WHERE key > $1 AND starts_with(key, $2)
  ORDER BY key LIMIT $3
]]

-- What is wrong with an artifact, or nil.
local function problem(blobs, row, size_only)
  if size_only then
    local info = blobs:head(row.key)
    return not info and "missing" or info.size ~= row.size and "wrong size" or nil
  end
  local hasher, size = nebula.crypto.sha256_new(), 0
  local reader <close>, err = nebula.try(blobs.reader, blobs, row.key)
  if err then return "unreadable: " .. err.message end
  if not reader then return "missing" end
  while true do
    local piece, failure = nebula.try(reader.read, reader)
    if failure then return "unreadable: " .. failure.message end
    if not piece then break end
    hasher:update(piece)
    size = size + #piece
  end
  if size ~= row.size then return "wrong size" end
  return hasher:finish() ~= row.sha256 and "corrupt" or nil
end

-- Counts the objects that no row names, and adds the first ones to the report.
local function find_orphans(ctx, prefix, rows)
  local count, page = 0, {}
  local function look()
    for _, row in ipairs(ctx.db:query([[
      SELECT p.key FROM unnest($1::text[]) WITH ORDINALITY AS p (key, n)
      WHERE NOT EXISTS (SELECT FROM blobs b WHERE b.key = p.key) ORDER BY n
    ]], page)) do
      count = count + 1
      if count <= SHOWN_ORPHANS then rows[#rows + 1] = { key = row.key, problem = "orphaned" } end
    end
    page = {}
    ctx.throttle(0)
  end
  for object in ctx.blobs:list { prefix = prefix } do
    if object.key and not archive.owns(ctx.blobs, object.key) then page[#page + 1] = object.key end
    if #page == PAGE then look() end
  end
  if #page > 0 then look() end
  return count
end

return {
  summary = "Compare every artifact with the size and checksum its row has",

  options = {
    prefix = { default = "", help = "only keys that begin so" },
    orphans = { default = false, help = "tell also of objects that no row names" },
    size_only = { default = false, help = "do not read the objects" },
    concurrency = { default = 16, min = 1, max = 256, help = "objects read at once" },
  },

  preview = function(ctx, opts)
    local row = ctx.db:one("SELECT count(*) AS objects, coalesce(sum(size), 0)::bigint AS bytes FROM blobs "
      .. "WHERE starts_with(key, $1)", opts.prefix)
    return { would_read = opts.size_only and 0 or row.bytes, objects = row.objects }
  end,

  run = function(ctx, opts)
    local saved = ctx.checkpoint:load()
    local state = saved and saved.prefix == opts.prefix and saved.size_only == opts.size_only and saved
      or { prefix = opts.prefix, size_only = opts.size_only, after = "", checked = 0, rows = nebula.json.array {} }
    if state.after ~= "" then ctx.log.info("verifying goes on", { after = state.after }) end
    local total = ctx.db:value("SELECT count(*) FROM blobs WHERE starts_with(key, $1)", opts.prefix)
    while true do
      local started = nebula.time.monotonic()
      local rows = ctx.db:query(ROWS, state.after, opts.prefix, PAGE)
      if #rows == 0 then break end
      local found = nebula.task.map(rows, function(row)
        return problem(ctx.blobs, row, opts.size_only) or false
      end, { concurrency = opts.concurrency })
      for i, row in ipairs(rows) do
        if found[i] then
          state.rows[#state.rows + 1] = { key = row.key, execution_id = row.execution_id, problem = found[i] }
        end
      end
      state.after, state.checked = rows[#rows].key, state.checked + #rows
      ctx.checkpoint:save(state)
      ctx.progress(state.checked, total, "objects")
      ctx.throttle(math.min(nebula.time.monotonic() - started, 1))
    end
    local wrong = #state.rows
    local orphaned = opts.orphans and find_orphans(ctx, opts.prefix, state.rows) or nil
    ctx.checkpoint:save(nil)
    return { rows = state.rows, columns = { "key", "execution_id", "problem" }, checked = state.checked,
      wrong = wrong, orphaned = orphaned }, #state.rows == 0
  end,
}
