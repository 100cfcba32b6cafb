-- report.lua: how busted tells what it found. Silent about what passes; each failure with its
-- place, its name, the message and the traceback without busted's own frames; and at the end the
-- line `N passed, N failed`, which spec/support/run.lua reads too. A spec that does not run counts
-- as failed, and so does a run in which nothing ran.
local base = require "busted.outputHandlers.base"

local function indented(text)
  return "    " .. tostring(text):gsub("%s+$", ""):gsub("\n", "\n    ")
end

local function own_frames(traceback)
  local frames = {}
  for line in (traceback or ""):gmatch("[^\n]+") do
    local foreign = line:find("/busted/") or line:find("/luassert/") or line:find("bin/busted:")
      or line:find("%[C%]") or line:find("stack traceback:") or line:find("(...tail calls...)", 1, true)
    if not foreign then frames[#frames + 1] = (line:gsub("^%s+", "at ")) end
  end
  return table.concat(frames, "\n")
end

return function()
  local busted = require "busted"
  local handler = base()
  local failed = 0

  local function report(element, message, trace)
    failed = failed + 1
    trace = trace or element.trace or {}
    local place = element.trace or trace
    local where = place.short_src and ("%s:%d: "):format(place.short_src, place.currentline or 0) or ""
    io.write("FAILED ", where, handler.getFullName(element), "\n", indented(message or "no message"), "\n")
    local frames = own_frames(trace.traceback)
    if frames ~= "" then io.write(indented(frames), "\n") end
    io.flush()
    return nil, true
  end

  local function on_failure(element, _, message, trace) return report(element, message, trace) end

  local function on_test_end(element, _, status, trace)
    if status == "pending" then report(element, "did not run", trace) end
    return nil, true
  end

  local function on_end()
    local passed = handler.successesCount
    if passed + failed == 0 then
      io.write("FAILED: no spec ran\n")
      failed = 1
    end
    io.write(("%d passed, %d failed\n"):format(passed, failed))
    io.flush()
    return nil, true
  end

  busted.subscribe({ "failure" }, on_failure)
  busted.subscribe({ "error" }, on_failure)
  busted.subscribe({ "test", "end" }, on_test_end)
  busted.subscribe({ "suite", "end" }, on_end)
  return handler
end
