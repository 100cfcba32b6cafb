/* lua_arrays.c: PostgreSQL's array syntax, {1,NULL,"a b"} in any dimension, to and from tables. */
#include "pg/lua_pg.h"
#include <string.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "json/lua_json.h"
#include "pg/lua_scalars.h"
#include "pg/lua_values.h"
#include "pg/types.h"

enum { DIMENSIONS_MOST = 6 }; /* the server's MAXDIM */

typedef struct reader {
  const char *at, *end;
  Oid element;
  int depth;
} reader;

static void push_level(lua_State *L, reader *r);

/* A quoted element; its backslashes are taken away. */
static void push_quoted(lua_State *L, reader *r) {
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  r->at++;
  while (r->at < r->end && *r->at != '"') {
    if (*r->at == '\\' && r->at + 1 < r->end) r->at++;
    luaL_addchar(&b, *r->at++);
  }
  r->at++;
  luaL_pushresult(&b);
  size_t length;
  const char *text = lua_tolstring(L, -1, &length);
  lua_pg_push_text(L, r->element, text, length);
  lua_remove(L, -2);
}

/* An element without quotes ends at a comma or a brace; libpq's result ends in a NUL byte, but an
 * element does not, so it is copied. */
static void push_bare(lua_State *L, reader *r) {
  const char *from = r->at;
  while (r->at < r->end && *r->at != ',' && *r->at != '}')
    r->at++;
  size_t length = (size_t)(r->at - from);
  if (length == 4 && memcmp(from, "NULL", 4) == 0) {
    json_push_null(L);
    return;
  }
  const char *text = lua_pushlstring(L, from, length);
  lua_pg_push_text(L, r->element, text, length);
  lua_remove(L, -2);
}

static void push_level(lua_State *L, reader *r) {
  if (++r->depth > DIMENSIONS_MOST)
    err_raisef(L, ERR_VALIDATION, "database", "an array column has more than %d dimensions",
               DIMENSIONS_MOST);
  luaL_checkstack(L, 8, "array");
  lua_newtable(L);
  json_mark_array(L, -1);
  r->at++; /* { */
  for (lua_Integer i = 1; r->at < r->end && *r->at != '}'; i++) {
    if (*r->at == '{')
      push_level(L, r);
    else if (*r->at == '"')
      push_quoted(L, r);
    else
      push_bare(L, r);
    lua_rawseti(L, -2, i);
    if (r->at < r->end && *r->at == ',') r->at++;
  }
  r->at++;
  r->depth--;
}

void lua_pg_push_array(lua_State *L, Oid element, const char *text, size_t length) {
  reader r = {text, text + length, element, 0};
  if (length > 0 && *text == '[') { /* bounds other than 1: [0:2]={...} */
    const char *equals = memchr(text, '=', length);
    if (equals != NULL) r.at = equals + 1;
  }
  if (r.at >= r.end || *r.at != '{')
    lua_pushlstring(L, text, length);
  else
    push_level(L, &r);
}

static void append(lua_State *L, json_buffer *out, const char *text, size_t length) {
  if (!json_buffer_append(out, text, length)) lua_pg_no_memory(L);
}

static void append_quoted(lua_State *L, json_buffer *out, const char *text, size_t length) {
  if (!json_buffer_reserve(out, 2 * length + 2)) lua_pg_no_memory(L);
  char *to = out->data + out->length;
  *to++ = '"';
  for (size_t i = 0; i < length; i++) {
    if (text[i] == '"' || text[i] == '\\') *to++ = '\\';
    *to++ = text[i];
  }
  *to++ = '"';
  out->length = (size_t)(to - out->data);
}

/* A json element: encoded behind what is there, then quoted in its place. */
static void append_json(lua_State *L, json_buffer *out, int index) {
  size_t start = out->length;
  json_encode_value(L, index, out, NULL, "an array of json");
  size_t length = out->length - start;
  const char *copy = lua_pushlstring(L, out->data + start, length);
  out->length = start;
  append_quoted(L, out, copy, length);
  lua_pop(L, 1);
}

static void append_element(lua_State *L, lua_pg_pool *pool, int index, Oid element, int depth) {
  json_buffer *out = &pool->buffer;
  size_t length;
  char scratch[PG_REQUEST_SCRATCH];
  bool json = element == PG_JSON || element == PG_JSONB;
  if (lua_isnil(L, index) || json_is_null(L, index)) {
    append(L, out, "NULL", 4);
  } else if (json && !lua_isstring(L, index)) {
    append_json(L, out, index);
  } else if (lua_istable(L, index)) {
    lua_pg_write_array(L, pool, index, element, depth + 1);
  } else if (element == PG_BYTEA && lua_type(L, index) == LUA_TSTRING) {
    static const char DIGITS[] = "0123456789abcdef";
    const char *text = lua_tolstring(L, index, &length);
    append(L, out, "\"\\\\x", 4);
    for (size_t i = 0; i < length; i++) {
      unsigned char c = (unsigned char)text[i];
      append(L, out, (char[]){DIGITS[c >> 4], DIGITS[c & 15]}, 2);
    }
    append(L, out, "\"", 1);
  } else {
    const char *text = lua_pg_scalar(L, index, element, scratch, &length);
    if (text == NULL)
      err_raisef(L, ERR_VALIDATION, "database", "an array cannot hold a %s",
                 luaL_typename(L, index));
    append_quoted(L, out, text, length);
  }
}

void lua_pg_write_array(lua_State *L, lua_pg_pool *pool, int index, Oid element, int depth) {
  if (depth > DIMENSIONS_MOST)
    err_raisef(L, ERR_VALIDATION, "database", "an array has six dimensions at most");
  luaL_checkstack(L, 6, "array");
  index = lua_absindex(L, index);
  lua_Integer n = (lua_Integer)lua_rawlen(L, index);
  append(L, &pool->buffer, "{", 1);
  for (lua_Integer i = 1; i <= n; i++) {
    if (i > 1) append(L, &pool->buffer, ",", 1);
    lua_rawgeti(L, index, i);
    append_element(L, pool, lua_gettop(L), element, depth);
    lua_pop(L, 1);
  }
  append(L, &pool->buffer, "}", 1);
}
