/* lua_copy_in.c: what a source gives, as COPY's data: pieces as they are, rows in the text form. */
#include <string.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "json/lua_json.h"
#include "pg/lua_copy.h"
#include "pg/lua_scalars.h"

enum { OTHER = 3, SESSION = 5, COPY = 6, PIECE = 7 };

static void append(lua_State *L, json_buffer *out, const char *text, size_t length) {
  if (!json_buffer_append(out, text, length)) lua_pg_no_memory(L);
}

static void append_escaped(lua_State *L, json_buffer *out, const char *text, size_t length) {
  for (size_t i = 0; i < length; i++) {
    switch (text[i]) {
    case '\\': append(L, out, "\\\\", 2); break;
    case '\n': append(L, out, "\\n", 2); break;
    case '\r': append(L, out, "\\r", 2); break;
    case '\t': append(L, out, "\\t", 2); break;
    default: append(L, out, text + i, 1); break;
    }
  }
}

static void append_field(lua_State *L, lua_pg_pool *pool, int index) {
  json_buffer *out = &pool->buffer;
  char scratch[PG_REQUEST_SCRATCH];
  size_t length;
  if (lua_isnil(L, index) || json_is_null(L, index)) {
    append(L, out, "\\N", 2);
    return;
  }
  if (lua_istable(L, index)) { /* JSON: behind what is there, then escaped in its place */
    size_t start = out->length;
    json_encode_value(L, index, out, NULL, "copy_in");
    length = out->length - start;
    const char *copy = lua_pushlstring(L, out->data + start, length);
    out->length = start;
    append_escaped(L, out, copy, length);
    lua_pop(L, 1);
    return;
  }
  const char *text = lua_pg_scalar(L, index, 0, scratch, &length);
  if (text == NULL)
    err_raisef(L, ERR_VALIDATION, "database", "copy_in: a %s has no form in SQL",
               luaL_typename(L, index));
  append_escaped(L, out, text, length);
}

/* Replaces the row on top by its line. */
static void row_to_line(lua_State *L, lua_pg_pool *pool, int columns) {
  int row = lua_gettop(L);
  json_buffer_reset(&pool->buffer, 1 << 16);
  for (int i = 1; i <= columns; i++) {
    if (i > 1) append(L, &pool->buffer, "\t", 1);
    lua_rawgeti(L, row, i);
    append_field(L, pool, row + 1);
    lua_pop(L, 1);
  }
  append(L, &pool->buffer, "\n", 1);
  lua_pushlstring(L, pool->buffer.data, pool->buffer.length);
  lua_replace(L, row);
}

static int end(lua_State *L, lua_pg_copy *self) {
  lua_pg_session *session = lua_touserdata(L, SESSION);
  lua_pg_check_conn(L, session, self->call);
  if (!pg_copy_end(self->request, NULL))
    err_raisef(L, ERR_DATABASE, "database", "%s: the connection was lost", self->call);
  return lua_pg_copy_wait(L, self);
}

/* Sends the piece on top, a string or a row. 0: wait. */
static int send_piece(lua_State *L, lua_pg_copy *self) {
  lua_pg_session *session = lua_touserdata(L, SESSION);
  pg_request *r = self->request;
  if (r->finished) return 0;
  lua_pg_check_conn(L, session, self->call);
  if (lua_istable(L, -1)) row_to_line(L, session->pool, r->copy->columns);
  size_t length;
  const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &length) : NULL;
  if (text == NULL)
    err_raisef(
        L, ERR_VALIDATION, "database",
        "%s: the source gave a %s; it gives strings, rows (lists of values), and nil at the end",
        self->call, luaL_typename(L, -1));
  int sent = pg_copy_put(r, text, length);
  lua_settop(L, COPY);
  return sent;
}

static int pulled(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  lua_pg_copy *self = lua_touserdata(L, COPY);
  lua_settop(L, PIECE);
  if (lua_isnil(L, PIECE)) return end(L, self);
  if (send_piece(L, self) <= 0) return lua_pg_copy_wait(L, self);
  return lua_pg_copy_in_step(L, self);
}

/* A list: rows, or pieces. */
static int send_list(lua_State *L, lua_pg_copy *self) {
  lua_Integer count = (lua_Integer)lua_rawlen(L, OTHER);
  while (self->row < count) {
    lua_rawgeti(L, OTHER, ++self->row);
    if (send_piece(L, self) <= 0) return lua_pg_copy_wait(L, self);
  }
  return end(L, self);
}

int lua_pg_copy_in_step(lua_State *L, lua_pg_copy *self) {
  lua_settop(L, COPY);
  pg_request *r = self->request;
  if (r->finished || r->copy->ended) return lua_pg_copy_wait(L, self);
  if (lua_type(L, OTHER) == LUA_TSTRING) {
    if (self->row++ > 0) return end(L, self);
    lua_pushvalue(L, OTHER);
    return send_piece(L, self) > 0 ? end(L, self) : lua_pg_copy_wait(L, self);
  }
  for (;;) {
    if (lua_isfunction(L, OTHER)) {
      lua_pushvalue(L, OTHER);
      lua_callk(L, 0, 1, 0, pulled);
    } else if (lua_istable(L, OTHER) && lua_getfield(L, OTHER, "read") == LUA_TNIL) {
      lua_settop(L, COPY);
      return send_list(L, self);
    } else {
      lua_settop(L, COPY);
      lua_getfield(L, OTHER, "read");
      lua_pushvalue(L, OTHER);
      lua_pushinteger(L, 1 << 16);
      lua_callk(L, 2, 1, 0, pulled);
    }
    lua_settop(L, PIECE);
    if (lua_isnil(L, PIECE)) return end(L, self);
    if (send_piece(L, self) <= 0) return lua_pg_copy_wait(L, self);
  }
}
