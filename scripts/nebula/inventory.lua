-- inventory.lua: the main job on real input: every file of a directory goes through the queue, and
-- comes out as an artifact that is checked by reading it back.
--
-- Everything streams: file names go to the database in batches as they are found, results are read
-- back in pages. So memory does not grow with the number of files.
local nebula = require "nebula"
local raise = require "nebula.raise"
local ui = require "nebula.ui"
local worker = require "nebula.worker"

local inventory = {}

local WORKFLOW = { name = "inventory", version = 1, definition = { steps = { { handler = "inventory" } } } }
local SKIPPED = { [".git"] = true, [".nebula"] = true, build = true }
local BATCH, PAGE = 500, 200
local VERIFIERS = 16
local SMALL = 1 << 20
local LONGEST_KEY = 900
local SHOWN_FAILURES = 10
local REFRESH_SECONDS = 0.1

-- ---- names ----

--- A path as JSON and PostgreSQL can hold it: what is no plain UTF-8 text is percent-encoded.
---@param path string
---@return string
function inventory.encode(path)
  if utf8.len(path) and not path:find "[%%%c]" then return path end
  return (path:gsub("[%%%c\x7f-\xff]", function(c) return ("%%%02X"):format(c:byte()) end))
end

---@param text string
---@return string path
function inventory.decode(text)
  return (text:gsub("%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end))
end

--- The artifact's key: the same file has the same key in every run.
---@param root string the directory
---@param path string below it
---@return string
function inventory.key(root, path)
  local key = ("inventory/%s-%s/%s"):format(inventory.encode(root:match "[^/]*$"):sub(1, 100),
    nebula.crypto.sha256(root):sub(1, 8), inventory.encode(path))
  if #key <= LONGEST_KEY then return key end
  return key:sub(1, LONGEST_KEY - 65) .. "~" .. nebula.crypto.sha256(key)
end

-- ---- files to jobs ----

-- Calls fn(path) with each file below the root, depth first. Links are not followed.
local function each_file(root, below, skipped, fn)
  local directories = {}
  local listed, err = nebula.try(function()
    for name, kind in nebula.fs.list(below == "" and root or root .. "/" .. below) do
      local path = below == "" and name or below .. "/" .. name
      if kind == "directory" then
        if not SKIPPED[name] then directories[#directories + 1] = path end
      elseif kind == "file" then
        fn(path)
      end
    end
    return true
  end)
  if not listed then
    if below == "" then error(err, 0) end
    skipped[#skipped + 1] = ("%s: %s"):format(below, err.message)
  end
  for _, path in ipairs(directories) do each_file(root, path, skipped, fn) end
end

-- One execution and one job a file, in batches: both or neither.
local function push_files(storage, workflow, root)
  local executions, jobs, total, skipped = {}, {}, 0, {}
  local function push()
    if #jobs == 0 then return end
    storage.db:transaction(function(tx)
      storage:create_executions(executions, tx)
      storage:push_jobs(jobs, tx)
    end)
    total = total + #jobs
    executions, jobs = {}, {}
  end
  local bar <close> = ui.progress { label = "push", unit = "files" }
  each_file(root, "", skipped, function(path)
    local id, name = nebula.crypto.uuid_v7(), inventory.encode(path)
    executions[#executions + 1] = { id = id, workflow_id = workflow.id, state = { path = name } }
    jobs[#jobs + 1] = {
      workflow_id = workflow.id, execution_id = id, payload = { handler = "inventory", root = root, path = name },
    }
    if #jobs == BATCH then
      push()
      bar:update(total)
    end
  end)
  push()
  bar:update(total)
  return total, skipped
end

-- ---- the queue ----

local LEFT = "SELECT EXISTS (SELECT FROM workflow_jobs WHERE workflow_id = $1 AND status IN ('pending', 'running'))"

-- Works until no job of the workflow is left. A first SIGTERM or Ctrl-C drains.
local function work(storage, workflow, total)
  local own = worker.new(storage, {
    concurrency = 24, workflow_id = workflow.id, poll = 0.25,
    finished = function() return not storage.db:value(LEFT, workflow.id) end,
  })
  local bar <close> = ui.progress { label = "work", total = total, unit = "jobs" }
  local watch = nebula.task.spawn(function()
    while true do
      bar:update(own.counts.completed + own.counts.dead)
      nebula.task.sleep(REFRESH_SECONDS)
    end
  end)
  local _ <close> = setmetatable({}, { __close = function() watch:cancel() end })
  local counts = own:run()
  bar:update(counts.completed + counts.dead)
  return counts
end

-- Executions whose job is dead have failed.
local FAIL_DEAD = [[
  SELECT j.execution_id AS id, j.error
  FROM workflow_jobs j JOIN executions e ON e.id = j.execution_id
  WHERE j.workflow_id = $1
  AND j.status = 'dead'
  AND e.status IN ('created', 'running')
  LIMIT 500
]]

local function fail_executions(storage, workflow)
  repeat
    local rows, changes = storage.db:query(FAIL_DEAD, workflow.id), {}
    for i, row in ipairs(rows) do changes[i] = { id = row.id, status = "failed", error = row.error } end
    storage:update_executions(changes)
  until #rows < 500
end

-- ---- verification ----

local ARTIFACTS = [[
  SELECT id, state
  FROM executions
  WHERE workflow_id = $1
  AND status = 'completed'
  AND completed_at >= $2
  AND id > $3
  ORDER BY id
  LIMIT $4
]]

-- The SHA-256 and size of what is stored under the key; nil where nothing is.
local function read_back(blobs, key, size)
  if size <= SMALL then
    local data = blobs:download(key)
    if data then return nebula.crypto.sha256(data), #data end
    return nil
  end
  local reader <close> = blobs:reader(key)
  local hasher, bytes = nebula.crypto.sha256_new(), 0
  for chunk in function() return reader:read(SMALL) end do
    hasher:update(chunk)
    bytes = bytes + #chunk
  end
  return hasher:finish(), bytes
end

local function check_artifact(blobs, artifact)
  local read, err = nebula.try(function() return { read_back(blobs, artifact.key, artifact.size) } end)
  if not read then return err.message end
  if not read[1] then return "it is not there" end
  if read[1] ~= artifact.sha256 or read[2] ~= artifact.size then
    return ("it is %d bytes with SHA-256 %s, expected %d bytes with %s"):format(read[2], read[1]:sub(1, 12),
      artifact.size, artifact.sha256:sub(1, 12))
  end
end

-- Reads every artifact back, a page at a time. Returns how many are right, their bytes, and what is not.
local function verify(storage, workflow, since, total)
  local bar <close> = ui.progress { label = "verify", total = total, unit = "artifacts" }
  local right, bytes, wrong, seen, after = 0, 0, {}, 0, "00000000-0000-0000-0000-000000000000"
  repeat
    local rows = storage.db:query(ARTIFACTS, workflow.id, since, after, PAGE)
    nebula.task.map(rows, function(row)
      local problem = check_artifact(storage.blobs, row.state)
      if problem then
        if #wrong < SHOWN_FAILURES then wrong[#wrong + 1] = ("artifact %s: %s"):format(row.state.key, problem) end
      else
        right, bytes = right + 1, bytes + row.state.size
      end
    end, { concurrency = VERIFIERS })
    seen = seen + #rows
    bar:update(seen)
    after = #rows > 0 and rows[#rows].id or after
  until #rows < PAGE
  return right, bytes, wrong, seen
end

-- ---- the whole ----

local DEAD = [[
  SELECT payload ->> 'path' AS path, error
  FROM workflow_jobs
  WHERE workflow_id = $1
  AND status = 'dead'
  AND finished_at >= $2
  ORDER BY id
  LIMIT $3
]]

local function problems(storage, workflow, since, wrong, skipped)
  local lines = {}
  for _, row in ipairs(storage.db:query(DEAD, workflow.id, since, SHOWN_FAILURES)) do
    lines[#lines + 1] = ("%s: %s"):format(row.path, row.error)
  end
  for _, line in ipairs(wrong) do lines[#lines + 1] = line end
  for _, line in ipairs(skipped) do lines[#lines + 1] = "not read: " .. line end
  return lines
end

--- Takes every file below a directory through the queue, checks each artifact, and runs the task
--- `execution-stats` over what is finished.
--- Raises `config` where the directory is none.
---@param storage nebula.Storage
---@param directory string
---@return {jobs: integer, failed: integer, bytes: integer, seconds: number, verified: integer, artifacts: integer,
---  blobs: string, skipped: integer, unfinished: integer, problems: string[], stats: table}
function inventory.run(storage, directory)
  local info = nebula.fs.stat(directory)
  if not info then raise("config", "%s: no such directory", directory) end
  if info.type ~= "directory" then raise("config", "%s is no directory", directory) end
  local root = nebula.fs.realpath(directory)
  if not utf8.len(root) then raise("config", "%s: the directory's own path is not UTF-8", directory) end

  local workflow = storage:save_workflow(WORKFLOW)
  if not workflow.deployed then workflow = storage:deploy_workflow(workflow.id) end
  local since = storage.db:value "SELECT clock_timestamp()"
  local pushed, skipped = push_files(storage, workflow, root)

  local started = nebula.time.monotonic()
  local counts = work(storage, workflow, pushed)
  local seconds = nebula.time.monotonic() - started
  fail_executions(storage, workflow)

  local right, bytes, wrong, completed = verify(storage, workflow, since, counts.completed)
  local stats = require("nebula.tasks").run(storage, "execution-stats", { workflow = workflow.name })
  return {
    jobs = completed + counts.dead, failed = counts.dead, bytes = bytes, seconds = seconds, verified = right,
    artifacts = completed, blobs = storage.blobs.place, skipped = #skipped, stats = stats,
    unfinished = math.max(pushed - completed - counts.dead, 0),
    problems = problems(storage, workflow, since, wrong, skipped),
  }
end

return inventory
