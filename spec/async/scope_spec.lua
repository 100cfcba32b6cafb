local nebula = require "nebula"
local task = nebula.task

local function living()
  return #task.list()
end

describe("task.scope", function()
  it("returns what its function returns, once every child has ended", function()
    local done = 0
    local a, b = task.scope(function(scope)
      for _ = 1, 10 do
        scope:spawn(function()
          task.sleep(0.002)
          done = done + 1
        end)
      end
      return "a", "b"
    end)
    assert.equal("a", a)
    assert.equal("b", b)
    assert.equal(10, done)
  end)

  it("cancels the siblings and the body on a child's error, and raises it", function()
    local before = living()
    local closed = 0
    local _, err = nebula.try(task.scope, function(scope)
      for _ = 1, 5 do
        scope:spawn(function()
          local _ <close> = setmetatable({}, { __close = function()
            task.sleep(0.001)
            closed = closed + 1
          end })
          task.sleep(60)
        end)
      end
      scope:spawn(function()
        task.sleep(0.001)
        error("the child")
      end)
      task.sleep(60)
    end)
    assert.matches("the child", err.message)
    assert.matches("scope_spec", err.traceback)
    assert.equal(5, closed)
    assert.equal(before, living())
  end)

  it("cancels its children on an error of the body, and raises that", function()
    local before = living()
    local _, err = nebula.try(task.scope, function(scope)
      scope:spawn(function()
        local _ <close> = setmetatable({}, { __close = function()
          error("from a child's clean-up")
        end })
        task.sleep(60)
      end)
      task.yield()
      error("the body")
    end)
    assert.matches("the body", err.message)
    assert.equal(before, living())
  end)

  it("takes its children along when it is cancelled from outside", function()
    local before = living()
    local outer = task.spawn(function()
      task.scope(function(scope)
        scope:spawn(function()
          task.scope(function(inner)
            inner:spawn(task.sleep, 60)
            task.sleep(60)
          end)
        end)
      end)
    end)
    task.yield()
    task.yield()
    task.yield()
    assert.equal(before + 3, living())
    outer:cancel()
    local _, err = nebula.try(outer.join, outer)
    assert.equal("cancelled", err.kind)
    assert.equal(before, living())
  end)

  it("never leaks a child, whatever fails whenever", function()
    math.randomseed(7)
    local before = living()
    local function tree(depth)
      return task.scope(function(scope)
        for _ = 1, 3 do
          scope:spawn(function()
            task.sleep(math.random() * 0.002)
            if math.random() < 0.1 then
              error("random")
            end
            if depth > 0 then
              tree(depth - 1)
            end
          end)
        end
        if math.random() < 0.1 then
          error("random body")
        end
      end)
    end
    for _ = 1, 200 do
      local root = task.spawn(nebula.try, tree, 2)
      if math.random() < 0.5 then
        task.sleep(math.random() * 0.003)
        root:cancel()
      end
      nebula.try(root.join, root)
      assert.equal(before, living())
    end
  end)

  it("takes no more children after its end", function()
    local kept
    task.scope(function(scope)
      kept = scope
    end)
    local _, err = nebula.try(kept.spawn, kept, print)
    assert.matches("has ended", err.message)
  end)

  it("lets one child be cancelled without failing the others", function()
    local finished = false
    task.scope(function(scope)
      local one = scope:spawn(task.sleep, 60)
      scope:spawn(function()
        task.sleep(0.002)
        finished = true
      end)
      task.yield()
      one:cancel()
    end)
    assert.is_true(finished)
  end)

  it("is refused, with no child made, where Lua cannot wait", function()
    local before = living()
    local _, err = nebula.try(table.sort, { 2, 1 }, function()
      task.scope(function(scope)
        scope:spawn(task.sleep, 60)
      end)
    end)
    assert.matches("task.scope cannot wait here.*table.sort", err.message)
    assert.equal(before, living())
  end)
end)

describe("task.deadline", function()
  it("returns what the function returns in time", function()
    assert.equal(5, task.deadline(10, function(x)
      task.yield()
      return x
    end, 5))
  end)

  it("raises `timeout` afterwards, which pcall inside cannot keep, and clean-up may wait", function()
    local order = {}
    local _, err = nebula.try(task.deadline, 0.005, function()
      local _ <close> = setmetatable({}, { __close = function()
        task.sleep(0.002)
        order[#order + 1] = "closed"
      end })
      pcall(task.sleep, 60)
      order[#order + 1] = "swallowed"
    end)
    assert.equal("timeout", err.kind)
    assert.is_true(err.retryable)
    assert.same({ "closed" }, order)
  end)

  it("ends a loop that computes and swallows errors", function()
    local rounds = 0
    local _, err = nebula.try(task.deadline, 0.02, function()
      while true do
        pcall(function()
          while true do
            rounds = rounds + 1
          end
        end)
      end
    end)
    assert.equal("timeout", err.kind)
    assert.is_true(rounds > 0)
  end)

  it("can be caught outside, and the task goes on", function()
    local ok = pcall(task.deadline, 0.001, task.sleep, 60)
    task.sleep(0.002)
    assert.is_false(ok)
    assert.equal("running", task.current():state())
  end)

  it("nests: the outer one ends the inner one's work", function()
    local _, err = nebula.try(task.deadline, 0.005, function()
      pcall(task.deadline, 60, task.sleep, 60)
      error("not reached")
    end)
    assert.equal("timeout", err.kind)
    assert.matches("0.005", err.message)
  end)

  it("in a generator does not fire in the loop that consumes it after the generator ended", function()
    for _ in coroutine.wrap(function()
      task.deadline(0.002, coroutine.yield, 1)
    end) do
      assert.is_true(true)
    end
    task.sleep(0.004)
  end)
end)

describe("task.map", function()
  it("keeps the order of the list and bounds the concurrency", function()
    local inside, most = 0, 0
    local results = task.map({ 5, 4, 3, 2, 1 }, function(x, index)
      inside = inside + 1
      most = math.max(most, inside)
      task.sleep(x / 1000)
      inside = inside - 1
      return x * 10 + index
    end, { concurrency = 2 })
    assert.same({ 51, 42, 33, 24, 15 }, results)
    assert.equal(5, results.n)
    assert.equal("[51,42,33,24,15]", nebula.json.encode(results))
    assert.equal(2, most)
  end)

  it("raises the first error and starts nothing more", function()
    local started = 0
    local _, err = nebula.try(task.map, { 1, 2, 3, 4, 5, 6 }, function(x)
      started = started + 1
      task.yield()
      if x == 2 then
        error("two")
      end
      task.sleep(60)
    end, { concurrency = 2 })
    assert.matches("two", err.message)
    assert.equal(2, started)
  end)

  it("handles 100,000 elements whose function does not wait", function()
    local list = {}
    for i = 1, 100000 do
      list[i] = i
    end
    local results = task.map(list, function(x)
      return x + 1
    end)
    assert.equal(100001, results[100000])
  end)

  it("refuses an unknown option by name", function()
    local _, err = nebula.try(task.map, {}, print, { concurency = 2 })
    assert.matches("did you mean 'concurrency'", err.message)
  end)
end)
