/* lua_bytes.c: a string pushed under protection, for what Lua does not own yet. */
#include "base/lua_bytes.h"

#include <lauxlib.h>

static int push_run(lua_State *L) {
  const bytes *run = lua_touserdata(L, 1);
  lua_pushlstring(L, bytes_text(run), run->length);
  return 1;
}

void lua_push_bytes(lua_State *L, bytes *run) {
  bool built = !run->failed;
  int status = LUA_OK;
  if (built) {
    lua_pushcfunction(L, push_run);
    lua_pushlightuserdata(L, run);
    status = lua_pcall(L, 1, 1, 0);
  }
  bytes_free(run);
  if (!built) luaL_error(L, "not enough memory");
  if (status != LUA_OK) lua_error(L);
}
