-- Policies: loaded into the sandbox, their plans made SQL, their answers checked.
local directory = require "spec.support.directory"
local nebula = require "nebula"
local policy = require "nebula.policy"

local counter = 0

describe("nebula.policy", function()
  local function of(source, values)
    counter = counter + 1
    return policy.from_source("mine", "policies/mine.lua", source, values)
  end

  local function refused(kind, ...)
    local _, err = nebula.try(...)
    assert.is_table(err)
    assert.equal(kind, err.kind)
    return err.message
  end

  it("takes by priority, then time, unless told otherwise", function()
    local plan = policy.default():plan(7)
    assert.same({ "priority DESC, scheduled_at", 7 }, { plan.order, plan.limit })
    assert.is_false(policy.default():by_lanes(plan))
  end)

  it("waits longer after each failure, up to the longest", function()
    local default = policy.load("priority", { first = 2, longest = "1m" })
    for retry_count = 0, 10 do
      local ceiling = math.min(60, 2 * 2 ^ retry_count)
      local wait = default:retry({ retry_count = retry_count }, { kind = "script", message = "x" })
      assert.is_true(wait >= ceiling / 2 and wait <= ceiling)
    end
    assert.equal(33, default:retry({ retry_count = 0 }, { kind = "s3", message = "x", retry_after = 33 }))
  end)

  it("makes a plan's order SQL and bounds its limit", function()
    local mine = of [[return { claim = function(ctx)
      return { order = { "scheduled_at asc", "workflow_id desc" }, limit = 3 }
    end }]]
    assert.same({ "scheduled_at, workflow_id DESC", 3 }, { mine:plan(10).order, mine:plan(10).limit })
    assert.equal(2, mine:plan(2).limit)
    assert.is_nil(of("return { claim = function() return nil end }"):plan(5))
  end)

  it("refuses a plan that names what it may not", function()
    assert.matches('"payload"', refused("policy", function()
      of('return { claim = function() return { order = { "payload" } } end }'):plan(1)
    end))
    assert.matches("drop table", refused("policy", function()
      of('return { claim = function() return { order = { "priority; drop table x" } } end }'):plan(1)
    end))
    assert.matches("names colour", refused("policy", function()
      of("return { claim = function() return { colour = 1 } end }"):plan(1)
    end))
  end)

  it("checks options, and gives them to the functions", function()
    local source = [[return {
      options = { wait = { type = "duration", default = "5s", help = "how long" } },
      retry = function(job, failure, ctx) return ctx.options.wait end,
    }]]
    assert.equal(5, of(source):retry({}, { message = "x" }))
    assert.equal(90, of(source, { wait = "90s" }):retry({}, { message = "x" }))
    assert.matches("unknown option waitt; did you mean wait", refused("validation", of, source, { waitt = 1 }))
  end)

  it("names the line where a file does not compile, and what is no policy", function()
    assert.matches("policies/mine%.lua:2:", refused("policy", of, "return {\n claim = = }"))
    assert.matches("did you mean claim", refused("policy", of, "return { claims = function() end }"))
    assert.matches("claim is a function", refused("policy", of, "return { claim = 7 }"))
    refused("policy", of, "return 7")
    assert.matches('no policy "nobody"', refused("not_found", policy.load, "nobody"))
  end)

  it("falls back to the default wait where the policy itself fails", function()
    local broken = of "return { retry = function() error 'oops' end }"
    local wait = broken:retry({ id = "j", retry_count = 0 }, { message = "x" })
    assert.is_true(wait > 0 and wait <= 2)
    wait = of("return { retry = function() return 'soon' end }"):retry({ retry_count = 0 }, { message = "x" })
    assert.is_true(wait > 0 and wait <= 2)
  end)

  it("ends a policy that loops, and goes on", function()
    local looping = of "return { claim = function() while true do end end }"
    refused("limit", looping.plan, looping, 1)
    refused("limit", looping.plan, looping, 1)
  end)

  it("finds the project's policies before the host's", function()
    local project = directory.make_outside("policy-" .. counter)
    nebula.fs.mkdir(project .. "/policies")
    nebula.fs.write(project .. "/policies/priority.lua", "return { summary = 'ours' }")
    local path = package.path
    package.path = project .. "/?.lua;" .. path
    local found = policy.load "priority"
    package.path = path
    assert.equal("ours", found.summary)
  end)
end)
