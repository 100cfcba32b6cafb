-- How the slots of a claim are divided among lanes.
local share = require "nebula.policy.share"

describe("the shares of a claim", function()
  local function lane(weight, fields)
    local made = { running = 0, weight = weight, allowed = 1000 }
    for name, value in pairs(fields or {}) do made[name] = value end
    return made
  end

  -- Numbers of [0, 1), spread evenly.
  local function even()
    local at = 0
    return function()
      at = (at + 0.618034) % 1
      return at
    end
  end

  it("are as the weights, over what runs already, up to what each may take", function()
    assert.same({ 40, 10 }, share.divide(50, { lane(4), lane(1) }))
    assert.same({ 2, 8 }, share.divide(10, { lane(1, { running = 7 }), lane(1, { running = 1 }) }))
    assert.same({ 3, 47, 0 }, share.divide(50, { lane(4, { allowed = 3 }), lane(1), lane(0) }))
    assert.same({ 3, 1 }, share.divide(50, { lane(1, { allowed = 3 }), lane(1, { allowed = 1 }) }))
  end)

  it("come true over many claims where they are less than a slot", function()
    local random, sum = even(), { 0, 0 }
    for _ = 1, 1000 do
      local parts = share.divide(8, { lane(1), lane(99) }, random)
      assert.equal(8, parts[1] + parts[2])
      for i, part in ipairs(parts) do sum[i] = sum[i] + part end
    end
    assert.is_true(sum[1] > 60 and sum[1] < 100, sum[1] .. " of 8000, for a weight of a hundredth")
  end)

  it("are those that one slot after the other would give, each to the lane that has the least", function()
    local random = even()
    local function one_by_one(n, lanes, draws)
      local parts = {}
      for i = 1, #lanes do parts[i] = 0 end
      for _ = 1, n do
        local least, at = math.huge, nil
        for i, one in ipairs(lanes) do
          local level = (one.running + draws[i] + parts[i]) / one.weight
          if parts[i] < one.allowed and one.weight > 0 and level < least then least, at = level, i end
        end
        if not at then break end
        parts[at] = parts[at] + 1
      end
      return parts
    end
    for case = 1, 300 do
      local lanes, draws = {}, {}
      for i = 1, 1 + case % 23 do
        draws[i] = random()
        local weight = random() ^ 5 * 10
        lanes[i] = lane(i % 7 == 3 and 0 or case % 10 == i and math.huge or weight,
          { running = i % 3 == 0 and (case * i) % 31 or 0, allowed = i % 4 == 0 and case % 20 or 1000 })
      end
      local at = 0
      local parts = share.divide(1 + case * 7 % 500, lanes, function()
        at = at + 1
        while lanes[at].weight == 0 or lanes[at].allowed == 0 do at = at + 1 end -- which draw nothing
        return draws[at]
      end)
      assert.same(one_by_one(1 + case * 7 % 500, lanes, draws), parts)
    end
  end)

  it("are no more than there are, also where weights are next to nothing", function()
    local parts = share.divide(10, { lane(5e-324), lane(5e-324), lane(1e-320) })
    assert.equal(10, parts[1] + parts[2] + parts[3])
  end)

  it("come to every one of many lanes, where there are fewer slots than lanes", function()
    local random, got, lanes = even(), {}, {}
    for i = 1, 64 do lanes[i] = lane(1) end
    for _ = 1, 100 do
      for i, part in ipairs(share.divide(8, lanes, random)) do got[i] = (got[i] or 0) + part end
    end
    for i = 1, 64 do assert.is_true(got[i] > 0, "lane " .. i .. " never") end
  end)
end)
