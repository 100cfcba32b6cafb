/* lua_json.c: the table nebula.json: decode, encode, and the marks that tell an array from an
 * object and a null from nothing. See meta/json.lua for what scripts see. */
#include "json/lua_json.h"

#include <lauxlib.h>
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "nebula.h"

static const char ARRAY_MARK[] = "nebula.json.array", OBJECT_MARK[] = "nebula.json.object";
static const char BUFFER_TYPE[] = "nebula.json.buffer";

enum { BUFFER_KEPT = 1 << 20 }; /* what encode's buffer may hold on to between two calls */

static void push_mark(lua_State *L, const char *name) {
  if (luaL_newmetatable(L, name)) {
    lua_pushstring(L, name);
    lua_setfield(L, -2, "__name");
  }
}

void json_push_array_mark(lua_State *L) {
  push_mark(L, ARRAY_MARK);
}

void json_push_object_mark(lua_State *L) {
  push_mark(L, OBJECT_MARK);
}

void json_mark_array(lua_State *L, int index) {
  index = lua_absindex(L, index);
  json_push_array_mark(L);
  lua_setmetatable(L, index);
}

/* json.array(t), json.object(t): marks t, or a new table, and returns it. */
static int mark_table(lua_State *L, const char *call, void (*push)(lua_State *L)) {
  lua_settop(L, 1);
  if (lua_isnil(L, 1)) {
    lua_newtable(L);
    lua_replace(L, 1);
  }
  if (!lua_istable(L, 1))
    err_raisef(L, ERR_VALIDATION, NULL, "%s: wants a table or nothing, got a %s", call,
               luaL_typename(L, 1));
  if (lua_getmetatable(L, 1)) { // stack: t, metatable
    json_push_array_mark(L);
    json_push_object_mark(L);
    if (!lua_rawequal(L, 2, 3) && !lua_rawequal(L, 2, 4))
      err_raisef(L, ERR_VALIDATION, NULL, "%s: the table has a metatable of its own; mark a copy",
                 call);
  }
  push(L);
  lua_setmetatable(L, 1);
  lua_settop(L, 1);
  return 1;
}

static int lua_json_array(lua_State *L) {
  return mark_table(L, "json.array", json_push_array_mark);
}

static int lua_json_object(lua_State *L) {
  return mark_table(L, "json.object", json_push_object_mark);
}

static unsigned read_depth(lua_State *L, const char *call) {
  lua_Integer depth = JSON_DEPTH_DEFAULT;
  opt_integer(L, 2, call, "max_depth", 1, JSON_DEPTH_MOST, &depth);
  return (unsigned)depth;
}

static int lua_json_decode(lua_State *L) {
  static const char *const OPTIONS[] = {"max_bytes", "max_depth", NULL};
  static const char CALL[] = "json.decode";
  size_t length;
  unsigned depth = JSON_DEPTH_DEFAULT;
  if (lua_type(L, 1) != LUA_TSTRING)
    err_raisef(L, ERR_VALIDATION, NULL, "%s: wants text, got a %s", CALL, luaL_typename(L, 1));
  const char *text = lua_tolstring(L, 1, &length);
  if (!lua_isnoneornil(L, 2)) {
    lua_Integer most = LUA_MAXINTEGER;
    opt_check(L, 2, CALL, OPTIONS);
    depth = read_depth(L, CALL);
    opt_integer(L, 2, CALL, "max_bytes", 0, LUA_MAXINTEGER, &most);
    if ((lua_Unsigned)length > (lua_Unsigned)most) {
      const char *sizes =
          lua_pushfstring(L, "%I bytes, max_bytes is %I", (LUAI_UACINT)length, (LUAI_UACINT)most);
      err_raisef(L, ERR_LIMIT, NULL, "%s: the text has %s", CALL, sizes);
    }
  }
  json_decode_push(L, text, length, depth, CALL);
  return 1;
}

/* Upvalue 1: the buffer, one a Lua state. It may be shared by all calls, because json_encode_value
 * runs no Lua code and raises only when it is done. */
static int lua_json_encode(lua_State *L) {
  static const char *const OPTIONS[] = {"indent", "max_depth", "sort_keys", NULL};
  static const char CALL[] = "json.encode";
  json_encode_options options = {.max_depth = JSON_DEPTH_DEFAULT};
  luaL_checkany(L, 1);
  if (!lua_isnoneornil(L, 2)) {
    lua_Integer indent = 0;
    opt_check(L, 2, CALL, OPTIONS);
    options.max_depth = read_depth(L, CALL);
    opt_integer(L, 2, CALL, "indent", 0, 16, &indent);
    options.indent = (unsigned)indent;
    opt_boolean(L, 2, CALL, "sort_keys", &options.sort_keys);
  }
  json_buffer *buffer = lua_touserdata(L, lua_upvalueindex(1));
  json_buffer_reset(buffer, BUFFER_KEPT);
  json_encode_value(L, 1, buffer, &options, CALL);
  lua_pushlstring(L, buffer->data, buffer->length);
  return 1;
}

static int buffer_collect(lua_State *L) {
  json_buffer_free(lua_touserdata(L, 1));
  return 0;
}

static int null_tostring(lua_State *L) {
  if (json_is_null(L, 1))
    lua_pushliteral(L, "null");
  else
    lua_pushfstring(L, "userdata: %p", lua_touserdata(L, 1));
  return 1;
}

/* All light userdata share one metatable: it is given its __tostring where nobody set one. */
static void name_null(lua_State *L) {
  json_push_null(L);
  if (!lua_getmetatable(L, -1)) {
    lua_newtable(L);
    lua_pushcfunction(L, null_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_setmetatable(L, -2);
  } else {
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

int lua_open_json(lua_State *L) {
  static const luaL_Reg FUNCTIONS[] = {
      {"array", lua_json_array},
      {"decode", lua_json_decode},
      {"object", lua_json_object},
      {NULL, NULL},
  };
  luaL_newlib(L, FUNCTIONS);
  json_buffer *buffer = lua_newuserdatauv(L, sizeof *buffer, 0);
  *buffer = (json_buffer){0};
  if (luaL_newmetatable(L, BUFFER_TYPE)) {
    lua_pushcfunction(L, buffer_collect);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  lua_pushcclosure(L, lua_json_encode, 1); // stack: json, encode
  lua_setfield(L, -2, "encode");
  json_exact_open(L);
  lua_setfield(L, -2, "number");
  json_push_null(L);
  lua_setfield(L, -2, "null");
  name_null(L);
  return 1;
}
