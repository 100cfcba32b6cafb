/* task.h: how a binding lets a script wait, and how it calls back into Lua.
 *
 * A glue function that waits has two steps and a continuation:
 *
 *   static int lua_thing_get(lua_State *L) {
 *     ... check arguments ...
 *     task_ticket ticket = task_wait_begin(L, "thing:get");     // raises where L cannot wait
 *     thing_op *op = thing_start(..., on_done, ...);            // keeps the ticket
 *     return task_wait(L, ticket, abandon, op, ctx, get_done);  // yields, or turns the loop
 *   }
 *   static void on_done(thing_op *op) { task_wake(op->ticket); }
 *   static int get_done(lua_State *L, int status, lua_KContext ctx) { ... push results ... }
 *
 * - The stack below the wait is kept: anchor what the operation needs (its userdata, strings whose
 *   bytes it reads) there, and find it again by index in the continuation.
 * - task_wake may be called at any time, once or often, even before task_wait or long after the
 *   task is gone: a ticket carries its generation, and a late one is a no-op.
 * - abandon(data) runs exactly once where the task is cancelled or its deadline ends before the
 *   wake: the operation must give up what it holds and forget the Lua side's memory. The
 *   continuation then does not run; the error is raised at the wait point instead.
 * - A wake that came first wins: the continuation runs and the cancel is raised at the next wait.
 * - The continuation runs on the waiting coroutine and may raise errors.
 *
 * Everything here runs on the loop's thread. */
#ifndef NEBULA_ASYNC_TASK_H
#define NEBULA_ASYNC_TASK_H

#include <stdint.h>
#include <lua.h>
#include "async/loop.h"

typedef struct scheduler scheduler;

typedef struct task_ticket {
  scheduler *owner;
  uint32_t slot;
  uint32_t generation;
} task_ticket;

typedef void task_abandon_fn(void *data);

/* The loop of this Lua state, made at the first call. */
loop *task_loop(lua_State *L);

/* Announces a wait; `what` names the call in errors ("pool:query"). Raises a `script` error where
 * this coroutine cannot wait, and a pending cancel, before anything has begun. */
task_ticket task_wait_begin(lua_State *L, const char *what);

/* Suspends until the ticket's wake, then returns what `done` returns. abandon may be NULL where the
 * operation needs no clean-up. Use as `return task_wait(...)`. */
int task_wait(lua_State *L, task_ticket ticket, task_abandon_fn *abandon, void *data,
              lua_KContext context, lua_KFunction done);

void task_wake(task_ticket ticket);

/* Makes a task of the function and its `nargs` arguments on top of the stack, pops them and pushes
 * the Task. It starts in the next turn. This is the only way from C into a script's function. */
void task_spawn(lua_State *L, int nargs);

/* Identifies the task that runs now, for ownership ("acquired twice in one task"): never 0 inside a
 * task, never used twice, 0 outside of tasks. */
uint64_t task_current_id(lua_State *L);

/* Pushes the Task that runs now, or nil. */
void task_push_current(lua_State *L);

/* Pushes "file:line" of the Lua code that called the running C function. */
void task_push_where(lua_State *L);

#endif
