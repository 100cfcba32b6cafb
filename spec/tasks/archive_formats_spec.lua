-- restore-archive and list-archives over archives as versions before this one wrote them: format 1, whose
-- rows are row_to_json's with their NULLs, executions before history; at first without artifacts.
local directory = require "spec.support.directory"
local nebula = require "nebula"
local postgres = require "spec.support.postgres"
local storages = require "nebula.storage"
local tasks = require "nebula.tasks"

local EXECUTIONS = 100
local KEY = "archive/executions/2026-01-02-old.ndjson.zst"

-- The columns that the tables had when the first archives were written.
local FIRST = {
  { "workflow", "workflows", "id, name, version, definition, status, created_at, updated_at, deployed_at, deployed" },
  { "execution", "executions", [[id, workflow_id, status, started_at, completed_at, state, error, created_at,
    updated_at, idempotency_key, fingerprint]] },
  { "history", "execution_history", "execution_id, seq, at, from_status, to_status, error" },
  { "job", "workflow_jobs", [[id, workflow_id, execution_id, priority, scheduled_at, locked_by, locked_at,
    retry_count, max_retries, status, payload, error, created_at, token, lease_until, suspect, lane, unique_key,
    result, progress, failures, finished_at]] },
}

local LATER = { table.unpack(FIRST) }
LATER[5] = { "blob", "blobs", "key, execution_id, size, sha256, url, created_at" }

describe("archives of format 1", function()
  local storage

  setup(function()
    storage = storages.new { database_url = postgres.database(), blobs = "file:" .. directory.make "old-archives" }
    storage:run_migrations { log = function() end }
  end)
  teardown(function() storage:close() end)

  local function run(task, options) return (tasks.run(storage, task, options)) end

  local function empty()
    storage.db:exec "TRUNCATE workflows, executions, execution_history, workflow_jobs, blobs"
    for object in storage.blobs:list() do storage.blobs.store:delete(object.key) end
  end

  -- Writes all rows into an archive, and takes them out of the database.
  local function archived(kinds)
    local hasher, bytes, counts, columns = nebula.crypto.sha256_new(), 0, {}, {}
    local out <close> = storage.blobs.store:writer(KEY, { compress = "zstd", content_type = "application/zstd" })
    for _, of in ipairs(kinds) do
      local kind, from, list = table.unpack(of)
      columns[kind] = {}
      for name in list:gmatch "[%w_]+" do table.insert(columns[kind], name) end
      counts[kind] = storage.db:copy_out(
        ([[SELECT '{"%s":' || row_to_json(r)::text || '}' FROM (SELECT %s FROM %s) AS r]]):format(kind, list, from),
        function(piece)
          hasher:update(piece)
          bytes = bytes + #piece
          out:write(piece)
        end, { format = "ndjson" })
    end
    local ended = storage.db:one "SELECT min(completed_at) AS first, max(completed_at) AS last FROM executions"
    storage.blobs.store:put(KEY .. ".manifest.json", nebula.json.encode {
      format = 1, key = KEY, created_at = nebula.time.format(nebula.time.now()), counts = counts, columns = columns,
      bytes = bytes, size = out:finish().size, sha256 = hasher:finish(), ended = ended,
    })
    storage.db:exec "TRUNCATE workflows, executions, execution_history, workflow_jobs, blobs"
  end

  -- The rows as they can be told by these columns, one digest a kind.
  local function digests(kinds)
    local found = {}
    for _, of in ipairs(kinds) do
      found[of[1]] = storage.db:value(([[
        SELECT md5(string_agg(r::text, E'\n' ORDER BY r::text)) FROM (SELECT %s FROM %s) AS r
      ]]):format(of[3], of[2]))
    end
    return found
  end

  for name, kinds in pairs { ["of the first versions"] = FIRST, ["that know of artifacts"] = LATER } do
    it(name .. " are verified and brought back", function()
      empty()
      run("seed", { executions = EXECUTIONS, ["until"] = "2026-01-01T00:00:00Z", workflows = 2 })
      local ids = storage.db:query "SELECT id FROM executions ORDER BY id LIMIT 2"
      storage.blobs:upload("artifacts/report", "a report", { execution_id = ids[1].id })
      storage.db:exec("UPDATE executions SET state = $1 WHERE id = $2",
        '{"text": "\\"\\u00e9\\n", "big": 9007199254740993, "none": null}', ids[1].id)
      local before = digests(kinds)
      archived(kinds)

      local listed = run("list-archives", { verify = true }).rows
      assert.same({ 1, "verified", EXECUTIONS }, { #listed, listed[1].state, listed[1].executions })
      run("restore-archive", { archive = { KEY }, execution = { ids[2].id } })
      assert.equal(ids[2].id, storage.db:value "SELECT id FROM executions")
      assert.equal(EXECUTIONS - 1, run("restore-archive", { all = true }).executions)
      assert.same(before, digests(kinds))
    end)
  end

  it("are refused whole where they are not what their manifest says", function()
    empty()
    run("seed", { executions = EXECUTIONS, ["until"] = "2026-01-01T00:00:00Z" })
    archived(FIRST)
    local manifest = nebula.json.decode((storage.blobs.store:get(KEY .. ".manifest.json")))
    manifest.counts.job = manifest.counts.job - 1
    storage.blobs.store:put(KEY .. ".manifest.json", nebula.json.encode(manifest))
    local _, err = nebula.try(run, "restore-archive", { all = true })
    assert.matches("its manifest says " .. manifest.counts.job, err.message)
    assert.equal(0, storage.db:value "SELECT count(*) FROM executions")
  end)
end)
