/* lua_params.c: Lua values as parameters, by the types that the server gave the statement. */
#include "pg/lua_pg.h"
#include <math.h>
#include <string.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "json/json_double.h"
#include "json/lua_json.h"
#include "pg/lua_scalars.h"
#include "pg/lua_values.h"
#include "pg/types.h"

enum { WRAP_JSON = 1, WRAP_ARRAY, WRAP_BYTEA };

static size_t format_float(double value, Oid type, char *out) {
  if (isnan(value)) return (size_t)(stpcpy(out, "NaN") - out);
  if (isinf(value)) return (size_t)(stpcpy(out, value < 0 ? "-Infinity" : "Infinity") - out);
  size_t n = json_double_format(value, out);
  bool json = type == PG_JSON || type == PG_JSONB;
  if (!json && n > 2 && memcmp(out + n - 2, ".0", 2) == 0) n -= 2; /* an integer takes it too */
  return n;
}

const char *lua_pg_scalar(lua_State *L, int index, Oid type, char scratch[PG_REQUEST_SCRATCH],
                          size_t *length) {
  const char *text;
  switch (lua_type(L, index)) {
  case LUA_TBOOLEAN:
    text = lua_toboolean(L, index) ? "true" : "false";
    *length = strlen(text);
    return text;
  case LUA_TNUMBER:
    if (lua_isinteger(L, index))
      *length = json_integer_format(lua_tointeger(L, index), scratch);
    else
      *length = format_float(lua_tonumber(L, index), type, scratch);
    scratch[*length] = '\0';
    return scratch;
  case LUA_TSTRING:
    text = lua_tolstring(L, index, length);
    if (memchr(text, '\0', *length) != NULL)
      err_raisef(L, ERR_VALIDATION, "database",
                 "a text for the database holds a NUL byte, which PostgreSQL cannot store; "
                 "use a bytea column, or pg.bytea");
    return text;
  case LUA_TUSERDATA: return json_exact_test(L, index, length);
  default: return NULL;
  }
}

static void set_bytes(lua_State *L, pg_request *r, int i, const char *text, size_t length) {
  char *copy = pg_request_bytes(r, length + 1);
  if (copy == NULL) lua_pg_no_memory(L);
  memcpy(copy, text, length);
  copy[length] = '\0';
  r->values[i] = copy;
}

static void set_json(lua_State *L, lua_pg_pool *pool, pg_request *r, int i, int index) {
  json_buffer_reset(&pool->buffer, 1 << 16);
  json_encode_value(L, index, &pool->buffer, NULL, "a json parameter");
  set_bytes(L, r, i, pool->buffer.data, pool->buffer.length);
}

static void set_array(lua_State *L, lua_pg_pool *pool, pg_request *r, int i, int index,
                      Oid element) {
  json_buffer_reset(&pool->buffer, 1 << 16);
  lua_pg_write_array(L, pool, index, element, 1);
  set_bytes(L, r, i, pool->buffer.data, pool->buffer.length);
}

static void set_binary(lua_State *L, pg_request *r, int i, int index) {
  size_t length;
  r->values[i] = lua_tolstring(L, index, &length);
  if (length > 0x3fffffff)
    err_raisef(L, ERR_LIMIT, "database", "parameter %d is longer than 1 GiB", i + 1);
  r->lengths[i] = (int)length;
  r->formats[i] = 1;
}

static void set_wrapped(lua_State *L, lua_pg_pool *pool, pg_request *r, int i, int index,
                        Oid type) {
  int kind = *(int *)lua_touserdata(L, index);
  lua_getiuservalue(L, index, 1);
  int value = lua_gettop(L);
  if (kind == WRAP_JSON) {
    set_json(L, pool, r, i, value);
    lua_pop(L, 1);
  } else if (kind == WRAP_ARRAY) {
    set_array(L, pool, r, i, value, pg_type_element(type));
    lua_pop(L, 1);
  } else {
    set_binary(L, r, i, value); /* the wrapper stays on the caller's stack and keeps the bytes */
    lua_pop(L, 1);
  }
}

static void set_table(lua_State *L, lua_pg_pool *pool, pg_request *r, int i, int index, Oid type) {
  Oid element = pg_type_element(type);
  if (type == PG_JSON || type == PG_JSONB)
    set_json(L, pool, r, i, index);
  else if (element != 0 || type >= 16384)
    set_array(L, pool, r, i, index, element);
  else
    err_raisef(L, ERR_VALIDATION, "database",
               "parameter %d is a table, but the statement wants %s there; cast it ($%d::jsonb) or "
               "use pg.json or pg.array",
               i + 1, pg_type_name(type) != NULL ? pg_type_name(type) : "a scalar", i + 1);
}

static void set_parameter(lua_State *L, lua_pg_pool *pool, pg_request *r, int i, int index,
                          Oid type) {
  size_t length;
  int kind = lua_type(L, index);
  if (kind == LUA_TNIL || json_is_null(L, index)) return;
  if (kind == LUA_TSTRING && type == PG_BYTEA) {
    set_binary(L, r, i, index);
    return;
  }
  if (kind == LUA_TTABLE) {
    set_table(L, pool, r, i, index, type);
    return;
  }
  char own[PG_REQUEST_SCRATCH];
  char *scratch = r->nparams <= PG_REQUEST_INLINE ? r->scratch[i] : own;
  const char *text = lua_pg_scalar(L, index, type, scratch, &length);
  if (text == own)
    set_bytes(L, r, i, own, length);
  else if (text != NULL)
    r->values[i] = text;
  else if (kind == LUA_TUSERDATA && luaL_testudata(L, index, LUA_PG_VALUE) != NULL)
    set_wrapped(L, pool, r, i, index, type);
  else
    err_raisef(L, ERR_VALIDATION, "database", "parameter %d is a %s, which has no form in SQL",
               i + 1, luaL_typename(L, index));
}

void lua_pg_encode(lua_State *L, lua_pg_pool *pool, pg_request *request, int first, int count) {
  const pg_statement *s = request->statement;
  if (count > 65535)
    err_raisef(L, ERR_LIMIT, "database", "a statement takes 65535 parameters at most, got %d",
               count);
  if (s->described && s->nparams != count)
    err_raisef(L, ERR_VALIDATION, "database",
               "the statement has %d parameter%s, but %d value%s given: %s", s->nparams,
               s->nparams == 1 ? "" : "s", count, count == 1 ? " was" : "s were", s->text);
  if (!pg_request_parameters(request, count)) lua_pg_no_memory(L);
  for (int i = 0; i < count; i++)
    set_parameter(L, pool, request, i, first + i, s->described ? s->params[i] : 0);
}

static int wrap(lua_State *L) { // upvalue: the kind
  int kind = (int)lua_tointeger(L, lua_upvalueindex(1));
  luaL_checkany(L, 1);
  if (kind == WRAP_ARRAY) luaL_checktype(L, 1, LUA_TTABLE);
  if (kind == WRAP_BYTEA) luaL_checktype(L, 1, LUA_TSTRING);
  int *self = lua_newuserdatauv(L, sizeof *self, 1);
  *self = kind;
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
  luaL_setmetatable(L, LUA_PG_VALUE);
  return 1;
}

/* "a ""name""": the identifier, quoted; several arguments are joined by dots. */
static int quote_ident(lua_State *L) {
  int n = lua_gettop(L);
  luaL_checkstring(L, 1);
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  for (int i = 1; i <= n; i++) {
    size_t length;
    const char *text = luaL_checklstring(L, i, &length);
    if (length == 0 || memchr(text, '\0', length) != NULL)
      err_raisef(L, ERR_VALIDATION, NULL, "pg.ident: a name is neither empty nor holds a NUL byte");
    if (i > 1) luaL_addchar(&b, '.');
    luaL_addchar(&b, '"');
    for (size_t k = 0; k < length; k++) {
      if (text[k] == '"') luaL_addchar(&b, '"');
      luaL_addchar(&b, text[k]);
    }
    luaL_addchar(&b, '"');
  }
  luaL_pushresult(&b);
  return 1;
}

/* The value as an SQL literal, for the few places that take no parameter. */
static int quote_literal(lua_State *L) {
  size_t length;
  char scratch[PG_REQUEST_SCRATCH];
  if (lua_isnoneornil(L, 1) || json_is_null(L, 1)) {
    lua_pushliteral(L, "NULL");
    return 1;
  }
  const char *text = lua_pg_scalar(L, 1, 0, scratch, &length);
  if (text == NULL)
    err_raisef(L, ERR_VALIDATION, NULL, "pg.literal: a %s has no literal", luaL_typename(L, 1));
  if (lua_type(L, 1) == LUA_TBOOLEAN) {
    lua_pushlstring(L, text, length);
    return 1;
  }
  bool escape = memchr(text, '\\', length) != NULL;
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  luaL_addstring(&b, escape ? " E'" : "'");
  for (size_t i = 0; i < length; i++) {
    if (text[i] == '\'' || text[i] == '\\') luaL_addchar(&b, text[i]);
    luaL_addchar(&b, text[i]);
  }
  luaL_addchar(&b, '\'');
  luaL_pushresult(&b);
  return 1;
}

void lua_pg_open_wrappers(lua_State *L) { // stack: pg
  luaL_newmetatable(L, LUA_PG_VALUE);
  lua_pop(L, 1);
  static const char *const NAMES[] = {NULL, "json", "array", "bytea"};
  for (int kind = WRAP_JSON; kind <= WRAP_BYTEA; kind++) {
    lua_pushinteger(L, kind);
    lua_pushcclosure(L, wrap, 1);
    lua_setfield(L, -2, NAMES[kind]);
  }
  lua_pushcfunction(L, quote_ident);
  lua_setfield(L, -2, "ident");
  lua_pushcfunction(L, quote_literal);
  lua_setfield(L, -2, "literal");
}
