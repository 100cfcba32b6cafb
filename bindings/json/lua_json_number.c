/* lua_json_number.c: json.number, a number kept as its exact text.
 *
 * Decoding makes one of what neither an integer nor a double holds; a script makes one to store a
 * number exactly ("1.10", 2^64). It is immutable, compares by value (== with another one; < and <=
 * with Lua's numbers too), prints as its text and encodes as it. */
#include "json/lua_json.h"

#include <math.h>
#include <string.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "json/json_double.h"
#include "json/json_number.h"

static const char EXACT_TYPE[] = "nebula.json.number";

void json_exact_push(lua_State *L, const char *text, size_t length) {
  char *copy = lua_newuserdatauv(L, length + 1, 0);
  memcpy(copy, text, length);
  copy[length] = '\0';
  luaL_setmetatable(L, EXACT_TYPE);
}

const char *json_exact_test(lua_State *L, int index, size_t *length) {
  const char *text = luaL_testudata(L, index, EXACT_TYPE);
  if (text != NULL) *length = lua_rawlen(L, index) - 1;
  return text;
}

/* The token of a json.number or of a finite Lua number, which is written into scratch. */
static const char *token_of(lua_State *L, int index, char scratch[JSON_DOUBLE_MOST],
                            size_t *length) {
  const char *text = json_exact_test(L, index, length);
  if (text != NULL) return text;
  if (lua_type(L, index) != LUA_TNUMBER ||
      (!lua_isinteger(L, index) && !isfinite(lua_tonumber(L, index))))
    return NULL;
  *length = lua_isinteger(L, index) ? json_integer_format(lua_tointeger(L, index), scratch)
                                    : json_double_format(lua_tonumber(L, index), scratch);
  return scratch;
}

static int number_make(lua_State *L) {
  char scratch[JSON_DOUBLE_MOST];
  size_t length;
  const char *text = token_of(L, 1, scratch, &length);
  if (text == NULL && lua_type(L, 1) == LUA_TSTRING) {
    text = lua_tolstring(L, 1, &length);
    json_number token = length == 0 ? (json_number){0} : json_number_read(text, text + length);
    if (token.kind == JSON_NUMBER_BAD || token.end != text + length) text = NULL;
  }
  if (text == NULL)
    err_raisef(L, ERR_VALIDATION, NULL, "json.number: %s is no number as JSON writes one (-12.5e3)",
               luaL_tolstring(L, 1, NULL));
  json_exact_push(L, text, length);
  return 1;
}

static int number_tostring(lua_State *L) {
  const char *text = luaL_checkudata(L, 1, EXACT_TYPE);
  lua_pushlstring(L, text, lua_rawlen(L, 1) - 1);
  return 1;
}

static int number_tonumber(lua_State *L) {
  const char *text = luaL_checkudata(L, 1, EXACT_TYPE);
  json_number token = json_number_read(text, text + lua_rawlen(L, 1) - 1);
  if (token.kind == JSON_NUMBER_INTEGER)
    lua_pushinteger(L, token.integer);
  else
    lua_pushnumber(L, json_number_to_double(text));
  return 1;
}

/* What a comparison with NaN and the infinities needs as well: these compare as doubles. */
static int compare(lua_State *L, bool (*holds)(int order), bool (*holds_double)(double, double)) {
  char left_scratch[JSON_DOUBLE_MOST], right_scratch[JSON_DOUBLE_MOST];
  size_t left_length, right_length;
  const char *left = token_of(L, 1, left_scratch, &left_length);
  const char *right = token_of(L, 2, right_scratch, &right_length);
  if (left != NULL && right != NULL) {
    lua_pushboolean(L, holds(json_number_compare(left, left_length, right, right_length)));
    return 1;
  }
  if ((left == NULL && lua_type(L, 1) != LUA_TNUMBER) ||
      (right == NULL && lua_type(L, 2) != LUA_TNUMBER))
    return luaL_error(L, "attempt to compare a json.number with a %s",
                      luaL_typename(L, left == NULL ? 1 : 2));
  lua_pushboolean(L, holds_double(left == NULL ? lua_tonumber(L, 1) : 0.0,
                                  right == NULL ? lua_tonumber(L, 2) : 0.0));
  return 1;
}

static bool order_equal(int order) {
  return order == 0;
}

static bool order_less(int order) {
  return order < 0;
}

static bool order_less_equal(int order) {
  return order <= 0;
}

static bool double_never(double left, double right) {
  (void)left, (void)right;
  return false;
}

static bool double_less(double left, double right) {
  return left < right;
}

static int number_eq(lua_State *L) {
  if (luaL_testudata(L, 1, EXACT_TYPE) != NULL && luaL_testudata(L, 2, EXACT_TYPE) != NULL)
    return compare(L, order_equal, double_never);
  lua_pushboolean(L, 0);
  return 1;
}

static int number_lt(lua_State *L) {
  return compare(L, order_less, double_less);
}

static int number_le(lua_State *L) {
  return compare(L, order_less_equal, double_less);
}

void json_exact_open(lua_State *L) {
  static const luaL_Reg METAMETHODS[] = {
      {"__tostring", number_tostring},
      {"__eq", number_eq},
      {"__lt", number_lt},
      {"__le", number_le},
      {NULL, NULL},
  };
  if (luaL_newmetatable(L, EXACT_TYPE)) {
    luaL_setfuncs(L, METAMETHODS, 0);
    lua_newtable(L);
    lua_pushcfunction(L, number_tonumber);
    lua_setfield(L, -2, "tonumber");
    lua_setfield(L, -2, "__index");
  }
  lua_pop(L, 1);
  lua_pushcfunction(L, number_make);
}
