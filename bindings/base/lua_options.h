/* lua_options.h: reading named options from a table: types, ranges, unknown names.
 *
 * Every reader takes the call's name ("pg.connect") for its message, leaves the stack as it was,
 * returns false and leaves *out alone where the option is absent, and raises a `validation` error
 * that names the call, the option, what it got and what it wants. */
#ifndef NEBULA_BASE_LUA_OPTIONS_H
#define NEBULA_BASE_LUA_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <lua.h>

/* Refuses a value that is neither nil nor a table, and every key that is not among names
 * (NULL-terminated); the message suggests the nearest name. */
void opt_check(lua_State *L, int index, const char *call, const char *const names[]);

bool opt_boolean(lua_State *L, int index, const char *call, const char *name, bool *out);
bool opt_integer(lua_State *L, int index, const char *call, const char *name, lua_Integer least,
                 lua_Integer most, lua_Integer *out);
bool opt_number(lua_State *L, int index, const char *call, const char *name, double least,
                double most, double *out);

/* The string stays anchored in the options table; valid while that table holds it. */
bool opt_string(lua_State *L, int index, const char *call, const char *name, const char **out,
                size_t *length);

/* Seconds: a number, or text such as "250ms", "90s", "1h30m", "30d", "2w". Never negative. */
bool opt_duration(lua_State *L, int index, const char *call, const char *name, double *seconds);

/* The same for a plain argument; `what` names it in the message. */
double opt_to_duration(lua_State *L, int index, const char *call, const char *what);

#endif
