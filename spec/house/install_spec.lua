-- What `make install` puts where, and that it works from there without the tree it was built in.
local lfs = require "lfs"
local child = require "spec.support.child"
local directory = require "spec.support.directory"
local nebula = require "spec.support.nebula"

local function make(...)
  local args = { "-C", nebula.root, "--no-print-directory", ... }
  if directory.build:find("asan") then args[#args + 1] = "SANITIZE=1" end
  return child.must {
    file = "make", args = args, stderr = "stdout", clear_env = true,
    env = { PATH = os.getenv "PATH", HOME = os.getenv "HOME" },
  }
end

local function files_below(where)
  local listed = child.must { file = "find", args = { where, "-type", "f" } }
  local _, count = listed:gsub("[^\n]+", "")
  return count, listed
end

describe("make install", function()
  local root, scratch

  lazy_setup(function()
    root, scratch = nebula.scratch(), nebula.scratch()
    make("install", "DESTDIR=" .. root, "PREFIX=/opt/nebula")
  end)

  it("puts the program, the module, scripts and migrations below DESTDIR and PREFIX", function()
    for _, path in ipairs {
      "bin/nebula", "lib/lua/5.4/nebula.so", "share/nebula/scripts/nebula/cli.lua",
      "share/nebula/migrations/V1__initial_schema.lua", "share/doc/nebula/README.md", "share/nebula/meta/pg.lua",
      "share/bash-completion/completions/nebula", "share/zsh/site-functions/_nebula", "share/man/man1/nebula.1",
    } do
      assert.equal("file", lfs.attributes(root .. "/opt/nebula/" .. path, "mode"), path)
    end
  end)

  it("gives a program that finds its library wherever it is called", function()
    local result = child.run {
      file = root .. "/opt/nebula/bin/nebula", cwd = scratch, stdin = "",
      args = { "-e", "print(package.searchpath('nebula.storage', package.path))" },
    }
    assert.equal(0, result.status, result.stderr)
    assert.equal(root .. "/opt/nebula/share/nebula/scripts/nebula/storage.lua\n", result.stdout)
  end)

  it("brings the documents that help() reads", function()
    local result = child.run {
      file = root .. "/opt/nebula/bin/nebula", cwd = scratch, stdin = "", args = { "-e", "help 'nebula.pg.connect'" },
    }
    assert.equal(0, result.status, result.stderr)
    assert.truthy(result.stdout:find("Opens a pool", 1, true), result.stdout)
  end)

  it("is undone by make uninstall", function()
    make("uninstall", "DESTDIR=" .. root, "PREFIX=/opt/nebula")
    local count, listed = files_below(root)
    assert.equal(0, count, listed)
  end)
end)

describe("make", function()
  it("has nothing to do where nothing changed", function()
    assert.truthy(make("all"):find("Nothing to be done", 1, true))
  end)

  it("lists every target that it has", function()
    local help = make("help")
    for _, target in ipairs { "all", "run", "test", "test-asan", "lint", "format", "bench", "install", "clean" } do
      assert.truthy(help:find("\n  " .. target .. " ", 1, true), target)
    end
  end)

  it("finds the tree keeping the rules of the house", function() make("lint") end)
end)
