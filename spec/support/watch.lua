-- watch.lua RUN: waits until the run of that id is gone, however it ended, then ends what it left
-- and removes its files. It is detached, so that what ends the run does not end it too.
package.path = "./?.lua;" .. package.path
local nebula = require "nebula"
local leftovers = require "spec.support.leftovers"

local run = assert(math.tointeger(arg[1]))

io.read("a") -- the run holds the other end of this pipe as long as it lives

-- What is being started just now shows itself a moment later.
local quiet = 0
while quiet < 3 do
  quiet = leftovers.clear(run) and 0 or quiet + 1
  if quiet < 3 then nebula.task.sleep(0.1) end
end
