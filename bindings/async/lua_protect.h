/* lua_protect.h: protected calls through which waits and interrupts pass. */
#ifndef NEBULA_ASYNC_LUA_PROTECT_H
#define NEBULA_ASYNC_LUA_PROTECT_H

#include <lua.h>

/* Each sets its functions in the table on top of the stack: `pcall` and `xpcall`; `try`. */
void task_open_protect(lua_State *L);
void task_open_try(lua_State *L);

#endif
