-- cli/blob.lua: `nebula blob put|get|ls|stat|cp|rm|presign`: objects for people at a shell.
local JSON = { default = false, help = "print JSON" }
local RECURSIVE = { default = false, short = "r", help = "all below a directory or a prefix" }
local DRY_RUN = { default = false, short = "n", help = "say what would be done" }
local CONCURRENCY = { default = 8, min = 1, max = 64, help = "objects at once" }

local function refuse(format, ...) require "nebula.raise"("config", format, ...) end

local function with_blobs(fn)
  local blobs <close> = require("nebula.blobs").open()
  return fn(blobs, require "nebula", require "nebula.transfer")
end

local function base(path) return path:match "([^/]*)/*$" end

local function print_json(value) print(require("nebula").json.encode(value)) end

-- ---- working a plan ----

-- Works a plan, or says what it is. Exit status 1 where something failed.
local function work(plan, opts, label, move)
  local transfer, ui = require "nebula.transfer", require "nebula.ui"
  if opts.dry_run then
    for _, item in ipairs(plan) do
      local to = item.to and " -> " .. ui.printable(item.to) or ""
      if opts.json then print_json(item) else print(("%s %s%s"):format(label, ui.printable(item.from), to)) end
    end
    return 0
  end
  local report = transfer.run(plan, move, {
    concurrency = opts.concurrency, label = label, progress = not opts.json and ui.terminal "stderr",
    on_error = function(item, err)
      io.stderr:write(("nebula: %s: %s\n"):format(ui.printable(item.from), require("nebula.report").line(err)))
    end,
  })
  if opts.json then
    print_json(report)
  elseif #plan ~= 1 or report.failed > 0 then
    print(("%d objects, %s%s"):format(report.done, ui.bytes(report.bytes),
      report.failed > 0 and (", %d failed"):format(report.failed) or ""))
  end
  return report.failed > 0 and 1 or 0
end

-- ---- put ----

local function put_options(opts)
  return {
    content_type = opts.content_type, cache_control = opts.cache_control, metadata = opts.metadata,
    if_none_match = opts.no_clobber and "*" or nil,
  }
end

local function from_stdin(blobs, nebula, key, options, opts)
  if key == "" or key:sub(-1) == "/" then refuse("name the key that standard input goes to") end
  if opts.dry_run then
    print("put standard input -> " .. key)
    return 0
  end
  local writer <close> = blobs:writer(key, options)
  local input <close> = nebula.fs.stdin()
  for piece in function() return input:read(256 << 10) end do writer:write(piece) end
  local stored = writer:finish()
  if opts.json then print_json(stored) end
  return 0
end

-- {from = path, to = key, size =} of every file that is meant.
local function files_to_put(nebula, files, key, recursive)
  local plan = {}
  local into = key == "" or key:sub(-1) == "/"
  for _, path in ipairs(files) do
    local stat = nebula.fs.stat(path)
    if not stat then refuse("%s: no such file or directory", path) end
    if stat.type == "directory" then
      if not recursive then refuse("%s is a directory: say --recursive", path) end
      local prefix = into and key .. (path:sub(-1) == "/" and "" or base(path) .. "/") or key .. "/"
      if base(path) == "." or base(path) == ".." then prefix = key end
      for entry in nebula.fs.walk(path) do
        if entry.type == "file" then
          plan[#plan + 1] = { from = entry.path, to = prefix .. entry.relative, size = entry.size }
        end
      end
    else
      plan[#plan + 1] = { from = path, to = into and key .. base(path) or key, size = stat.size }
    end
  end
  if #plan > 1 and not into and not recursive then refuse("several files go to a prefix: end %q with a slash", key) end
  return plan
end

local function put(opts, args)
  return with_blobs(function(blobs, nebula)
    local key = table.remove(args.names)
    if #args.names == 0 then refuse("put FILE... KEY: the last word is the key, or a prefix that ends in a slash") end
    local options = put_options(opts)
    if args.names[1] == "-" and #args.names == 1 then return from_stdin(blobs, nebula, key, options, opts) end
    local plan = files_to_put(nebula, args.names, key, opts.recursive)
    return work(plan, opts, "put", function(item, on_bytes)
      local own = put_options(opts)
      own.progress = on_bytes
      return blobs:put(item.to, { file = item.from }, own).size
    end)
  end)
end

-- ---- get ----

local function to_stdout(blobs, key)
  local reader <close> = blobs:reader(key)
  if not reader then require "nebula.raise"("not_found", "there is no object %q in %s", key, blobs.place) end
  for piece in reader do io.stdout:write(piece) end
  io.stdout:flush()
  return 0
end

local function get_one(blobs, key, path, opts)
  local info = blobs:head(key)
  if not info then require "nebula.raise"("not_found", "there is no object %q in %s", key, blobs.place) end
  return work({ { from = key, to = path, size = info.size } }, opts, "get", function(item, on_bytes)
    return blobs:download(item.from, { file = item.to, progress = on_bytes }).size
  end)
end

local function get(opts, args)
  return with_blobs(function(blobs, nebula, transfer)
    local key, to = args.key, args.to
    local many = opts.recursive or transfer.is_glob(key)
    if not many then
      if to == "-" then return to_stdout(blobs, key) end
      local stat = to and nebula.fs.stat(to)
      local directory = to and (to:sub(-1) == "/" or stat and stat.type == "directory")
      if not to or directory then to = transfer.below(to and to:gsub("/$", "") or ".", base(key)) end
      return get_one(blobs, key, to, opts)
    end
    local directory = (to or "."):gsub("(.)/+$", "%1")
    local prefix = (transfer.is_glob(key) and transfer.glob(key) or key):match "^(.*/)" or ""
    local plan = {}
    for object in transfer.objects(blobs, key, true) do
      plan[#plan + 1] = { from = object.key, to = transfer.below(directory, object.key:sub(#prefix + 1)),
        size = object.size }
    end
    local made = {}
    return work(plan, opts, "get", function(item, on_bytes)
      transfer.make_parent(item.to, made)
      local info = blobs:download(item.from, { file = item.to, progress = on_bytes })
      return info and info.size or 0
    end)
  end)
end

-- ---- ls and stat ----

local function ls(opts, args)
  return with_blobs(function(blobs, _, transfer)
    local ui, name = require "nebula.ui", args.prefix or ""
    local objects
    if transfer.is_glob(name) then
      objects = transfer.objects(blobs, name, true)
    else
      objects = blobs:list { prefix = name, delimiter = not opts.recursive and "/" or nil }
    end
    local count, bytes = 0, 0
    for object in objects do
      if opts.json then
        print_json(object)
      elseif object.key then
        print(("%s  %10s  %s"):format(object.last_modified:sub(1, 19), ui.bytes(object.size),
          ui.printable(object.key)))
      else
        print(("%19s  %10s  %s"):format("", "", ui.printable(object.prefix)))
      end
      if object.key then count, bytes = count + 1, bytes + object.size end
    end
    if opts.total and not opts.json then print(("%d objects, %s"):format(count, ui.bytes(bytes))) end
  end)
end

local function stat(opts, args)
  return with_blobs(function(blobs)
    local missing = 0
    for i, key in ipairs(args.keys) do
      local info = blobs:head(key)
      if not info then
        io.stderr:write(("nebula: there is no object %q in %s\n"):format(key, blobs.place))
        missing = missing + 1
      elseif opts.json then
        print_json(info)
      else
        if i > 1 then print() end
        local rows = {}
        for name, value in pairs(info) do
          if name ~= "metadata" or next(value) then rows[#rows + 1] = { what = name, value = value } end
        end
        table.sort(rows, function(a, b) return a.what < b.what end)
        print(require("nebula.ui").table(rows, { columns = { "what", "value" } }))
      end
    end
    return missing > 0 and 1 or 0
  end)
end

-- ---- cp and rm ----

local function cp(opts, args)
  return with_blobs(function(blobs, _, transfer)
    local from, to = args.from, args.to
    local many = opts.recursive or transfer.is_glob(from)
    if many and to:sub(-1) ~= "/" then refuse("several objects go to a prefix: end %q with a slash", to) end
    local prefix = many and ((transfer.is_glob(from) and transfer.glob(from) or from):match "^(.*/)" or "") or ""
    local plan = {}
    for object in transfer.objects(blobs, from, opts.recursive) do
      local target = many and to .. object.key:sub(#prefix + 1) or to:sub(-1) == "/" and to .. base(object.key) or to
      plan[#plan + 1] = { from = object.key, to = target, size = object.size }
    end
    return work(plan, opts, "copy", function(item)
      blobs:copy(item.from, item.to)
      return item.size
    end)
  end)
end

local function confirmed(opts, count)
  if opts.yes then return true end
  if not require("nebula.system").isatty(0) then
    refuse("%d objects would be deleted: say --yes where nobody can be asked", count)
  end
  io.write(("Delete %d objects? [y/N] "):format(count))
  io.flush()
  local answer = io.read "l"
  return answer ~= nil and answer:lower():find "^%s*y" ~= nil
end

local function rm(opts, args)
  return with_blobs(function(blobs, _, transfer)
    local plan, keys, many = {}, {}, opts.recursive
    for _, name in ipairs(args.keys) do
      many = many or transfer.is_glob(name)
      for object in transfer.objects(blobs, name, opts.recursive) do
        keys[#keys + 1] = object.key
        plan[#plan + 1] = { from = object.key, size = object.size }
      end
    end
    if opts.dry_run then return work(plan, opts, "delete") end
    if #keys > 0 and many and not confirmed(opts, #keys) then
      print "nothing was done"
      return 1
    end
    blobs:delete_many(keys)
    if opts.json then print_json { deleted = #keys } elseif many then print(("%d objects deleted"):format(#keys)) end
  end)
end

local function presign(opts, args)
  return with_blobs(function(blobs)
    print(blobs:presign(args.key, { method = opts.method, expires = opts.expires }))
  end)
end

return {
  summary = "Objects in the blob store: put, get, list, copy, delete",
  commands = {
    put = {
      summary = "Store files: put FILE KEY, put FILE... PREFIX/, put -r DIR PREFIX/, put - KEY",
      usage = "nebula blob put [OPTIONS] FILE... KEY",
      options = {
        recursive = RECURSIVE, dry_run = DRY_RUN, json = JSON, concurrency = CONCURRENCY,
        content_type = { type = "string" }, cache_control = { type = "string" },
        metadata = { type = "map", help = "user metadata" },
        no_clobber = { default = false, help = "fail where there is an object already" },
      },
      arguments = { { name = "names", many = true, required = true, help = "files, then the key or prefix" } },
      run = put,
    },
    get = {
      summary = "Fetch objects: get KEY [FILE|DIR], get -r PREFIX DIR, get 'GLOB' DIR, get KEY -",
      options = { recursive = RECURSIVE, dry_run = DRY_RUN, json = JSON, concurrency = CONCURRENCY },
      arguments = { { name = "key", required = true, help = "a key, a prefix with -r, or a glob in quotes" },
        { name = "to", help = 'a file, a directory, or "-" for standard output; default: here' } },
      run = get,
    },
    ls = {
      summary = "List objects, a level at a time",
      options = { json = JSON, recursive = RECURSIVE, total = { default = false, help = "count and sum up" } },
      arguments = { { name = "prefix", help = "what keys begin with, or a glob in quotes" } },
      run = ls,
    },
    stat = {
      summary = "What is known of an object",
      options = { json = JSON },
      arguments = { { name = "keys", many = true, required = true } },
      run = stat,
    },
    cp = {
      summary = "Copy objects within the store",
      options = { recursive = RECURSIVE, dry_run = DRY_RUN, json = JSON, concurrency = CONCURRENCY },
      arguments = { { name = "from", required = true, help = "a key, a prefix with -r, or a glob in quotes" },
        { name = "to", required = true, help = "a key, or a prefix that ends in a slash" } },
      run = cp,
    },
    rm = {
      summary = "Delete objects",
      options = { recursive = RECURSIVE, dry_run = DRY_RUN, json = JSON,
        yes = { default = false, short = "y", help = "do not ask" } },
      arguments = {
        { name = "keys", many = true, required = true, help = "keys, prefixes with -r, or globs in quotes" },
      },
      run = rm,
    },
    presign = {
      summary = "A URL that lets its holder fetch or store one object for a while",
      options = { method = { default = "GET", choices = { "GET", "PUT", "HEAD", "DELETE" } },
        expires = { type = "duration", default = "1h", min = 1, max = 7 * 86400, help = "at most 7 days" } },
      arguments = { { name = "key", required = true } },
      run = presign,
    },
  },
}
