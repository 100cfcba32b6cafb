/* lua_scalars.h: one Lua value as the text of a parameter or an array's element. */
#ifndef NEBULA_LUA_PG_SCALARS_H
#define NEBULA_LUA_PG_SCALARS_H

#include <libpq-fe.h>
#include <lua.h>
#include "pg/request.h"

/* The text, ended by a NUL byte: in scratch, static, or the Lua string's own. NULL where the value
 * is no boolean, number, string or exact number. Raises where a text holds a NUL byte. */
const char *lua_pg_scalar(lua_State *L, int index, Oid type, char scratch[PG_REQUEST_SCRATCH],
                          size_t *length);

#endif
