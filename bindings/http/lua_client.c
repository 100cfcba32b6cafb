/* lua_client.c: see lua_client.h. */
#include "http/lua_client.h"

#include <ctype.h>
#include <lauxlib.h>
#include <string.h>
#include "async/task.h"
#include "base/lua_error.h"

static const char CLIENT_KEY = 0; /* its address is the registry's key */

static const char HEADERS_TYPE[] = "nebula.http.headers";

static int client_gc(lua_State *L) {
  http_client **box = lua_touserdata(L, 1);
  if (*box != NULL) http_client_close(*box);
  *box = NULL;
  return 0;
}

http_client *lua_http_client(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &CLIENT_KEY) == LUA_TUSERDATA) {
    http_client **known = lua_touserdata(L, -1);
    lua_pop(L, 1);
    if (*known == NULL) err_raisef(L, ERR_IO, NULL, "no transfer can begin: the host is closing");
    return *known;
  }
  lua_pop(L, 1);
  loop *on = task_loop(L); /* first, so that it is collected after the client */
  http_client **box = lua_newuserdatauv(L, sizeof(http_client *), 0);
  *box = NULL;
  lua_createtable(L, 0, 1); // stack: box, metatable
  lua_pushcfunction(L, client_gc);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  *box = http_client_new(on);
  if (*box == NULL) luaL_error(L, "not enough memory");
  http_client *client = *box;
  lua_rawsetp(L, LUA_REGISTRYINDEX, &CLIENT_KEY);
  return client;
}

static int headers_gc(lua_State *L) {
  http_headers_free(lua_touserdata(L, 1));
  return 0;
}

http_headers *lua_http_headers_new(lua_State *L) {
  http_headers *list = lua_newuserdatauv(L, sizeof *list, 0);
  *list = (http_headers){0};
  if (luaL_newmetatable(L, HEADERS_TYPE)) {
    lua_pushcfunction(L, headers_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  return list;
}

void lua_http_headers_add(lua_State *L, const char *call, http_headers *out, const char *name,
                          const char *value, size_t length) {
  if (!http_header_is_valid(name, strlen(name), value, length)) {
    err_raisef(L, ERR_VALIDATION, NULL,
               "%s: header '%s': a name is letters, digits and hyphens, a value one line", call,
               name);
  }
  if (!http_headers_add_n(out, name, strlen(name), value, length))
    luaL_error(L, "not enough memory");
}

/* Adds the value at index, a string or a number, under the name. */
static void add_value(lua_State *L, int index, const char *call, const char *name,
                      http_headers *out) {
  if (lua_type(L, index) != LUA_TSTRING && lua_type(L, index) != LUA_TNUMBER) {
    err_raisef(L, ERR_VALIDATION, NULL, "%s: header '%s' must be a string, got %s", call, name,
               luaL_typename(L, index));
  }
  lua_pushvalue(L, index);
  size_t length;
  const char *value = lua_tolstring(L, -1, &length);
  lua_http_headers_add(L, call, out, name, value, length);
  lua_pop(L, 1);
}

static void add_pair(lua_State *L, const char *call, const char *option, http_headers *out) {
  if (!lua_istable(L, -1) || lua_rawgeti(L, -1, 1) != LUA_TSTRING) {
    err_raisef(L, ERR_VALIDATION, NULL, "%s: %s is a table of names, or a list of { name, value }",
               call, option);
  }
  lua_rawgeti(L, -2, 2); // stack: pair, name, value
  add_value(L, -1, call, lua_tostring(L, -2), out);
  lua_pop(L, 2);
}

void lua_http_headers_read(lua_State *L, int index, const char *call, const char *option,
                           http_headers *out) {
  index = lua_absindex(L, index);
  if (!lua_istable(L, index)) {
    err_raisef(L, ERR_VALIDATION, NULL, "%s: %s must be a table, got %s", call, option,
               luaL_typename(L, index));
  }
  for (lua_pushnil(L); lua_next(L, index) != 0; lua_pop(L, 1)) {
    if (lua_isinteger(L, -2)) continue; /* the list, below, in its order */
    if (lua_type(L, -2) != LUA_TSTRING)
      err_raisef(L, ERR_VALIDATION, NULL, "%s: %s has a name that is no string", call, option);
    const char *name = lua_tostring(L, -2);
    if (!lua_istable(L, -1)) {
      add_value(L, -1, call, name, out);
      continue;
    }
    for (lua_Integer i = 1; lua_rawgeti(L, -1, i) != LUA_TNIL; i++, lua_pop(L, 1))
      add_value(L, -1, call, name, out);
    lua_pop(L, 1);
  }
  for (lua_Integer i = 1; lua_rawgeti(L, index, i) != LUA_TNIL; i++, lua_pop(L, 1))
    add_pair(L, call, option, out);
  lua_pop(L, 1);
}

void lua_http_headers_push(lua_State *L, const http_headers *headers) {
  lua_createtable(L, 0, (int)headers->count);
  for (size_t i = 0; i < headers->count; i++) {
    const http_header *header = &headers->items[i];
    if (lua_getfield(L, -1, header->name) == LUA_TNIL) {
      lua_pop(L, 1);
      lua_pushstring(L, header->value);
    } else {
      lua_pushfstring(L, "%s, %s", lua_tostring(L, -1), header->value);
      lua_remove(L, -2); // stack: table, joined
    }
    lua_setfield(L, -2, header->name);
  }
}
