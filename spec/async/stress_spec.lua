-- Random programs of every primitive, nested in each other, cancelled at random moments. Whatever
-- happens: what was opened is closed once, permits and values are conserved, no task is left, and a
-- deadline's error reaches its own boundary only.
local nebula = require "nebula"
local task = nebula.task

local DEPTH = 4

local function world(seed)
  math.randomseed(seed)
  local self = {
    opened = {}, closed = {}, last = 0, sent = 0, received = 0, wrong = {}, iterators = {},
    semaphore = task.semaphore(5), channel = task.channel(2), meeting = task.channel(),
  }

  function self.chance(p) return math.random() < p end

  function self.open()
    self.last = self.last + 1
    local id = self.last
    local handle = setmetatable({}, { __close = function()
      self.closed[id] = (self.closed[id] or 0) + 1
      if math.random() < 0.3 then task.sleep(math.random() * 0.0005) end
    end })
    self.opened[id] = true return handle
  end

  -- One line each, so that no interrupt comes between the act and its count.
  function self.send(channel) channel:send(true) self.sent = self.sent + 1 end
  function self.receive(channel) if channel:receive() then self.received = self.received + 1 end end

  function self.bounded(seconds, fn, ...)
    local ok, err = pcall(task.deadline, seconds, fn, ...)
    if not ok and type(err) == "table" and err.kind == "timeout" then
      local own = ("%.14g"):format(seconds)
      if not err.message:find(own, 1, true) then self.wrong[#self.wrong + 1] = own .. ": " .. err.message end
    end
  end
  return self
end

local actions

local function act(w, depth)
  for _ = 1, math.random(3) do actions[math.random(#actions)](w, depth - 1) end
end

local function deeper(w, depth)
  if depth > 0 then act(w, depth) else task.yield() end
end

local function values(w, depth)
  return task.generator(function()
    local _ <close> = w.open()
    for i = 1, math.random(3) do
      if w.chance(0.3) then
        w.bounded(math.random() * 0.002, function()
          local _ <close> = w.open()
          coroutine.yield(i)
          deeper(w, depth - 2)
        end)
      else
        coroutine.yield(i)
        if w.chance(0.3) then deeper(w, depth - 2) end
      end
    end
  end)
end

actions = {
  function() task.yield() end,
  function() task.sleep(math.random() * 0.001) end,
  function(w) w.bounded(math.random() * 0.002, w.send, w.chance(0.5) and w.channel or w.meeting) end,
  function(w) w.bounded(math.random() * 0.002, w.receive, w.chance(0.5) and w.channel or w.meeting) end,
  function(w, depth)
    w.bounded(0.001 + math.random() * 0.003, function()
      local _ <close> = w.semaphore:acquire()
      deeper(w, depth)
    end)
  end,
  function(w, depth)
    local _ <close> = w.open()
    deeper(w, depth)
  end,
  function(w, depth) pcall(deeper, w, depth) end,
  function(w, depth) nebula.try(deeper, w, depth) end,
  function(w, depth)
    pcall(function()
      local _ <close> = w.open()
      deeper(w, depth)
      error("random")
    end)
  end,
  function(w, depth) w.bounded(math.random() * 0.002, deeper, w, depth) end,
  function(w, depth)
    pcall(task.scope, function(scope)
      for _ = 1, math.random(3) do
        local child = scope:spawn(function()
          local _ <close> = w.open()
          deeper(w, depth - 1)
          if w.chance(0.1) then error("a child") end
        end)
        if w.chance(0.1) then child:cancel() end
      end
      deeper(w, depth - 1)
    end)
  end,
  function(w, depth)
    nebula.try(task.map, { 1, 2, 3 }, function() deeper(w, depth - 2) end, { concurrency = 2 })
  end,
  function(w, depth)
    for i in values(w, depth) do
      if w.chance(0.3) then deeper(w, depth - 2) end
      if i == 2 and w.chance(0.5) then break end
    end
  end,
  function(w, depth) -- a generator that several tasks resume
    if #w.iterators < 4 then
      local iterator, _, _, closer = values(w, depth)
      w.iterators[#w.iterators + 1] = { iterator, closer }
    end
    pcall(w.iterators[math.random(#w.iterators)][1])
  end,
  function(w, depth) -- abandoned
    coroutine.wrap(function()
      pcall(task.deadline, math.random() * 0.001, coroutine.yield, 1)
      deeper(w, depth - 2)
    end)()
  end,
  function() collectgarbage("step", 200) end,
}

local function run(seed)
  local before = #task.list()
  local w = world(seed)
  local tasks = {}
  for i = 1, 150 do
    tasks[i] = task.spawn(function()
      local _ <close> = w.open()
      act(w, DEPTH)
    end)
    if w.chance(0.5) then task.yield() end
    if w.chance(0.3) then tasks[math.random(i)]:cancel() end
  end
  for _, each in ipairs(tasks) do
    if w.chance(0.3) then task.sleep(math.random() * 0.001) each:cancel() end
    local _, err = nebula.try(each.join, each)
    if err and err.kind ~= "cancelled" then w.wrong[#w.wrong + 1] = tostring(err) .. (err.traceback or "") end
  end
  for _, pair in ipairs(w.iterators) do
    nebula.try(function() local _ <close> = pair[2] end) -- raises again what has ended it
  end
  assert.same({}, w.wrong)
  assert.equal(before, #task.list())
  for id in pairs(w.opened) do assert.equal(1, w.closed[id], "opened " .. id) end
  assert.equal(w.sent - w.received, #w.channel + #w.meeting)
  for _ = 1, 5 do w.semaphore:acquire() end
end

describe("random programs of tasks", function()
  for seed = 1, 25 do
    it("conserve what they share and close what they open, seed " .. seed, function()
      task.deadline(60, run, seed)
    end)
  end
end)
