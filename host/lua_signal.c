/* lua_signal.c: `process.on_signal`: a script's answer to a signal. A handler runs as a task of its
 * own. What has no handler is the runtime's: INT and TERM interrupt the main task. */
#include "lua_host.h"

#include <signal.h>
#include <string.h>
#include <lauxlib.h>
#include "async/task.h"
#include "base/lua_error.h"
#include "signals.h"

static const char HANDLERS; /* registry: number -> function */

static const struct {
  const char *name;
  int number;
} SIGNALS[] = {{"TERM", SIGTERM}, {"INT", SIGINT},    {"KILL", SIGKILL}, {"HUP", SIGHUP},
               {"QUIT", SIGQUIT}, {"USR1", SIGUSR1},  {"USR2", SIGUSR2}, {"STOP", SIGSTOP},
               {"CONT", SIGCONT}, {"WINCH", SIGWINCH}};

int host_signal_number(lua_State *L, int index, const char *call) {
  if (lua_type(L, index) == LUA_TNUMBER) return (int)luaL_checkinteger(L, index);
  const char *name = luaL_checkstring(L, index);
  if (strncmp(name, "SIG", 3) == 0) name += 3;
  for (size_t i = 0; i < sizeof SIGNALS / sizeof *SIGNALS; i++)
    if (strcmp(SIGNALS[i].name, name) == 0) return SIGNALS[i].number;
  err_raisef(L, ERR_VALIDATION, NULL,
             "%s: no signal \"%s\"; use TERM, INT, KILL, HUP, QUIT, USR1, "
             "USR2, STOP, CONT or WINCH",
             call, name);
}
static void push_handlers(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &HANDLERS) == LUA_TTABLE) return;
  lua_pop(L, 1);
  lua_newtable(L);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &HANDLERS);
}

bool host_signal_handled(lua_State *L, int number) {
  push_handlers(L);
  bool handled = lua_rawgeti(L, -1, number) == LUA_TFUNCTION;
  if (handled) {
    lua_pushstring(L, "unknown");
    for (size_t i = 0; i < sizeof SIGNALS / sizeof *SIGNALS; i++) {
      if (SIGNALS[i].number != number) continue;
      lua_pop(L, 1);
      lua_pushstring(L, SIGNALS[i].name);
    }
    task_spawn(L, 1);
  }
  lua_pop(L, 2);
  return handled;
}

int host_signal_on(lua_State *L) {
  int number = host_signal_number(L, 1, "process.on_signal");
  if (!lua_isnoneornil(L, 2)) luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_settop(L, 2);
  push_handlers(L);
  lua_rawgeti(L, -1, number); // stack: name, function, handlers, previous
  lua_pushvalue(L, 2);
  lua_rawseti(L, 3, number);
  bool fallback = number == SIGINT || number == SIGTERM; // the runtime answers these
  int rc = 0;
  if (!lua_isnil(L, 2)) {
    rc = signals_watch(number);
  } else if (!fallback) {
    signals_forget(number);
  }
  if (rc < 0) {
    err_raisef(L, ERR_VALIDATION, NULL, "process.on_signal: this signal cannot be handled: %s",
               uv_strerror(rc));
  }
  signals_urgent(number, fallback && lua_isnil(L, 2));
  lua_pushnil(L);
  bool any = lua_next(L, 3) != 0;
  if (any) lua_pop(L, 2);
  signals_keep(any);
  return 1;
}
