/* value.c: tagged bytes: one tag, then the value's own memory. Not a file format: it never leaves
 * the process. */
#include "sandbox/value.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <lauxlib.h>

enum {
  DEPTH_MOST = 64,
  KEPT_MOST = 256 << 10, /* bytes of a buffer between two uses */
  /* What Lua takes for a value, at most; a table that grows holds its old elements, too. */
  TABLE_WEIGHT = 64,
  ELEMENT_WEIGHT = 96,
  STRING_WEIGHT = 32,
  FUNCTION_WEIGHT = 128,
};

void value_buffer_begin(value_buffer *self, size_t limit, bool weighed) {
  if (self->capacity > KEPT_MOST) value_buffer_free(self);
  self->length = self->used = 0;
  self->limit = limit;
  self->weighed = weighed;
}

static bool use(value_buffer *out, size_t bytes) {
  if (bytes > out->limit - out->used) return false;
  out->used += bytes;
  return true;
}

static bool weigh(value_buffer *out, size_t bytes) {
  return !out->weighed || use(out, bytes);
}

static bool append(value_buffer *out, const void *bytes, size_t length) {
  if (!use(out, length)) return false;
  if (out->capacity - out->length < length) {
    size_t capacity = (out->length + length) * 2;
    char *grown = realloc(out->bytes, capacity);
    if (grown == NULL) return false;
    out->bytes = grown;
    out->capacity = capacity;
  }
  if (length > 0) memcpy(out->bytes + out->length, bytes, length);
  out->length += length;
  return true;
}

static bool append_tagged(value_buffer *out, char tag, const void *bytes, size_t length) {
  return append(out, &tag, 1) && append(out, bytes, length);
}

static const char TOO_BIG[] = "it is too big";

static const char *write_at(lua_State *L, int index, value_buffer *out,
                            value_write_function *function, void *data, int depth);

static const char RECORD; /* registry: the metatable of records */

void value_set_record(lua_State *L, bool brief) {
  lua_pushboolean(L, brief);
  lua_rawseti(L, -2, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &RECORD);
}

void value_push_record(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &RECORD);
}

/* How many elements of a table follow, for whom builds it. */
typedef struct table_sizes {
  uint32_t list, others; /* those with whole numbers as keys; the rest */
} table_sizes;

/* Whether the table at an index is a record, and whether its id alone leaves. */
static bool is_record(lua_State *L, int index, bool *brief) {
  if (!lua_getmetatable(L, index)) return false;
  value_push_record(L);
  bool is = lua_rawequal(L, -1, -2);
  if (is) {
    lua_rawgeti(L, -1, 1);
    *brief = lua_toboolean(L, -1);
    lua_pop(L, 1);
  }
  lua_pop(L, 2);
  return is;
}

static const char *write_table(lua_State *L, int index, value_buffer *out,
                               value_write_function *function, void *data, int depth) {
  bool brief = false;
  if (depth >= DEPTH_MOST || !lua_checkstack(L, 8)) return "it is nested too deeply, or in a cycle";
  if (!weigh(out, TABLE_WEIGHT) ||
      !append(out, is_record(L, index, &brief) && !brief ? "R" : "{", 1))
    return TOO_BIG;
  if (brief) {
    const table_sizes one = {.others = 1};
    if (!append(out, &one, sizeof one)) return TOO_BIG;
    lua_pushliteral(L, "id");
    lua_pushvalue(L, -1);
    lua_rawget(L, index); // stack: ..., "id", its value
    const char *problem = write_at(L, lua_gettop(L) - 1, out, function, data, depth + 1);
    if (problem == NULL) problem = write_at(L, lua_gettop(L), out, function, data, depth + 1);
    lua_pop(L, 2);
    return problem;
  }
  table_sizes sizes = {0}; // known at the end
  size_t sizes_at = out->length;
  if (!append(out, &sizes, sizeof sizes)) return TOO_BIG;
  for (lua_pushnil(L); lua_next(L, index);) { // stack: ..., key, value
    int top = lua_gettop(L);
    (*(lua_isinteger(L, top - 1) ? &sizes.list : &sizes.others))++;
    const char *problem = weigh(out, ELEMENT_WEIGHT) ? NULL : TOO_BIG;
    if (problem == NULL) problem = write_at(L, top - 1, out, function, data, depth + 1);
    if (problem == NULL) problem = write_at(L, top, out, function, data, depth + 1);
    lua_settop(L, top - 1);
    if (problem != NULL) {
      lua_pop(L, 1);
      return problem;
    }
  }
  memcpy(out->bytes + sizes_at, &sizes, sizeof sizes);
  return NULL;
}

static const char *write_string(lua_State *L, int index, value_buffer *out) {
  size_t length;
  const char *text = lua_tolstring(L, index, &length);
  bool done = append_tagged(out, 'S', &length, sizeof length) && append(out, text, length) &&
              weigh(out, length) && weigh(out, STRING_WEIGHT);
  return done ? NULL : TOO_BIG;
}

static const char *write_number(lua_State *L, int index, value_buffer *out) {
  if (lua_isinteger(L, index)) {
    lua_Integer value = lua_tointeger(L, index);
    return append_tagged(out, 'I', &value, sizeof value) ? NULL : TOO_BIG;
  }
  lua_Number value = lua_tonumber(L, index);
  return append_tagged(out, 'D', &value, sizeof value) ? NULL : TOO_BIG;
}

static const char *write_at(lua_State *L, int index, value_buffer *out,
                            value_write_function *function, void *data, int depth) {
  switch (lua_type(L, index)) {
  case LUA_TNIL: return append(out, "N", 1) ? NULL : TOO_BIG;
  case LUA_TBOOLEAN: return append(out, lua_toboolean(L, index) ? "T" : "F", 1) ? NULL : TOO_BIG;
  case LUA_TNUMBER: return write_number(L, index, out);
  case LUA_TSTRING: return write_string(L, index, out);
  case LUA_TTABLE: return write_table(L, index, out, function, data, depth);
  case LUA_TLIGHTUSERDATA: {
    void *pointer = lua_touserdata(L, index);
    return append_tagged(out, 'U', &pointer, sizeof pointer) ? NULL : TOO_BIG;
  }
  case LUA_TFUNCTION:
  case LUA_TUSERDATA: {
    lua_Integer number = 0;
    lua_pushvalue(L, index);
    bool known = function != NULL && function(L, data, &number);
    lua_pop(L, 1);
    if (known) {
      bool done = weigh(out, FUNCTION_WEIGHT) && append_tagged(out, 'f', &number, sizeof number);
      return done ? NULL : TOO_BIG;
    }
    if (lua_isfunction(L, index)) return "it holds a function";
    break;
  }
  default: break;
  }
  if (luaL_getmetafield(L, index, "__tostring") == LUA_TNIL) return "it holds a userdata or thread";
  lua_pop(L, 1);
  luaL_tolstring(L, index, NULL); // an exact number of JSON travels as its text
  const char *problem = write_string(L, lua_gettop(L), out);
  lua_pop(L, 1);
  return problem;
}

const char *value_write(lua_State *L, int index, value_buffer *out, value_write_function *function,
                        void *data) {
  if (!lua_checkstack(L, 8)) return TOO_BIG;
  return write_at(L, lua_absindex(L, index), out, function, data, 0);
}

static void take(const value_buffer *in, size_t *position, void *into, size_t length) {
  memcpy(into, in->bytes + *position, length);
  *position += length;
}

void value_read(lua_State *L, const value_buffer *in, size_t *position,
                value_read_function *function, void *data) {
  char tag = in->bytes[(*position)++];
  luaL_checkstack(L, 5, "copied value");
  switch (tag) {
  case 'N': lua_pushnil(L); return;
  case 'T': lua_pushboolean(L, 1); return;
  case 'F': lua_pushboolean(L, 0); return;
  case 'I': {
    lua_Integer value;
    take(in, position, &value, sizeof value);
    lua_pushinteger(L, value);
    return;
  }
  case 'D': {
    lua_Number value;
    take(in, position, &value, sizeof value);
    lua_pushnumber(L, value);
    return;
  }
  case 'S': {
    size_t length;
    take(in, position, &length, sizeof length);
    lua_pushlstring(L, in->bytes + *position, length);
    *position += length;
    return;
  }
  case 'U': {
    void *pointer;
    take(in, position, &pointer, sizeof pointer);
    lua_pushlightuserdata(L, pointer);
    return;
  }
  case 'f': {
    lua_Integer number;
    take(in, position, &number, sizeof number);
    function(L, data, number);
    return;
  }
  default: break;
  }
  table_sizes sizes; // of '{', or 'R'
  take(in, position, &sizes, sizeof sizes);
  lua_createtable(L, (int)sizes.list, (int)sizes.others);
  for (uint32_t left = sizes.list + sizes.others; left > 0; left--) {
    value_read(L, in, position, function, data);
    value_read(L, in, position, function, data);
    lua_rawset(L, -3);
  }
  if (tag == 'R') {
    value_push_record(L);
    lua_setmetatable(L, -2);
  }
}

void value_buffer_free(value_buffer *self) {
  free(self->bytes);
  *self = (value_buffer){0};
}
