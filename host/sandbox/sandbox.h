/* sandbox.h: a Lua state of its own for code that is not trusted to end, to stay small, or to keep
 * its hands off the world.
 *
 * - an allow-list of libraries: no I/O, no clock, no debug, no load, no __gc; math.random is seeded
 * - memory: an allocator that refuses above a cap, which the values on their way out count into,
 *   and what they will take where they arrive
 * - time: a count hook takes instructions off a budget; once it is spent every further instruction
 *   raises, so that no pcall keeps the code alive. Library functions that could loop inside C
 * charge their work to the same budget, and string patterns are matched by pattern.c.
 *
 * Values come and go through value.h's buffers. One call at a time; from the thread of the loop. */
#ifndef NEBULA_HOST_SANDBOX_SANDBOX_H
#define NEBULA_HOST_SANDBOX_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <lua.h>
#include "sandbox/value.h"

typedef struct sandbox sandbox;

typedef struct sandbox_limits {
  size_t memory;        /* bytes */
  int64_t instructions; /* a call */
  double cpu_seconds;   /* a call; what neither limit sees */
  lua_Integer seed;     /* of math.random */
} sandbox_limits;

typedef enum sandbox_status {
  SANDBOX_OK,
  SANDBOX_FAILED,   /* the code raised, or does not compile */
  SANDBOX_EXCEEDED, /* instructions, time or memory */
} sandbox_status;

/* A function of the host that sandboxed code may call: reads its arguments from `in`, writes its
 * results to `out` (values, one after the other). False: *problem tells why it failed. It must
 * return, not jump. */
typedef bool sandbox_callback(void *data, lua_Integer number, const value_buffer *in,
                              value_buffer *out, const char **problem);

/* NULL on a lack of memory. */
sandbox *sandbox_new(const sandbox_limits *limits, sandbox_callback *callback, void *data);
void sandbox_free(sandbox *self);

/* Values, one after the other: the arguments of the next operation, emptied, and the results of the
 * last one. Among the arguments a function's number is that of an earlier result, or
 * the negative of a callback's. */
value_buffer *sandbox_begin_arguments(sandbox *self);
const value_buffer *sandbox_results(const sandbox *self);

/* Sets a global from the argument buffer, which holds that one value. */
sandbox_status sandbox_set_global(sandbox *self, const char *name);

/* Sets a global function that calls the host's callback with this number. */
sandbox_status sandbox_set_callback(sandbox *self, const char *name, lua_Integer number);

/* The callback that `policy(name)` asks for a source it does not know: name -> source, file name.
 */
void sandbox_set_finder(sandbox *self, lua_Integer number);

/* The callback that gives a record's `payload` when it is first asked for: id -> payload. */
void sandbox_set_payload(sandbox *self, lua_Integer number);

/* Makes a source available to the global function `policy(name)`, which runs it once, as a table.
 */
sandbox_status sandbox_add_module(sandbox *self, const char *name, const char *source,
                                  size_t length, const char *chunk);

/* Compiles and runs the chunk; the table it returns is what paths start from. */
sandbox_status sandbox_load(sandbox *self, const char *source, size_t length, const char *chunk);

/* Calls the function at a path ("claim", "options.cap.check") with `count` arguments. */
sandbox_status sandbox_call(sandbox *self, const char *path, int count);

/* Calls a function that a result held, by its number. */
sandbox_status sandbox_call_number(sandbox *self, lua_Integer number, int count);

/* Calls it with each of `count` arguments alone: a result for each, under the limits of one call.
 */
sandbox_status sandbox_map_number(sandbox *self, lua_Integer number, int count);

/* Leaves the chunk's table in the results. */
sandbox_status sandbox_describe(sandbox *self);

/* Seeds math.random anew. */
void sandbox_seed(sandbox *self, lua_Integer seed);

/* A result held this function; nobody will call it again. */
void sandbox_forget(sandbox *self, lua_Integer number);

/* After a status other than OK: one line, and where it happened (or ""). Valid until the next call.
 */
const char *sandbox_message(const sandbox *self);
const char *sandbox_traceback(const sandbox *self);

size_t sandbox_memory(const sandbox *self);

/* ---- for the libraries inside the sandbox ---- */

sandbox *sandbox_of(lua_State *L);

/* Takes work off the budget; raises where it is spent. */
void sandbox_charge(lua_State *L, int64_t instructions);

/* The same where nothing may jump: false where it is spent, so that the next charge raises. */
bool sandbox_spend(sandbox *self, int64_t instructions);

/* Opens the allowed libraries. */
void sandbox_open_libraries(lua_State *L, lua_Integer seed);
void sandbox_open_strings(lua_State *L);

#endif
