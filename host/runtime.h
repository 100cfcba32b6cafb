/* runtime.h: one Lua state as the host makes it: libraries, module paths, the host's pcall and
 * require, signals; the main task and the orderly end. */
#ifndef NEBULA_HOST_RUNTIME_H
#define NEBULA_HOST_RUNTIME_H

#include <stdbool.h>
#include <lua.h>

typedef struct runtime runtime;

/* NULL on a lack of memory, or where the loop cannot be made (said on stderr). */
runtime *runtime_new(int argc, char **argv);

/* Runs `require("nebula.cli").main(argv)` as the main task, then cancels and drains every other
 * task. Returns the exit status; what went wrong was said on stderr. */
int runtime_run(runtime *self);

/* Closes the state, then the loop. */
void runtime_free(runtime *self);

/* From now on the program is interactive: Ctrl-C interrupts the foreground task, however often.
 * `interrupted` is told of each from the loop; `taken`: there was such a task. NULL: as before. */
typedef void runtime_interrupt_fn(void *data, bool taken);
void runtime_on_interrupt(runtime *self, runtime_interrupt_fn *interrupted, void *data);

/* The runtime of this state. */
runtime *runtime_of(lua_State *L);

#endif
