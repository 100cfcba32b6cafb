/* lua_protect.c: pcall, xpcall and nebula.try as tasks need them: a called function may wait, and
 * an interrupt that was raised inside passes through to its boundary. */
#include "async/lua_protect.h"
#include "async/task_internal.h"

#include <lauxlib.h>
#include "base/lua_error.h"

static bool succeeded(int status) {
  return status == LUA_OK || status == LUA_YIELD;
}

static int pcall_done(lua_State *L, int status, lua_KContext serial) {
  if (succeeded(status)) return lua_gettop(L);
  task_protect_caught(L, serial);
  lua_pushboolean(L, 0);
  lua_insert(L, -2);
  return 2;
}

static int protected_pcall(lua_State *L) {
  luaL_checkany(L, 1);
  lua_pushboolean(L, 1);
  lua_insert(L, 1); // stack: true, function, arguments
  lua_KContext serial = task_protect_enter(L);
  int status = lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 0, serial, pcall_done);
  return pcall_done(L, status, serial);
}

static int xpcall_done(lua_State *L, int status, lua_KContext serial) {
  if (succeeded(status)) return lua_gettop(L) - 2;
  task_protect_caught(L, serial);
  lua_pushboolean(L, 0);
  lua_insert(L, -2);
  return 2;
}

static int protected_xpcall(lua_State *L) { // stack: function, handler, arguments
  int count = lua_gettop(L);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_pushboolean(L, 1);
  lua_pushvalue(L, 1);
  lua_rotate(L, 3, 2); // stack: function, handler, true, function, arguments
  lua_KContext serial = task_protect_enter(L);
  int status = lua_pcallk(L, count - 2, LUA_MULTRET, 2, serial, xpcall_done);
  return xpcall_done(L, status, serial);
}

static int try_done(lua_State *L, int status, lua_KContext serial) {
  if (succeeded(status)) return lua_gettop(L) - 1;
  task_protect_caught(L, serial);
  lua_pushnil(L);
  lua_insert(L, -2);
  return 2;
}

/* nebula.try(fn, ...) -> what fn returns, or nil and the error object. */
static int protected_try(lua_State *L) {
  luaL_checkany(L, 1);
  lua_pushcfunction(L, err_handler);
  lua_insert(L, 1); // stack: handler, function, arguments
  lua_KContext serial = task_protect_enter(L);
  int status = lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 1, serial, try_done);
  return try_done(L, status, serial);
}

void task_open_protect(lua_State *L) {
  lua_pushcfunction(L, protected_pcall);
  lua_setfield(L, -2, "pcall");
  lua_pushcfunction(L, protected_xpcall);
  lua_setfield(L, -2, "xpcall");
}

void task_open_try(lua_State *L) {
  lua_pushcfunction(L, protected_try);
  lua_setfield(L, -2, "try");
}
