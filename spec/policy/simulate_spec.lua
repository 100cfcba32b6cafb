-- Policies in virtual time.
local core = require "nebula"
local nebula = require "spec.support.nebula"
local policy = require "nebula.policy"
local simulate = require "nebula.simulate"

describe("a simulation", function()
  local function of(source) return policy.from_source("mine", "policies/mine.lua", source) end

  local function lane(name, jobs, fields)
    local part = { jobs = jobs, at = 0, takes = 1, payload = { tenant = name } }
    for field, value in pairs(fields or {}) do part[field] = value end
    return part
  end

  it("lets as many jobs run as there are workers, and each wait its turn", function()
    local run = simulate.run { policy = "priority", workers = 5, load = { { jobs = 20, takes = 3 } } }
    local all = run.lanes["nebula.adhoc"]
    assert.same({ 20, 5, 0, 12 }, { run.completed, all.running.max, run.waiting, run.seconds })
    assert.same({ 3, 9, 9 }, { all.wait.p50, all.wait.p95, all.wait.max })
    assert.equal(1, run.utilisation)
  end)

  it("follows the plan's order", function()
    local load = {
      { jobs = 5, takes = 1, priority = 1, workflow_id = "low" },
      { jobs = 5, takes = 1, priority = 9, workflow_id = "high" },
    }
    local by_priority = simulate.run { policy = "priority", workers = 1, load = load }
    assert.same({ 4, 9 }, { by_priority.lanes.high.wait.max, by_priority.lanes.low.wait.max })
    local by_time = simulate.run { policy = "fifo", workers = 1, load = load }
    assert.same({ 4, 9 }, { by_time.lanes.low.wait.max, by_time.lanes.high.wait.max })
  end)

  it("never exceeds a cap, be it a number or a function of the lane", function()
    for _, cap in ipairs { "3", "function(lane) return lane.key == 'a' and 3 or 1 end" } do
      local run = simulate.run {
        policy = of(("return { lane = 'payload.tenant', claim = function() return { cap = %s } end }"):format(cap)),
        workers = 10, load = { lane("a", 50), lane("b", 5) },
      }
      assert.equal(3, run.lanes.a.running.max)
      assert.equal(0, run.waiting)
    end
  end)

  it("shares by weight while both lanes want more, and gives the rest to whoever waits", function()
    local run = simulate.run {
      policy = of [[return { lane = "payload.tenant",
        claim = function() return { weight = function(lane) return lane.key == "gold" and 4 or 1 end } end }]],
      workers = 10, load = { lane("gold", 400), lane("plain", 400) },
    }
    assert.equal(8, run.lanes.gold.running.max)
    assert.equal(49, run.lanes.gold.wait.max)
    assert.equal(10, run.lanes.plain.running.max)
    assert.equal(80, run.seconds)
  end)

  it("lets a rate begin no more than so many a second, after its burst", function()
    local run = simulate.run {
      policy = of [[return { lane = "payload.tenant", claim = function() return { rate = 2, burst = 4 } end }]],
      workers = 100, load = { lane("a", 14) },
    }
    assert.equal(5, run.lanes.a.wait.max)
    assert.equal(0, run.waiting)
  end)

  it("takes what select ranks first, within the window, and leaves what it leaves out", function()
    local run = simulate.run {
      policy = of [[return {
        claim = function() return { window = 4 } end,
        select = function(candidates)
          local out = {}
          for i = #candidates, 1, -1 do
            if candidates[i].payload.n ~= 2 then out[#out + 1] = candidates[i] end
          end
          return out
        end,
      }]],
      workers = 1,
      load = { { jobs = 3, takes = 1, payload = { n = 1 } }, { jobs = 1, takes = 1, payload = { n = 2 } } },
    }
    assert.same({ 3, 1 }, { run.completed, run.waiting })
  end)

  it("asks admit, which may refuse, delay and rank", function()
    local run = simulate.run {
      policy = of [[return { admit = function(job)
        if job.payload.bad then return false, "bad" end
        return { delay = 10 }
      end }]],
      workers = 1, load = { { jobs = 2, takes = 1, payload = { bad = true } }, { jobs = 1, takes = 1 } },
    }
    assert.same({ 2, 1, 11 }, { run.refused, run.completed, run.seconds })
  end)

  it("tells a policy the virtual time, and waits for it", function()
    local run = simulate.run {
      policy = of "return { claim = function(ctx) if ctx.now >= 5000 then return {} end end }",
      workers = 1, start = 1000, load = { { jobs = 1, takes = 1 } },
    }
    assert.equal(1, run.completed)
    assert.is_true(run.seconds >= 4001 and run.seconds <= 4061)
  end)

  it("ends where a policy never takes what waits", function()
    local run = simulate.run { policy = of "return { claim = function() end }", workers = 1,
      load = { { jobs = 7, takes = 1 } } }
    assert.same({ 7, 0 }, { run.waiting, run.completed })
  end)

  it("is the same again with the same seed", function()
    local mine = of [[return { lane = "payload.tenant", claim = function() return { limit = math.random(1, 3) } end }]]
    local function once(seed)
      return simulate.run { policy = mine, workers = 7, seed = seed, load = { lane("a", 200), lane("b", 90) } }
    end
    assert.same(once(4), once(4))
  end)

  it("refuses a load that is none, a plan that is none, and a select that invents jobs", function()
    local function refused(kind, pattern, given)
      given.workers = given.workers or 1
      local _, err = core.try(simulate.run, given)
      assert.equal(kind, err.kind)
      assert.matches(pattern, err.message)
    end
    local one = { { jobs = 1, takes = 1 } }
    refused("validation", "did you mean jobs", { policy = "fifo", load = { { jobbs = 1, takes = 1 } } })
    refused("validation", "takes is missing", { policy = "fifo", load = { { jobs = 1 } } })
    refused("policy", "cap is a number", { policy = of "return { claim = function() return { cap = 'x' } end }",
      load = one })
    refused("policy", "weight of lane", { load = one,
      policy = of "return { claim = function() return { weight = function() return -1 end } end }" })
    refused("policy", "not given", { policy = of "return { select = function() return { { id = 'x' } } end }",
      load = one })
  end)

  it("compares policies on the command line", function()
    local project = nebula.scratch()
    nebula.write(project, { ["load.lua"] = "return { { jobs = 40, takes = 1, every = 0.5 } }" })
    local result = nebula.run { args = { "policy", "simulate", "fifo", "priority", "--load", "load.lua", "--json" },
      cwd = project }
    assert.equal(0, result.status, result.stderr)
    local runs = core.json.decode(result.stdout)
    assert.same({ "fifo", "priority" }, { runs[1].policy, runs[2].policy })
    assert.equal(40, runs[2].completed)
    result = nebula.run { args = { "policy", "simulate", "fifo", "--load", "load.lua" }, cwd = project }
    assert.truthy(result.stdout:find("utilisation", 1, true))
    assert.truthy(result.stdout:find("95 %% of the jobs"))
  end)

  it("tells how long a lane starved", function()
    local load = { lane("a", 20, { priority = 5 }), lane("b", 1) }
    local run = simulate.run { policy = of "return { lane = 'payload.tenant' }", workers = 2, load = load }
    assert.same({ 10, 1, 10 }, { run.lanes.b.starved, run.lanes.a.starved, run.starved })
    run = simulate.run { policy = of [[return { lane = "payload.tenant",
      claim = function() return { weight = 1 } end }]], workers = 2, load = load }
    assert.equal(0, run.lanes.b.starved)
  end)

  it("draws policies side by side, by the same lanes", function()
    local project = nebula.scratch()
    nebula.write(project, {
      ["policies/mine.lua"] = "return { lane = 'payload.tenant', claim = function() return { weight = 1 } end }",
      ["load.lua"] = [[return { { jobs = 50, takes = 1, payload = { tenant = "<a&b>" } },
        { jobs = 5, takes = 1, payload = { tenant = "c" } } }]],
    })
    local result = nebula.run { args = { "policy", "simulate", "fifo", "mine", "--load", "load.lua", "--svg", "out.svg",
      "--json" }, cwd = project }
    assert.equal(0, result.status, result.stderr)
    local runs = core.json.decode(result.stdout)
    assert.is_true(runs[1].lanes.c.wait.p95 > runs[2].lanes.c.wait.p95)
    local picture = core.fs.read(project .. "/out.svg")
    assert.truthy(picture:find("&lt;a&amp;b&gt;", 1, true))
    local _, bars = picture:gsub("fill%-opacity", "")
    assert.equal(2 * 2 * 3, bars)
  end)
end)
