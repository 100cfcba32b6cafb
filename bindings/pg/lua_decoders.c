/* lua_decoders.c: pool:decoder(type, fn): a script's own reader of a type's values.
 *
 * A row is first read with the server's text in the place of such values. The functions run over
 * it afterwards, when the memory of the result has been given back: whatever they do, raise or ask
 * of the pool, nothing is lost and nothing is read twice. */
#include <stdlib.h>
#include <string.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "json/lua_json.h"
#include "pg/lua_pg.h"
#include "pg/lua_values.h"

#define CALL "pool:decoder"

/* A plan is a list of three for each column that is to be decoded. */
enum { NAME, FUNCTION, NESTED, STEP };

/* Pushes the pool's functions by the number of their type. They stand on a thread that the pool
 * keeps, so that the pool and a function that uses it are collected together. */
static void push_functions(lua_State *L, const lua_pg_pool *pool) {
  lua_pushvalue(pool->aside, 1);
  lua_xmove(pool->aside, L, 1);
}

/* The last column of that name is the one that a row shows. */
static bool is_hidden(const PGresult *result, int column) {
  for (int i = column + 1; i < PQnfields(result); i++)
    if (strcmp(PQfname(result, i), PQfname(result, column)) == 0) return true;
  return false;
}

/* How many columns the shape takes. */
static int width(const PGresult *result, int shape) {
  int n = shape == LUA_PG_EXEC ? 0 : PQnfields(result);
  return shape == LUA_PG_VALUE_OF && n > 1 ? 1 : n;
}

bool lua_pg_push_plan(lua_State *L, const lua_pg_pool *pool, const PGresult *result, int shape) {
  const pg_text_types *types = pg_pool_text_types(pool->pool);
  int columns = types->count > 0 ? width(result, shape) : 0;
  lua_Integer n = 0;
  for (int i = 0; i < columns; i++) {
    const pg_text_type *t = pg_text_types_find(types, PQftype(result, i));
    bool own = t != NULL && PQfformat(result, i) == 0; /* binary was on its way already */
    if (!own || (columns > 1 && is_hidden(result, i))) continue;
    luaL_checkstack(L, 6, "decoder");
    if (n == 0) {
      lua_newtable(L);
      push_functions(L, pool); // stack: plan, functions
    }
    lua_pushstring(L, PQfname(result, i));
    lua_rawseti(L, -3, n + NAME + 1);
    lua_rawgeti(L, -1, (lua_Integer)t->type);
    lua_rawseti(L, -3, n + FUNCTION + 1);
    lua_pushboolean(L, t->type != PQftype(result, i));
    lua_rawseti(L, -3, n + NESTED + 1);
    n += STEP;
  }
  if (n > 0) lua_pop(L, 1);
  return n > 0;
}

/* Replaces the text on top by what the function at index makes of it. */
static void call(lua_State *L, int function, const char *column) {
  lua_pushvalue(L, function);
  lua_insert(L, -2);
  int status = lua_pcall(L, 1, 1, 0);
  if (status == LUA_OK) return;
  if (status == LUA_ERRMEM || lua_type(L, -1) != LUA_TSTRING) lua_error(L);
  err_raisef(L, ERR_SCRIPT, "database", "column %s: its decoder failed: %s", column,
             lua_tostring(L, -1));
}

/* Replaces the value on top, in which arrays hold the texts. */
static void decode(lua_State *L, int function, bool nested, const char *column) {
  if (lua_type(L, -1) == LUA_TSTRING) {
    call(L, function, column);
    return;
  }
  if (!nested || !lua_istable(L, -1)) return;
  luaL_checkstack(L, 6, "decoder");
  for (lua_Integer i = 1, n = (lua_Integer)lua_rawlen(L, -1); i <= n; i++) {
    lua_rawgeti(L, -1, i);
    decode(L, function, nested, column);
    if (lua_isnil(L, -1)) {
      lua_pop(L, 1);
      json_push_null(L);
    }
    lua_rawseti(L, -2, i);
  }
}

/* Decodes the columns of the row on top. */
static void decode_row(lua_State *L, int plan) {
  int row = lua_gettop(L);
  luaL_checkstack(L, 8, "decoder");
  for (lua_Integer i = 0, n = (lua_Integer)lua_rawlen(L, plan); i < n; i += STEP) {
    lua_rawgeti(L, plan, i + NESTED + 1);
    bool nested = lua_toboolean(L, -1);
    lua_rawgeti(L, plan, i + FUNCTION + 1); // stack: row, nested, function
    lua_rawgeti(L, plan, i + NAME + 1);
    lua_pushvalue(L, -1);
    lua_rawget(L, row); // stack: row, nested, function, name, value
    decode(L, row + 2, nested, lua_tostring(L, -2));
    lua_rawset(L, row);
    lua_settop(L, row);
  }
}

void lua_pg_run_plan(lua_State *L, int shape) { // stack: ..., decoded, plan
  int plan = lua_gettop(L), decoded = plan - 1;
  luaL_checkstack(L, 6, "decoder");
  if (shape == LUA_PG_VALUE_OF) {
    lua_rawgeti(L, plan, FUNCTION + 1);
    lua_rawgeti(L, plan, NESTED + 1);
    bool nested = lua_toboolean(L, -1);
    lua_rawgeti(L, plan, NAME + 1);
    lua_pushvalue(L, decoded);
    decode(L, plan + 1, nested, lua_tostring(L, -2));
    lua_replace(L, decoded);
  } else if (shape == LUA_PG_QUERY) {
    for (lua_Integer i = 1, n = (lua_Integer)lua_rawlen(L, decoded); i <= n; i++) {
      lua_rawgeti(L, decoded, i);
      decode_row(L, plan);
      lua_pop(L, 1);
    }
  } else if (lua_istable(L, decoded)) {
    lua_pushvalue(L, decoded);
    decode_row(L, plan);
  }
  lua_settop(L, decoded);
}

/* ---- registering ---- */

/* Of an array only the comma is known as its delimiter. */
#define FIND                                                                                       \
  "SELECT oid, CASE typdelim WHEN ',' THEN typarray ELSE 0 END, typtype = 'd'"                     \
  " FROM pg_catalog.pg_type WHERE oid = pg_catalog.to_regtype($1)"

enum { POOL = 1, TYPE, DECODER };

static Oid oid_of(const PGresult *result, int column) {
  return (Oid)strtoul(PQgetvalue(result, 0, column), NULL, 10);
}

static int found(lua_State *L, int status, lua_KContext context) {
  (void)status;
  pg_request *r = (pg_request *)context;
  lua_pg_pool *pool = lua_touserdata(L, POOL);
  const char *name = lua_tostring(L, TYPE);
  if (r->outcome != PG_OUTCOME_OK) lua_pg_fail(L, pool, r);
  bool known = PQntuples(r->result) == 1;
  Oid type = known ? oid_of(r->result, 0) : 0, array = known ? oid_of(r->result, 1) : 0;
  bool domain = known && PQgetvalue(r->result, 0, 2)[0] == 't';
  pg_request_release(r);
  if (!known) err_raisef(L, ERR_VALIDATION, "database", CALL ": the server knows no type %s", name);
  if (domain)
    err_raisef(L, ERR_VALIDATION, "database",
               CALL ": %s is a domain, and its values come as those of the type below it: "
                    "register that one",
               name);
  push_functions(L, pool);
  lua_pushvalue(L, DECODER);
  lua_rawseti(L, -2, (lua_Integer)type);
  if (lua_isnil(L, DECODER))
    pg_pool_read_itself(pool->pool, type);
  else if (!pg_pool_read_as_text(pool->pool, type, array))
    err_raisef(L, ERR_LIMIT, "database", CALL ": a pool has %d decoders at most",
               PG_TEXT_TYPES_MOST);
  return 0;
}

int lua_pg_pool_decoder(lua_State *L) {
  lua_pg_pool *pool = lua_pg_check_pool(L, POOL, CALL);
  if (lua_type(L, TYPE) != LUA_TSTRING)
    err_raisef(L, ERR_VALIDATION, "database", CALL " wants the name of a type, got %s",
               luaL_typename(L, TYPE));
  if (lua_gettop(L) < DECODER || (!lua_isnil(L, DECODER) && !lua_isfunction(L, DECODER)))
    err_raisef(L, ERR_VALIDATION, "database",
               CALL " wants a function for the values of %s, or nil for the pool's own reader",
               lua_tostring(L, TYPE));
  lua_settop(L, DECODER);
  lua_pg_check_room(L, pool, CALL);
  lua_pg_check_own(L, pool, CALL);
  pg_request *r = lua_pg_build(L, pool, PG_REQUEST_EXECUTE, FIND, sizeof FIND - 1);
  if (!pg_request_parameters(r, 1)) lua_pg_no_memory(L);
  r->values[0] = lua_tostring(L, TYPE);
  r->timeout = pool->timeout;
  task_ticket ticket = lua_pg_ticket(L, r, CALL);
  pool->building = NULL;
  pg_pool_submit(pool->pool, r);
  return task_wait(L, ticket, lua_pg_abandon, r, (lua_KContext)r, found);
}
