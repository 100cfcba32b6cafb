/* nebula.c: luaopen_nebula assembles the module's table, nothing else. */
#include <lua.h>
#include <lauxlib.h>
#include "nebula.h"
#include "base/lua_error.h"
#include "async/lua_protect.h"

#define EXPORT __attribute__((visibility("default")))

// clang-format off: a subject a line, so that adding one touches no other
static const luaL_Reg SUBJECTS[] = {
    {"blob", lua_open_blob},
    {"crypto", lua_open_crypto},
    {"fs", lua_open_fs},
    {"http", lua_open_http},
    {"json", lua_open_json},
    {"log", lua_open_log},
    {"pg", lua_open_pg},
    {"s3", lua_open_s3},
    {"task", lua_open_task},
    {"time", lua_open_time},
    {NULL, NULL},
};
// clang-format on

EXPORT int luaopen_nebula(lua_State *L);

int luaopen_nebula(lua_State *L) {
  lua_newtable(L);
  err_open(L);
  task_open_try(L);
  for (const luaL_Reg *subject = SUBJECTS; subject->name != NULL; subject++) {
    subject->func(L);
    lua_setfield(L, -2, subject->name);
  }
  lua_getfield(L, -1, "json");
  lua_getfield(L, -1, "null"); // stack: nebula, json, null
  lua_setfield(L, -3, "null");
  lua_pop(L, 1);
  return 1;
}
