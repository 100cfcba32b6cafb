/* value.h: values on their way between two Lua states.
 *
 * They travel through a flat buffer of plain memory, because an error of one state must never jump
 * over the C frames of the other: writing reads one state alone, reading builds in one alone.
 * Metatables stay behind; a cycle is refused as too deep. Functions do not travel: the writer may
 * give them a number (see value_functions), which the reader turns into what stands for them.
 *
 * A record is a table whose metatable is the one that value_set_record gave its state. It arrives
 * as a record of the other state, where there are such; where its state is `brief`, its `id` alone
 * leaves. */
#ifndef NEBULA_HOST_SANDBOX_VALUE_H
#define NEBULA_HOST_SANDBOX_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <lua.h>

typedef struct value_buffer {
  char *bytes;
  size_t length, capacity;
  size_t used, limit; /* of `limit`: the length, and in a weighed one what the values will take */
  bool weighed;
} value_buffer;

/* Empties it for values of at most `limit` bytes. Weighed: what they will take where they are built
 * counts, too, so that a short text cannot become a big table. */
void value_buffer_begin(value_buffer *self, size_t limit, bool weighed);

/* Leaves the number of a function (or userdata) in *number; false: it has none. It is on top of the
 * stack. */
typedef bool value_write_function(lua_State *L, void *data, lua_Integer *number);

/* Pushes what stands for the function of that number. */
typedef void value_read_function(lua_State *L, void *data, lua_Integer number);

/* The metatable on top of the stack, which is popped, marks the records of this state. */
void value_set_record(lua_State *L, bool brief);

/* Pushes it, or nil. */
void value_push_record(lua_State *L);

/* Appends the value at an index. NULL, or why it cannot travel. May raise a memory error of L where
 * `function` does. */
const char *value_write(lua_State *L, int index, value_buffer *out, value_write_function *function,
                        void *data);

/* Pushes the next value at *position. Raises memory errors alone. */
void value_read(lua_State *L, const value_buffer *in, size_t *position,
                value_read_function *function, void *data);

void value_buffer_free(value_buffer *self);

#endif
