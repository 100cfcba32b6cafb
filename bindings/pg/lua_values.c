/* lua_values.c: the server's text, as Lua values.
 *
 * The text of each type depends on session settings that are pinned when a connection is made. */
#include "pg/lua_pg.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "json/lua_json.h"
#include "pg/lua_values.h"
#include "pg/types.h"

static void push_integer(lua_State *L, const char *text, size_t length) {
  bool negative = length > 0 && *text == '-';
  lua_Unsigned value = 0;
  for (size_t i = negative; i < length; i++)
    value = value * 10 + (lua_Unsigned)(text[i] - '0');
  lua_pushinteger(L, (lua_Integer)(negative ? 0 - value : value));
}

static void push_float(lua_State *L, const char *text, size_t length) {
  if (strlen(text) == length && lua_stringtonumber(L, text) != 0) {
    lua_Number value = lua_tonumber(L, -1);
    lua_pop(L, 1);
    lua_pushnumber(L, value == 0 && *text == '-' ? -0.0 : value);
  } else if (*text == 'N') {
    lua_pushnumber(L, (lua_Number)NAN);
  } else {
    lua_pushnumber(L, *text == '-' ? -HUGE_VAL : HUGE_VAL);
  }
}

static unsigned hex(char c) {
  return (unsigned)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
}

static void push_bytea(lua_State *L, const char *text, size_t length) {
  if (length < 2 || text[0] != '\\' || text[1] != 'x') {
    lua_pushlstring(L, text, length);
    return;
  }
  size_t n = (length - 2) / 2;
  luaL_Buffer b;
  char *out = luaL_buffinitsize(L, &b, n);
  for (size_t i = 0; i < n; i++)
    out[i] = (char)(hex(text[2 + 2 * i]) << 4 | hex(text[3 + 2 * i]));
  luaL_pushresultsize(&b, n);
}

/* "2026-11-22 17:58:03.12+00" -> "2026-11-22T17:58:03.120000Z"; infinity stays as it is. */
static void push_timestamp(lua_State *L, const char *text, size_t length, bool zone) {
  const char *space = memchr(text, ' ', length);
  if (space == NULL || length > 48 || text + length - space < 9) {
    lua_pushlstring(L, text, length);
    return;
  }
  char out[64];
  size_t n = (size_t)(space - text) + 9, digits = 0;
  memcpy(out, text, n);
  out[space - text] = 'T';
  const char *rest = text + n, *end = text + length;
  out[n++] = '.';
  if (rest < end && *rest == '.')
    for (rest++; rest < end && *rest >= '0' && *rest <= '9'; rest++, digits++)
      out[n++] = *rest;
  for (; digits < 6; digits++)
    out[n++] = '0';
  if (zone) out[n++] = 'Z';
  const char *era = memchr(rest, ' ', (size_t)(end - rest)); /* " BC" */
  if (era != NULL) {
    memcpy(out + n, era, (size_t)(end - era));
    n += (size_t)(end - era);
  }
  lua_pushlstring(L, out, n);
}

void lua_pg_push_text(lua_State *L, Oid type, const char *text, size_t length) {
  switch (type) {
  case PG_BOOL: lua_pushboolean(L, *text == 't'); return;
  case PG_INT2:
  case PG_INT4:
  case PG_INT8:
  case PG_OID: push_integer(L, text, length); return;
  case PG_FLOAT4:
  case PG_FLOAT8: push_float(L, text, length); return;
  case PG_BYTEA: push_bytea(L, text, length); return;
  case PG_TIMESTAMP: push_timestamp(L, text, length, false); return;
  case PG_TIMESTAMPTZ: push_timestamp(L, text, length, true); return;
  case PG_JSON:
  case PG_JSONB: json_decode_push(L, text, length, JSON_DEPTH_MOST, "a json column"); return;
  case PG_TEXT:
  case PG_NUMERIC:
  case PG_UUID: lua_pushlstring(L, text, length); return;
  default: break;
  }
  Oid element = pg_type_element(type);
  if (element != 0)
    lua_pg_push_array(L, element, text, length);
  else
    lua_pushlstring(L, text, length);
}

/* The text of a type that the script decodes, in an array of the right shape. */
static void push_undecoded(lua_State *L, const pg_text_type *type, Oid column, const char *text,
                           size_t length) {
  if (type->type == column)
    lua_pushlstring(L, text, length);
  else
    lua_pg_push_array(L, PG_TEXT, text, length);
}

static void push_cell(lua_State *L, const pg_text_types *as_text, const PGresult *result, int row,
                      int column) {
  Oid type = PQftype(result, column);
  const char *data = PQgetvalue(result, row, column);
  size_t length = (size_t)PQgetlength(result, row, column);
  const pg_text_type *own = as_text->count > 0 ? pg_text_types_find(as_text, type) : NULL;
  if (PQfformat(result, column) == 1)
    lua_pg_push_binary(L, type, data, length);
  else if (own != NULL)
    push_undecoded(L, own, type, data, length);
  else
    lua_pg_push_text(L, type, data, length);
}

void lua_pg_push_names(lua_State *L, const PGresult *result) {
  int n = PQnfields(result);
  luaL_checkstack(L, n + 8, "too many columns");
  for (int i = 0; i < n; i++)
    lua_pushstring(L, PQfname(result, i));
}

void lua_pg_push_row(lua_State *L, const lua_pg_pool *pool, const PGresult *result, int row,
                     int names) {
  const pg_text_types *as_text = pg_pool_text_types(pool->pool);
  int n = PQnfields(result);
  lua_createtable(L, 0, n);
  for (int i = 0; i < n; i++) {
    if (PQgetisnull(result, row, i)) continue;
    lua_pushvalue(L, names + i);
    push_cell(L, as_text, result, row, i);
    lua_rawset(L, -3);
  }
}

static lua_Integer affected(const PGresult *result) {
  const char *count = PQcmdTuples((PGresult *)result); /* reads only, whatever its type says */
  return *count != '\0' ? strtoll(count, NULL, 10) : 0;
}

void lua_pg_describe_rows(lua_State *L, const PGresult *result) {
  int n = PQnfields(result);
  lua_createtable(L, 0, 1);
  lua_createtable(L, 0, 2);
  lua_pushinteger(L, affected(result));
  lua_setfield(L, -2, "count");
  lua_createtable(L, n, 0); // stack: rows, metatable, index, fields
  for (int i = 0; i < n; i++) {
    lua_createtable(L, 0, 3);
    lua_pushstring(L, PQfname(result, i));
    lua_setfield(L, -2, "name");
    Oid type = PQftype(result, i), element = pg_type_element(type);
    lua_pushinteger(L, type);
    lua_setfield(L, -2, "oid");
    const char *name = pg_type_name(element != 0 ? element : type);
    if (name != NULL) {
      lua_pushfstring(L, "%s%s", name, element != 0 ? "[]" : "");
      lua_setfield(L, -2, "type");
    }
    lua_rawseti(L, -2, i + 1);
  }
  lua_setfield(L, -2, "fields");
  lua_setfield(L, -2, "__index");
  lua_setmetatable(L, -2);
}

void lua_pg_decode(lua_State *L, const lua_pg_pool *pool, const PGresult *result, int shape) {
  int rows = PQntuples(result);
  switch (shape) {
  case LUA_PG_EXEC: lua_pushinteger(L, affected(result)); return;
  case LUA_PG_VALUE_OF:
    if (rows == 0 || PQnfields(result) == 0 || PQgetisnull(result, 0, 0))
      lua_pushnil(L);
    else
      push_cell(L, pg_pool_text_types(pool->pool), result, 0, 0);
    return;
  case LUA_PG_ONE:
    if (rows == 0) {
      lua_pushnil(L);
      return;
    }
    lua_pg_push_names(L, result);
    lua_pg_push_row(L, pool, result, 0, lua_gettop(L) - PQnfields(result) + 1);
    return;
  default: break;
  }
  lua_createtable(L, rows, 0);
  int list = lua_gettop(L);
  lua_pg_push_names(L, result);
  for (int i = 0; i < rows; i++) {
    lua_pg_push_row(L, pool, result, i, list + 1);
    lua_rawseti(L, list, i + 1);
  }
  lua_settop(L, list);
  lua_pg_describe_rows(L, result);
}
