/* nebula.h: the opener of each subject, as nebula.c assembles them. Each pushes one table. */
#ifndef NEBULA_H
#define NEBULA_H

#include <lua.h>

int lua_open_blob(lua_State *L);
int lua_open_crypto(lua_State *L);
int lua_open_fs(lua_State *L);
int lua_open_http(lua_State *L);
int lua_open_json(lua_State *L);
int lua_open_log(lua_State *L);
int lua_open_pg(lua_State *L);
int lua_open_s3(lua_State *L);
int lua_open_task(lua_State *L);
int lua_open_time(lua_State *L);

#endif
