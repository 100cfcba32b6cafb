---@meta nebula.fs
-- What an editor sees of nebula.fs, and what the API documents are made of.

---Files, on the thread pool: each call waits without stopping other tasks.
---A failure raises `io`, its `code` the errno's name (`ENOENT`, `ENOSPC`), its message with the path;
---wrong arguments raise `validation`. Relative paths start at the process's directory.
---@class nebula.fs
local fs = {}

---@class nebula.fs.read_options
---@field max_bytes? integer raise `limit` for a larger file (1 GiB)

---Reads a whole file.
---@param path string
---@param options? nebula.fs.read_options
---@return string data
function fs.read(path, options) end

---@class nebula.fs.write_options
---@field atomic? boolean a new file, synced, renamed over the old one: either content, never a mixture (true)
---@field mode? integer permissions (those of the file it replaces, else 0644 less the umask)

---Writes a whole file.
---@param path string
---@param data string
---@param options? nebula.fs.write_options
function fs.write(path, data, options) end

---An open file. One operation at a time. As a `<close>` variable it is closed at the end of its block.
---@class nebula.fs.File
local file = {}

---@param path string
---@param mode? "r"|"r+"|"w"|"wx"|"a" read; read and write; empty it; make it, or fail with EEXIST; append ("r")
---@return nebula.fs.File
function fs.open(path, mode) end

---This program's standard input, to be read: a duplicate, which may be closed.
---@return nebula.fs.File
function fs.stdin() end

---Reads on. Fewer bytes than asked for come only at the end of the file.
---@param count? integer 1 to 64 MiB (64 KiB)
---@return string? data nil at the end
function file:read(count) end

---@param data string
---@return nebula.fs.File self
function file:write(data) end

---Waits until what was written is on the disk.
---@return nebula.fs.File self
function file:sync() end

---Closes the file; closing it again does nothing.
function file:close() end

---@class nebula.fs.Stat
---@field type "file"|"directory"|"link"|"fifo"|"socket"|"device"
---@field size integer bytes
---@field mode integer permission bits
---@field modified number seconds since 1970
---@field uid integer
---@field gid integer

---@class nebula.fs.stat_options
---@field follow? boolean look at what a link points to (true)

---@param path string
---@param options? nebula.fs.stat_options
---@return nebula.fs.Stat? stat nil where there is nothing
function fs.stat(path, options) end

---@param path string
---@return boolean
function fs.exists(path) end

---@class nebula.fs.mkdir_options
---@field parents? boolean make those above it, too; it may exist (false)
---@field mode? integer permissions (0777 less the umask)

---@param path string
---@param options? nebula.fs.mkdir_options
function fs.mkdir(path, options) end

---Iterates over what is in a directory, in no order: `for name, type in fs.list(path) do`.
---@param path string
---@return fun(): string?, string?
function fs.list(path) end

---@class nebula.fs.Entry
---@field path string the directory given, and what follows
---@field relative string the path below that directory
---@field type string as in Stat
---@field size integer bytes of a file, else 0
---@field modified number seconds since 1970

---Iterates over all that is below a directory, in no order, each directory before what is in it:
---`for entry in fs.walk(path) do`. Links are not followed. Memory is bounded, whatever is there.
---@param path string
---@return fun(): nebula.fs.Entry?
function fs.walk(path) end

---@class nebula.fs.remove_options
---@field recursive? boolean a directory with all that is in it (false)

---Removes a file, a link, or an empty directory.
---@param path string
---@param options? nebula.fs.remove_options
---@return boolean removed false where there was nothing
function fs.remove(path, options) end

---Renames; what has the new name is replaced.
---@param from string
---@param to string on the same file system
function fs.rename(from, to) end

---The SHA-256 of a file's content, without reading it into memory at once.
---@param path string
---@return string digest lower-case hexadecimal
---@return integer size bytes
function fs.hash(path) end

---The absolute path without links.
---@param path string
---@return string path
function fs.realpath(path) end

---Makes an empty directory for this program alone, below `TMPDIR` or /tmp; who asked removes it.
---@return string path
function fs.tempdir() end

return fs
