-- nebula-test.lua: what `nebula test` runs in a process of its own: busted, with nebula.testing
-- loaded first, so that the specs' modules see the throwaway surroundings alone.
require "nebula.testing"
require "busted.runner" { standalone = false }
