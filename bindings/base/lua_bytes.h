/* lua_bytes.h: text that plain C built, handed to Lua. */
#ifndef NEBULA_BASE_LUA_BYTES_H
#define NEBULA_BASE_LUA_BYTES_H

#include <lua.h>
#include "base/bytes.h"

/* Pushes the run as a string and frees it: also where it failed, or where Lua has no memory for
 * the string, both of which raise "not enough memory". */
void lua_push_bytes(lua_State *L, bytes *run);

#endif
