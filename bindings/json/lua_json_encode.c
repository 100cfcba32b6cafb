/* lua_json_encode.c: a Lua value becomes JSON text.
 *
 * The walk uses only calls that raise nothing and run no Lua code (raw access, no metamethod), so a
 * failure unwinds as `false`, gathering the path on its way up, and the error is raised at the end.
 *
 * A table is an array where it is marked as one or has an element 1; it is an object where it is
 * marked as one or has text keys alone, or none. Everything else is refused by name. */
#include "json/lua_json.h"

#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "json/json_writer.h"

typedef struct encoder {
  lua_State *L;
  json_buffer *out;
  json_encode_options options;
  unsigned depth;
  int array_mark, object_mark; /* where these metatables stand */
  const char *kind;            /* of the failure */
  char message[160];
  char path[200]; /* filled from its end; path_at is its first byte */
  size_t path_at;
} encoder;

static bool encode_value(encoder *self);

static bool fail(encoder *self, const char *kind, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static bool fail(encoder *self, const char *kind, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  (void)vsnprintf(self->message, sizeof self->message, format, arguments);
  va_end(arguments);
  self->kind = kind;
  return false;
}

static bool fail_memory(encoder *self) {
  return fail(self, ERR_LIMIT, "not enough memory for the text");
}

static bool wrote(encoder *self, bool done) {
  return done || fail_memory(self);
}

/* Puts a step of the path in front of what is there; returns false, for the failure's way up. */
static bool step_back(encoder *self, const char *step) {
  size_t length = strlen(step);
  if (length > self->path_at) { // a long path keeps its end
    step = "...";
    length = self->path_at >= 3 && self->path[self->path_at] != '.' ? 3 : 0;
  }
  self->path_at -= length;
  memcpy(self->path + self->path_at, step, length);
  return false;
}

static bool step_back_index(encoder *self, lua_Integer index) {
  char step[32];
  (void)snprintf(step, sizeof step, "[" LUA_INTEGER_FMT "]", index);
  return step_back(self, step);
}

static bool step_back_key(encoder *self, const char *key, size_t length) {
  char step[64];
  bool plain = length > 0 && length < sizeof step - 8;
  for (size_t i = 0; plain && i < length; i++)
    plain = key[i] == '_' || (key[i] >= 'a' && key[i] <= 'z') || (key[i] >= 'A' && key[i] <= 'Z') ||
            (i > 0 && key[i] >= '0' && key[i] <= '9');
  if (plain) {
    (void)snprintf(step, sizeof step, ".%s", key);
    return step_back(self, step);
  }
  size_t at = 0;
  step[at++] = '[';
  step[at++] = '"';
  for (size_t i = 0; i < length && at < sizeof step - 8; i++)
    step[at++] = (unsigned char)key[i] < 0x20 || key[i] == 0x7F ? '?' : key[i];
  memcpy(step + at, "\"]", 3);
  return step_back(self, step);
}

static bool encode_string(encoder *self, int index) {
  size_t length, bad = 0;
  const char *text = lua_tolstring(self->L, index, &length);
  switch (json_write_string(self->out, text, length, &bad)) {
  case JSON_WRITTEN: return true;
  case JSON_WRITTEN_NO_MEMORY: return fail_memory(self);
  default:
    return fail(self, ERR_SERIALIZATION,
                "text that is not UTF-8 (byte %zu is 0x%02X); encode bytes with crypto.base64",
                bad + 1, (unsigned char)text[bad]);
  }
}

static bool encode_number(encoder *self) {
  lua_State *L = self->L;
  if (lua_isinteger(L, -1)) return wrote(self, json_write_integer(self->out, lua_tointeger(L, -1)));
  double value = lua_tonumber(L, -1);
  if (!isfinite(value))
    return fail(self, ERR_SERIALIZATION, "%s, which JSON cannot hold; use json.null",
                isnan(value) ? "a NaN" : "an infinity");
  return wrote(self, json_write_double(self->out, value));
}

static bool begin_item(encoder *self, bool first) {
  if (!first && !wrote(self, json_buffer_byte(self->out, ','))) return false;
  size_t width = (size_t)self->options.indent * self->depth;
  return self->options.indent == 0 || wrote(self, json_write_indent(self->out, width));
}

static bool finish_items(encoder *self, char close, bool empty) {
  self->depth--;
  size_t width = (size_t)self->options.indent * self->depth;
  if (!empty && self->options.indent > 0 && !wrote(self, json_write_indent(self->out, width)))
    return false;
  return wrote(self, json_buffer_byte(self->out, close));
}

/* Looks at every key of what claims to be an array of `count` elements; names the one that is none.
 */
static bool check_array_keys(encoder *self, int table, lua_Integer count) {
  lua_State *L = self->L;
  lua_pushnil(L);
  while (lua_next(L, table) != 0) {
    lua_pop(L, 1); // stack: table, key
    if (lua_type(L, -1) == LUA_TSTRING)
      return fail(
          self, ERR_SERIALIZATION,
          "an array that has the text key \"%.40s\" as well; give one of them its own table",
          lua_tostring(L, -1));
    if (!lua_isinteger(L, -1))
      return fail(self, ERR_SERIALIZATION, "an array that has a key of type %s as well",
                  lua_typename(L, lua_type(L, -1)));
    lua_Integer key = lua_tointeger(L, -1);
    if (key < 1 || key > count)
      return fail(
          self, ERR_SERIALIZATION,
          "a sparse array: it has %lld elements and then the key %lld; fill it with json.null",
          (long long)count, (long long)key);
  }
  return true;
}

static bool encode_array(encoder *self, int table) {
  lua_State *L = self->L;
  lua_Integer count = (lua_Integer)lua_rawlen(L, table);
  if (!wrote(self, json_buffer_byte(self->out, '['))) return false;
  for (lua_Integer i = 1; i <= count; i++) {
    if (!begin_item(self, i == 1)) return false;
    if (lua_rawgeti(L, table, i) == LUA_TNIL)
      return fail(self, ERR_SERIALIZATION,
                  "a sparse array: element %lld of %lld is nil; fill it with json.null",
                  (long long)i, (long long)count);
    if (!encode_value(self)) return step_back_index(self, i);
    lua_pop(L, 1);
  }
  // Elements 1 to n are there. Where the traversal ends behind n, they are all that is there.
  if (count > 0)
    lua_pushinteger(L, count);
  else
    lua_pushnil(L);
  if (lua_next(L, table) != 0) {
    lua_pop(L, 2);
    if (!check_array_keys(self, table, count)) return false;
  }
  return finish_items(self, ']', count == 0);
}

static bool check_member_key(encoder *self) {
  lua_State *L = self->L;
  int type = lua_type(L, -2); // stack: table, key, value
  if (type == LUA_TSTRING) return true;
  if (type == LUA_TNUMBER && lua_isinteger(L, -2))
    return fail(self, ERR_SERIALIZATION,
                "a table with the key %lld that is no array from 1; use text keys, or json.null in "
                "the gaps",
                (long long)lua_tointeger(L, -2));
  return fail(self, ERR_SERIALIZATION, "a table with a key of type %s; use text keys",
              lua_typename(L, type));
}

/* Writes the member whose key and value are at the top, and pops the value. */
static bool encode_member(encoder *self, bool first) {
  lua_State *L = self->L;
  int key = lua_gettop(L) - 1;
  if (!begin_item(self, first) || !encode_string(self, key)) return false;
  if (!wrote(self, json_buffer_append(self->out, ": ", self->options.indent > 0 ? 2 : 1)))
    return false;
  if (!encode_value(self)) {
    size_t length;
    const char *text = lua_tolstring(L, key, &length);
    return step_back_key(self, text, length);
  }
  lua_pop(L, 1);
  return true;
}

typedef struct sorted_key {
  const char *text;
  size_t length;
  int place; /* on the Lua stack */
} sorted_key;

static int compare_keys(const void *a, const void *b) {
  const sorted_key *left = a, *right = b;
  size_t shorter = left->length < right->length ? left->length : right->length;
  int order = memcmp(left->text, right->text, shorter);
  return order != 0 ? order : (left->length > right->length) - (left->length < right->length);
}

static bool encode_sorted(encoder *self, int table, const sorted_key *keys, size_t count) {
  lua_State *L = self->L;
  for (size_t i = 0; i < count; i++) {
    lua_pushvalue(L, keys[i].place);
    lua_pushvalue(L, -1);
    lua_rawget(L, table); // stack: key, value
    if (!encode_member(self, i == 0)) return false;
    lua_pop(L, 1);
  }
  return true;
}

/* Writes the members in the order of their keys, which stand on the Lua stack meanwhile. */
static bool encode_members_sorted(encoder *self, int table, size_t *count) {
  lua_State *L = self->L;
  lua_pushnil(L);
  for (*count = 0; lua_next(L, table) != 0; ++*count) {
    if (!check_member_key(self)) return false;
    lua_pop(L, 1);
  }
  if (*count > INT_MAX / 2 || !lua_checkstack(L, (int)*count + 8))
    return fail(self, ERR_LIMIT, "an object of %zu members, too many to sort", *count);
  sorted_key *keys = malloc((*count + 1) * sizeof *keys);
  if (keys == NULL) return fail_memory(self);
  lua_pushnil(L);
  for (size_t i = 0; i < *count && lua_next(L, table) != 0; i++) {
    lua_pop(L, 1);
    lua_pushvalue(L, -1); // stack: the key that stays, the key to go on from
    keys[i].place = lua_gettop(L) - 1;
    keys[i].text = lua_tolstring(L, -2, &keys[i].length);
  }
  qsort(keys, *count, sizeof *keys, compare_keys);
  bool done = encode_sorted(self, table, keys, *count);
  free(keys);
  if (done) lua_settop(L, table);
  return done;
}

static bool encode_object(encoder *self, int table) {
  lua_State *L = self->L;
  size_t count = 0;
  if (!wrote(self, json_buffer_byte(self->out, '{'))) return false;
  if (self->options.sort_keys) {
    if (!encode_members_sorted(self, table, &count)) return false;
    return finish_items(self, '}', count == 0);
  }
  lua_pushnil(L);
  while (lua_next(L, table) != 0) { // stack: key, value
    if (!check_member_key(self) || !encode_member(self, count == 0)) return false;
    count++;
  }
  return finish_items(self, '}', count == 0);
}

static bool encode_table(encoder *self) {
  lua_State *L = self->L;
  int table = lua_gettop(L);
  if (self->depth >= self->options.max_depth)
    return fail(self, ERR_LIMIT, "nested deeper than %u levels; does a table hold itself?",
                self->options.max_depth);
  if (!lua_checkstack(L, 8)) return fail(self, ERR_LIMIT, "nested too deeply for Lua's stack");
  self->depth++;
  bool array = false, marked = false;
  if (lua_getmetatable(L, table)) { // stack: metatable
    array = lua_rawequal(L, -1, self->array_mark);
    marked = array || lua_rawequal(L, -1, self->object_mark);
    lua_pop(L, 1);
  }
  if (!marked) {
    array = lua_rawgeti(L, table, 1) != LUA_TNIL;
    lua_pop(L, 1);
  }
  return array ? encode_array(self, table) : encode_object(self, table);
}

/* Writes the value at the top and leaves it there. */
static bool encode_value(encoder *self) {
  lua_State *L = self->L;
  switch (lua_type(L, -1)) {
  case LUA_TNIL: return wrote(self, json_buffer_append(self->out, "null", 4));
  case LUA_TBOOLEAN: {
    bool value = lua_toboolean(L, -1);
    return wrote(self, json_buffer_append(self->out, value ? "true" : "false", value ? 4 : 5));
  }
  case LUA_TNUMBER: return encode_number(self);
  case LUA_TSTRING: return encode_string(self, -1);
  case LUA_TTABLE: return encode_table(self);
  default: break;
  }
  if (json_is_null(L, -1)) return wrote(self, json_buffer_append(self->out, "null", 4));
  size_t length;
  const char *exact = json_exact_test(L, -1, &length);
  if (exact != NULL) return wrote(self, json_buffer_append(self->out, exact, length));
  return fail(self, ERR_SERIALIZATION, "a value of type %s, which JSON cannot hold",
              lua_typename(L, lua_type(L, -1)));
}

void json_encode_value(lua_State *L, int index, json_buffer *out,
                       const json_encode_options *options, const char *call) {
  static const json_encode_options DEFAULTS = {.max_depth = JSON_DEPTH_DEFAULT};
  encoder self = {.L = L, .out = out, .options = options == NULL ? DEFAULTS : *options};
  self.path_at = sizeof self.path - 1;
  index = lua_absindex(L, index);
  luaL_checkstack(L, 16, NULL);
  json_push_array_mark(L);
  self.array_mark = lua_gettop(L);
  json_push_object_mark(L);
  self.object_mark = lua_gettop(L);
  lua_pushvalue(L, index); // stack: array mark, object mark, value
  if (encode_value(&self)) {
    lua_settop(L, self.array_mark - 1);
    return;
  }
  if (self.path_at == sizeof self.path - 1)
    err_raisef(L, self.kind, NULL, "%s: this is %s", call, self.message);
  err_raisef(L, self.kind, NULL, "%s: $%s is %s", call, self.path + self.path_at, self.message);
}
