-- Completions and the man page are made from the commands' declarations.
local child = require "spec.support.child"
local nebula = require "spec.support.nebula"

local function printed(name)
  local result = nebula.run { args = { "completion", name } }
  assert.equal(0, result.status, result.stderr)
  return result.stdout
end

describe("nebula completion", function()
  -- What bash offers for the last of the words.
  local function offered(...)
    local script = printed "bash" .. [[
      COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
      cd /
      _nebula
      printf '%s\n' "${COMPREPLY[@]}"
    ]]
    local result = child.run { file = "bash", args = { "-c", script, "bash", ... } }
    assert.equal("", result.stderr)
    return result.stdout
  end

  it("offers bash commands, subcommands, options and their choices", function()
    assert.equal("doctor\n", offered("nebula", "doc"))
    assert.equal("up\n", offered("nebula", "dev", "u"))
    assert.equal("--unique-key\n", offered("nebula", "queue", "push", "--unique-k"))
    assert.equal("completed\n", offered("nebula", "queue", "list", "--status", "comp"))
    assert.equal("--json\n", offered("nebula", "queue", "list", "--status", "dead", "--js"))
    assert.equal("--per-object\n", offered("nebula", "task", "archive-executions", "--per"))
    assert.equal("timed_out\n", offered("nebula", "task", "archive-executions", "--status", "tim"))
    assert.equal("--dry-run\n", offered("nebula", "task", "purge-jobs", "--yes", "--dry"))
  end)

  it("offers bash the names of tasks, policies and handlers", function()
    local program = nebula.program
    assert.equal("requeue-dead\n", offered(program, "task", "requeue"))
    assert.equal("fair_share\nfifo\n", offered(program, "policy", "use", "f"))
    assert.equal("http\n", offered(program, "queue", "push", "ht"))
  end)

  it("describes each command to zsh", function()
    local script = printed "zsh"
    assert.equal("#compdef nebula", script:match "^[^\n]*")
    assert.truthy(script:find('"nebula dev") words_of=(', 1, true))
    assert.truthy(script:find("'doctor:Tell what is configured", 1, true))
  end)

  it("makes a man page of every command", function()
    local page = printed "man"
    assert.equal(".TH NEBULA 1", page:sub(1, 12))
    for _, heading in ipairs {
      ".SS nebula queue push", ".SS nebula task health", ".SS nebula init", ".SH ENVIRONMENT", ".SH EXIT STATUS",
    } do
      assert.truthy(page:find("\n" .. heading .. "\n", 1, true), heading)
    end
  end)
end)
