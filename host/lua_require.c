/* lua_require.c: a `require` whose module chunks may wait.
 *
 * Stock require calls the chunk through C that cannot yield. This one is the same protocol (loaded,
 * searchers, loader and its data) with a continuation. Two tasks that ask for the same module at
 * once load it once: the second waits for the first. A module that is asked for while it is being
 * loaded, by its own task or through tasks that wait for each other, is a loop, and named.
 *
 * The record of a load is a userdata on the loading coroutine's stack; its __close takes it out of
 * the table whether the chunk returned, failed or was cancelled, and wakes who waits for it. */
#include "lua_host.h"

#include <stdlib.h>
#include <lauxlib.h>
#include "async/task.h"
#include "base/lua_error.h"

#define METATABLE "nebula.require.load"
#define WAIT_METATABLE "nebula.require.wait"

typedef struct module_load module_load;

typedef struct module_wait {
  task_ticket ticket;
  uint64_t task; /* who waits */
  module_load *on;
  struct module_wait *next;
} module_wait;

struct module_load {
  uint64_t task; /* who loads */
  module_wait *waits;
};

/* Upvalues of require: the table name -> load, and the function's own `package` table. */
enum { LOADING = lua_upvalueindex(1), PACKAGE = lua_upvalueindex(2) };

static void wait_leave(void *data) {
  module_wait *self = data;
  if (self->on == NULL) return;
  module_wait **link = &self->on->waits;
  while (*link != self)
    link = &(*link)->next;
  *link = self->next;
  self->on = NULL;
}

static int wait_gc(lua_State *L) {
  wait_leave(lua_touserdata(L, 1));
  return 0;
}

/* uservalues: 1 the table of loads, 2 the module's name */
static int load_close(lua_State *L) {
  module_load *self = luaL_checkudata(L, 1, METATABLE);
  while (self->waits != NULL) {
    module_wait *wait = self->waits;
    wait_leave(wait);
    task_wake(wait->ticket);
  }
  if (lua_getiuservalue(L, 1, 1) == LUA_TTABLE) {
    lua_getiuservalue(L, 1, 2);
    lua_pushnil(L);
    lua_rawset(L, -3);
    lua_pushnil(L);
    lua_setiuservalue(L, 1, 1);
  }
  return 0;
}

/* The load that this task waits for, or NULL: a scan, made only where a task is about to wait. */
static module_load *load_awaited(lua_State *L, uint64_t task) {
  module_load *found = NULL;
  for (lua_pushnil(L); lua_next(L, LOADING); lua_pop(L, 1)) {
    module_load *load = lua_touserdata(L, -1);
    for (module_wait *wait = load->waits; wait != NULL; wait = wait->next)
      if (wait->task == task) found = load;
  }
  return found;
}

/* True where waiting for this load would wait for the task itself. */
static bool load_is_loop(lua_State *L, module_load *load, uint64_t task) {
  while (load != NULL) {
    if (load->task == task) return true;
    load = load_awaited(L, load->task);
  }
  return false;
}

/* Raises, naming every module that is being loaded. */
static _Noreturn void raise_loop(lua_State *L, const char *name) {
  luaL_Buffer names;
  lua_newtable(L);
  int list = lua_gettop(L);
  lua_Integer count = 0;
  for (lua_pushnil(L); lua_next(L, LOADING); lua_pop(L, 1)) {
    lua_pushvalue(L, -2);
    lua_rawseti(L, list, ++count);
  }
  luaL_buffinit(L, &names);
  for (lua_Integer i = 1; i <= count; i++) {
    if (i > 1) luaL_addstring(&names, ", ");
    lua_rawgeti(L, list, i);
    luaL_addvalue(&names);
  }
  luaL_pushresult(&names);
  luaL_error(L, "loop between modules: '%s' is required while it is being loaded (loading now: %s)",
             name, lua_tostring(L, -1));
  abort();
}

static int require_again(lua_State *L, int status, lua_KContext context);

/* Waits for another task's load, then starts over. stack: name, loaded, load */
static int require_wait(lua_State *L, module_load *load) {
  uint64_t task = task_current_id(L);
  module_wait *wait = lua_newuserdatauv(L, sizeof *wait, 0);
  *wait = (module_wait){.task = task};
  luaL_setmetatable(L, WAIT_METATABLE);
  wait->ticket = task_wait_begin(L, "require");
  wait->on = load;
  wait->next = load->waits;
  load->waits = wait;
  return task_wait(L, wait->ticket, wait_leave, wait, 0, require_again);
}

/* Leaves the loader and its data on the stack, or raises with every searcher's reason. */
static void loader_find(lua_State *L, const char *name) {
  luaL_Buffer reasons;
  if (lua_getfield(L, PACKAGE, "searchers") != LUA_TTABLE)
    luaL_error(L, "'package.searchers' must be a table");
  int searchers = lua_gettop(L);
  lua_newtable(L);
  int texts = lua_gettop(L);
  lua_Integer count = 0;
  for (lua_Integer i = 1;; i++) {
    if (lua_rawgeti(L, searchers, i) == LUA_TNIL) break;
    lua_pushstring(L, name);
    lua_call(L, 1, 2);
    if (lua_isfunction(L, -2)) {
      lua_rotate(L, searchers, 2); // stack: ..., loader, data, searchers, texts
      lua_settop(L, searchers + 1);
      return;
    }
    lua_pop(L, 1);
    if (lua_isstring(L, -1)) {
      lua_rawseti(L, texts, ++count);
    } else {
      lua_pop(L, 1);
    }
  }
  luaL_buffinit(L, &reasons);
  for (lua_Integer i = 1; i <= count; i++) {
    lua_rawgeti(L, texts, i);
    lua_pushfstring(L, "\n\t%s", lua_tostring(L, -1)); // 5.4's reasons come without a prefix
    lua_remove(L, -2);
    luaL_addvalue(&reasons);
  }
  luaL_pushresult(&reasons);
  luaL_error(L, "module '%s' not found:%s", name, lua_tostring(L, -1));
}

/* stack: name, loaded, load, loader, data, result */
static int load_done(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  if (!lua_isnil(L, 6)) {
    lua_pushvalue(L, 6);
    lua_setfield(L, 2, lua_tostring(L, 1));
  } else if (lua_getfield(L, 2, lua_tostring(L, 1)) == LUA_TNIL) {
    lua_pushboolean(L, 1);
    lua_setfield(L, 2, lua_tostring(L, 1));
  }
  lua_closeslot(L, 3);
  lua_getfield(L, 2, lua_tostring(L, 1));
  lua_pushvalue(L, 5);
  return 2;
}

static int require_again(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  const char *name = luaL_checkstring(L, 1);
  lua_settop(L, 1);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE); // stack: name, loaded
  lua_getfield(L, 2, name);
  if (lua_toboolean(L, -1)) return 1;
  lua_pop(L, 1);

  uint64_t task = task_current_id(L);
  lua_getfield(L, LOADING, name);
  module_load *load = lua_touserdata(L, -1);
  if (load != NULL) {
    if (load_is_loop(L, load, task)) raise_loop(L, name);
    return require_wait(L, load);
  }
  lua_pop(L, 1);

  load = lua_newuserdatauv(L, sizeof *load, 2); // stack: name, loaded, load
  *load = (module_load){.task = task};
  luaL_setmetatable(L, METATABLE);
  lua_toclose(L, 3);
  loader_find(L, name); // stack: name, loaded, load, loader, data
  lua_pushvalue(L, 3);
  lua_setfield(L, LOADING, name);
  lua_pushvalue(L, LOADING);
  lua_setiuservalue(L, 3, 1);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, 3, 2);

  lua_pushvalue(L, 4);
  lua_pushvalue(L, 1);
  lua_pushvalue(L, 5);
  lua_callk(L, 2, 1, 0, load_done);
  return load_done(L, LUA_OK, 0);
}

static int host_require(lua_State *L) {
  luaL_checkstring(L, 1);
  return require_again(L, LUA_OK, 0);
}

void lua_push_require(lua_State *L) {
  luaL_newmetatable(L, WAIT_METATABLE);
  lua_pushcfunction(L, wait_gc);
  lua_setfield(L, -2, "__gc");
  luaL_newmetatable(L, METATABLE);
  lua_pushcfunction(L, load_close);
  lua_setfield(L, -2, "__close");
  lua_pop(L, 2);
  lua_newtable(L);
  lua_getglobal(L, "package");
  lua_pushcclosure(L, host_require, 2);
}
