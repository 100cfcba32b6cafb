/* json_fuzz.c: whatever the bytes, json.decode gives a value or an error; a value survives encoding
 * and decoding; and the second text is the first. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <lauxlib.h>
#include <lua.h>
#include "json/lua_json.h"
#include "nebula.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const json_encode_options SORTED = {.max_depth = JSON_DEPTH_DEFAULT, .sort_keys = true};

/* Pushes the text of the value at the top. */
static void encode(lua_State *L) {
  json_buffer text = {0};
  json_encode_value(L, -1, &text, &SORTED, "fuzz"); // an error here is a finding: let it leak
  lua_pushlstring(L, text.data, text.length);
  json_buffer_free(&text);
}

static int decode(lua_State *L) {
  size_t length;
  const char *text = lua_tolstring(L, 1, &length);
  json_decode_push(L, text, length, JSON_DEPTH_DEFAULT, "fuzz");
  return 1;
}

static int survive(lua_State *L) {
  size_t length;
  encode(L); // stack: value, first
  const char *first = lua_tolstring(L, -1, &length);
  json_decode_push(L, first, length, JSON_DEPTH_DEFAULT, "fuzz");
  encode(L); // stack: value, first, value, second
  if (!lua_rawequal(L, 2, 4)) luaL_error(L, "%s became %s", first, lua_tostring(L, 4));
  return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static lua_State *L;
  if (L == NULL) {
    L = luaL_newstate();
    lua_open_json(L);
  }
  lua_settop(L, 0);
  lua_pushcfunction(L, decode);
  lua_pushlstring(L, (const char *)data, size);
  if (lua_pcall(L, 1, 1, 0) != LUA_OK) return 0;
  lua_pushcfunction(L, survive);
  lua_insert(L, 1);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) abort();
  return 0;
}
