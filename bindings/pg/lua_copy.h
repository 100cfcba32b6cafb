/* lua_copy.h: what lua_copy.c and lua_copy_in.c share. */
#ifndef NEBULA_LUA_PG_COPY_H
#define NEBULA_LUA_PG_COPY_H

#include <stdbool.h>
#include <lua.h>
#include "pg/copy.h"
#include "pg/lua_pg.h"

#define LUA_PG_COPY "nebula.pg.Copy"

enum { LUA_PG_NDJSON = 3 };

/* A COPY under way; closing it aborts what has not ended. The stack of both calls:
 * self, sql, sink or source, options, session, this. */
typedef struct lua_pg_copy {
  pg_request *request;
  const char *call;
  bool out, args, named;
  int format;
  pg_copy_json *objects; /* for the request to come: rows as objects; owned */
  lua_Integer row;       /* in, from a list: the last that was sent */
} lua_pg_copy;

/* Hands on what has come, or takes what the source gives, until a wait or the end. */
int lua_pg_copy_out_step(lua_State *L, lua_pg_copy *self);
int lua_pg_copy_in_step(lua_State *L, lua_pg_copy *self);
int lua_pg_copy_wait(lua_State *L, lua_pg_copy *self);

#endif
