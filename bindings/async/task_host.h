/* task_host.h: what the program around the module needs: a main task, Ctrl-C, an orderly end. */
#ifndef NEBULA_ASYNC_TASK_HOST_H
#define NEBULA_ASYNC_TASK_HOST_H

#include <stdbool.h>
#include <lua.h>
#include "async/task.h"

/* Replaces the globals pcall, xpcall and coroutine by those through which a wait and a cancel pass
 * (package.loaded.coroutine too). */
void task_host_install(lua_State *L);

/* Runs the function and its `nargs` arguments on top of the stack as the foreground task and turns
 * the loop until it has ended. True: its results lie on the stack; false: the error object. Call it
 * from the main thread of the state, never from inside a task. */
bool task_host_run(lua_State *L, int nargs);

/* Cancels every task and turns the loop until all have ended. Their clean-up is bounded in time,
 * so this is. */
void task_host_drain(lua_State *L);

/* The two halves of Ctrl-C. The first is safe in a signal handler on the loop's thread: it stops
 * the Lua code that runs at its next instruction. The second belongs into the loop callback that
 * the handler wakes (uv_async_send): it interrupts the foreground task where it waits. */
scheduler *task_host_scheduler(lua_State *L);
void task_host_signalled(scheduler *self);
bool task_host_interrupt(scheduler *self); /* false: there is no foreground task */

/* Makes the Task at an index the foreground task (0: none is). */
void task_host_foreground(lua_State *L, int index);

/* A script that computes does not turn the loop, so its timers do not fire. While any deadline or
 * clean-up is under way (watch(true) .. watch(false)) the host calls task_host_tick from a signal
 * handler every now and then; the Lua code that runs then looks at its limits. */
void task_host_watch(scheduler *self, void (*watch)(bool on));
void task_host_tick(scheduler *self);

#endif
