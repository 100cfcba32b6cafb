---@meta
--- nebula.task: scripts read as if they blocked; what waits is a task, and others run meanwhile.
---
--- One loop on one thread runs every task; between two waits a task is atomic. Inside a stock
--- `lua5.4` the main chunk is no task: a wait there turns the loop until its own operation is done.

---@class nebula.task
local task = {}

--- A duration: seconds as a number, or text such as "250ms", "90s", "1h30m", "30d".
---@alias nebula.Duration number|string

---@class nebula.Task
local Task = {}

--- Starts a task that runs `fn(...)` from the next turn of the loop on.
--- An error that nobody joins for is reported on standard error.
--- Errors: `validation` where fn cannot be called.
---@param fn function
---@return nebula.Task
function task.spawn(fn, ...) end

--- Waits for the end of the task and returns what its function returned, to everyone who joins.
--- Errors: the task's own error, `cancelled` where it was cancelled, `script` where it joins itself.
---@return any ...
function Task:join() end

--- Asks the task to end: `cancelled` is raised once, at its wait point, and passes through pcall.
--- While it unwinds, <close> handlers may wait for up to 5 seconds in all; a second cancel does not
--- disturb them. The running task ends at once.
---@return boolean living false where it had ended already
function Task:cancel() end

---@return "ready"|"running"|"waiting"|"done"|"failed"|"cancelled"
function Task:state() end

---@class nebula.Scope
local Scope = {}

--- Starts a child of the scope.
--- Errors: `script` where the scope has ended.
---@param fn function
---@return nebula.Task
function Scope:spawn(fn, ...) end

--- Cancels every child that runs now.
function Scope:cancel() end

--- Runs fn with a scope and returns what it returns, once fn and every child have ended. The first
--- error cancels the rest and is raised at the end.
--- After N. J. Smith, "Notes on structured concurrency" (2018).
---@param fn fun(scope: nebula.Scope): ...
---@return any ...
function task.scope(fn) end

--- Calls fn(list[i], i) for every element, `concurrency` at a time (default 16).
--- Errors: the first error of fn, after the other calls were cancelled.
---@param list any[]
---@param fn fun(element: any, index: integer): any
---@param options? {concurrency: integer}
---@return any[] results in the list's order; `results.n`, which pairs does not see, is the list's length
function task.map(list, fn, options) end

--- Waits for at least that long.
---@param duration nebula.Duration
function task.sleep(duration) end

--- Lets every other ready task, and the loop, have a turn.
function task.yield() end

--- Runs fn(...) and returns what it returns, if that takes no longer than the duration.
--- Errors: `timeout` (retryable), raised inside fn at its wait point, or in the middle of a
--- computation; pcall inside fn does not keep it.
---@param duration nebula.Duration
---@param fn function
---@return any ...
function task.deadline(duration, fn, ...) end

--- A queue between tasks that holds up to `capacity` values (default 0: sender and receiver meet).
--- `for value in channel do` receives until it is closed; `#channel` is the number of queued values.
---@param capacity? integer
---@return nebula.Channel
function task.channel(capacity) end

---@class nebula.Channel
local Channel = {}

--- Waits while the channel is full.
--- Errors: `script` once it is closed, `validation` for nil.
---@param value any
function Channel:send(value) end

--- Waits for a value; nil once the channel is closed and empty.
---@return any|nil
function Channel:receive() end

--- Refuses further values; what is queued can still be received.
function Channel:close() end

---@param permits integer 1 or more
---@return nebula.Semaphore
function task.semaphore(permits) end

---@class nebula.Semaphore
local Semaphore = {}

--- Waits for a permit, first come, first served. Use `local permit <close> = semaphore:acquire()`.
---@return nebula.Permit
function Semaphore:acquire() end

--- Gives a permit back, for who does not keep the Permit.
--- Errors: `script` where all are free already.
function Semaphore:release() end

---@class nebula.Permit
local Permit = {}

--- Gives the permit back, once however often it is called.
function Permit:release() end

--- Every task that has not ended.
---@return {task: nebula.Task, id: integer, state: string, age: number, waits_for: string?, traceback: string}[]
function task.list() end

--- The task that runs, or nil outside of tasks.
---@return nebula.Task|nil
function task.current() end

--- An iterator over what fn yields, which the for loop closes where it is left early: fn's <close>
--- handlers run, and may wait.
---@param fn function
---@return fun(): any ... iterator
---@return nil
---@return nil
---@return any closing
function task.generator(fn) end

--- A coroutine library through which waits and cancels pass; the host's global `coroutine` is this
--- one. Inside a stock `lua5.4`, make generators that wait with it.
---@type coroutinelib
task.coroutine = {}

return task
