/* lua_json_decode.c: the reader's events become Lua values.
 *
 * Elements gather on the Lua stack, a batch at a time, so that a small table is made at its final
 * size. Nothing is allocated outside Lua: an error may pass through anywhere. */
#include "json/lua_json.h"

#include <lauxlib.h>
#include "base/lua_error.h"

enum { BATCH = 16, SCRATCH = 1024 };

typedef struct decoder {
  lua_State *L;
  json_reader reader;
  const char *call;
  int array_mark; /* where the array's metatable stands */
} decoder;

static _Noreturn void raise_failure(decoder *self) {
  char message[256];
  json_reader_describe(&self->reader, message, sizeof message);
  err_raisef(self->L, self->reader.failure == JSON_FAILURE_DEPTH ? ERR_LIMIT : ERR_SERIALIZATION,
             NULL, "%s: %s", self->call, message);
}

static json_event next_event(decoder *self) {
  json_event event = json_reader_next(&self->reader);
  if (event == JSON_ERROR) raise_failure(self);
  return event;
}

static void push_string(decoder *self) {
  lua_State *L = self->L;
  const json_reader *reader = &self->reader;
  if (!reader->escaped) {
    lua_pushlstring(L, reader->text, reader->length);
    return;
  }
  if (reader->length <= SCRATCH) {
    char scratch[SCRATCH];
    lua_pushlstring(L, scratch, json_reader_unescape(reader, scratch));
    return;
  }
  char *scratch = lua_newuserdatauv(L, reader->length, 0);
  lua_pushlstring(L, scratch, json_reader_unescape(reader, scratch)); // stack: scratch, string
  lua_remove(L, -2);
}

static void push_value(decoder *self, json_event event);

/* Moves the `waiting` elements above `table` into it, behind the `stored` ones it has. */
static void store_elements(lua_State *L, int table, lua_Integer stored, int waiting) {
  if (stored == 0) {
    lua_createtable(L, waiting, 0);
    lua_replace(L, table);
  }
  for (int i = 1; i <= waiting; i++) {
    lua_pushvalue(L, table + i);
    lua_rawseti(L, table, stored + i);
  }
  lua_settop(L, table);
}

static void push_array(decoder *self) {
  lua_State *L = self->L;
  lua_pushnil(L); // stack: the table's place
  int table = lua_gettop(L), waiting = 0;
  lua_Integer stored = 0;
  for (json_event event; (event = next_event(self)) != JSON_ARRAY_END;) {
    push_value(self, event);
    if (++waiting == BATCH) {
      store_elements(L, table, stored, waiting);
      stored += waiting;
      waiting = 0;
    }
  }
  if (stored == 0 || waiting > 0) store_elements(L, table, stored, waiting);
  lua_pushvalue(L, self->array_mark);
  lua_setmetatable(L, table);
}

/* The same for members: key, value, key, value. In their order: the last of equal keys wins. */
static void store_members(lua_State *L, int table, bool first, int waiting) {
  if (first) {
    lua_createtable(L, 0, waiting);
    lua_replace(L, table);
  }
  for (int i = 0; i < waiting; i++) {
    lua_pushvalue(L, table + 1 + 2 * i);
    lua_pushvalue(L, table + 2 + 2 * i); // stack: table, members, key, value
    lua_rawset(L, table);
  }
  lua_settop(L, table);
}

static void push_object(decoder *self) {
  lua_State *L = self->L;
  lua_pushnil(L); // stack: the table's place
  int table = lua_gettop(L), waiting = 0;
  bool first = true;
  while (next_event(self) != JSON_OBJECT_END) {
    push_string(self);
    push_value(self, next_event(self));
    if (++waiting == BATCH) {
      store_members(L, table, first, waiting);
      first = false;
      waiting = 0;
    }
  }
  if (first || waiting > 0) store_members(L, table, first, waiting);
}

static void push_value(decoder *self, json_event event) {
  lua_State *L = self->L;
  switch (event) {
  case JSON_NULL: json_push_null(L); break;
  case JSON_FALSE: lua_pushboolean(L, 0); break;
  case JSON_TRUE: lua_pushboolean(L, 1); break;
  case JSON_INTEGER: lua_pushinteger(L, self->reader.integer); break;
  case JSON_DOUBLE: lua_pushnumber(L, self->reader.number); break;
  case JSON_EXACT: json_exact_push(L, self->reader.text, self->reader.length); break;
  case JSON_STRING: push_string(self); break;
  default: // an array or object begins: no other event stands where a value does
    luaL_checkstack(L, 2 * BATCH + 8, "JSON is nested too deeply for Lua's stack");
    if (event == JSON_ARRAY)
      push_array(self);
    else
      push_object(self);
  }
}

void json_decode_push(lua_State *L, const char *text, size_t length, unsigned max_depth,
                      const char *call) {
  decoder self = {.L = L, .call = call};
  json_reader_init(&self.reader, text, length, max_depth);
  luaL_checkstack(L, 8, NULL);
  json_push_array_mark(L); // stack: mark
  self.array_mark = lua_gettop(L);
  push_value(&self, next_event(&self));
  (void)next_event(&self); // the end, or an error
  lua_remove(L, self.array_mark);
}
