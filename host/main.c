/* main.c: runs a script as the main task. */
#include <stdio.h>
#include <lauxlib.h>
#include <lualib.h>
#include "async/task_host.h"

int luaopen_nebula(lua_State *L);

int main(int argc, char **argv) {
  lua_State *L = luaL_newstate();
  luaL_openlibs(L);
  luaL_requiref(L, "nebula", luaopen_nebula, 0);
  task_host_install(L);
  lua_newtable(L);
  for (int i = 0; i < argc; i++) {
    lua_pushstring(L, argv[i]);
    lua_rawseti(L, -2, i - 1);
  }
  lua_setglobal(L, "arg");
  lua_settop(L, 0);
  if (luaL_loadfile(L, argc > 1 ? argv[1] : NULL) != LUA_OK) {
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
    return 1;
  }
  bool ok = task_host_run(L, 0);
  if (!ok) {
    fprintf(stderr, "%s\n", luaL_tolstring(L, -1, NULL));
    lua_pop(L, 1);
    if (lua_istable(L, -1) && lua_getfield(L, -1, "traceback") != LUA_TNIL) {
      fprintf(stderr, "%s\n", lua_tostring(L, -1));
    }
  }
  task_host_drain(L);
  lua_close(L);
  return !ok;
}
