-- cli/attach.lua: `nebula attach [PID]`: the prompt inside of a running worker.
return {
  summary = "Open the prompt inside of a running worker",
  description = [[
The worker's own storage, pool and tasks are there to look at: .tasks, .pool, .stats, queue.stats().
A line that computes keeps the worker's jobs waiting meanwhile; one that takes longer than --limit is ended.
Only the user that the worker runs as can attach to it, over a unix socket.]],
  options = { limit = { type = "duration", default = "30s", min = 0.1, help = "how long one line may take" } },
  arguments = { { name = "pid", type = "integer", help = "the worker's process; needed where several run" } },
  run = function(opts, args)
    return require("repl.remote").run(args.pid, { limit = opts.limit })
  end,
}
