/* runtime.c: makes the host's Lua state, runs its main task, ends in order.
 *
 * The order of the end: the main task has ended; every other task is cancelled and drained; the
 * state closes, which starts closing every handle that a binding holds; the loop turns until their
 * close callbacks have run. os.exit(code, true) takes the same way: it cancels the main task. */
#include "runtime.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <lauxlib.h>
#include <lualib.h>
#include "async/task_host.h"
#include "base/lua_error.h"
#include "lua_host.h"
#include "signals.h"
#include "watchdog.h"

#define EXPORTED_MODULE(name) int name(lua_State *L)
EXPORTED_MODULE(luaopen_nebula);
EXPORTED_MODULE(luaopen_cjson); /* Debian's lua-cjson declares them in no header */
EXPORTED_MODULE(luaopen_cjson_safe);

struct runtime {
  lua_State *L;
  scheduler *scheduler;
  int argc;
  char **argv;
  bool exiting; /* os.exit(code, true) was called */
  int exit_status;
  int signalled; /* the signal that interrupted the main task, or 0 */
  int interrupts;
  runtime_interrupt_fn *interrupted; /* while interactive */
  void *interrupted_data;
};

static const char SELF; /* registry: the runtime */

static const char SCRIPTS; /* registry: the directory of the host's scripts */

void host_push_scripts(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &SCRIPTS);
}

runtime *runtime_of(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &SELF);
  runtime *self = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return self;
}

static const luaL_Reg PRELOADED[] = {
    {"cjson", luaopen_cjson},
    {"cjson.safe", luaopen_cjson_safe},
    {"nebula.editor", lua_open_editor},
    {"nebula.httpd", lua_open_httpd},
    {"nebula.process", lua_open_process},
    {"nebula.sandbox", lua_open_sandbox},
    {"nebula.socket", lua_open_socket},
    {"nebula.system", lua_open_system},
    {"nebula.terminal", lua_open_terminal},
    {"nebula.text", lua_open_text},
    {NULL, NULL},
};

/* ---- where scripts are ---- */

/* Pushes the directory of the scripts that belong to this program, found from the program itself:
 * ../scripts of a source tree's build, ../share/nebula/scripts of an installed one. */
static void push_scripts(lua_State *L) {
  static const char *const places[] = {"../scripts", "../share/nebula/scripts", "../../scripts"};
  char path[PATH_MAX], found[PATH_MAX];
  ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
  path[length < 0 ? 0 : length] = 0;
  char *slash = strrchr(path, '/');
  if (slash != NULL) *slash = 0;
  for (size_t i = 0; slash != NULL && i < sizeof places / sizeof *places; i++) {
    const char *probe = lua_pushfstring(L, "%s/%s/nebula/cli.lua", path, places[i]);
    bool there = access(probe, R_OK) == 0;
    lua_pop(L, 1);
    if (!there) continue;
    const char *directory = lua_pushfstring(L, "%s/%s", path, places[i]);
    lua_pushstring(L, realpath(directory, found) != NULL ? found : directory);
    lua_remove(L, -2);
    return;
  }
  lua_pushnil(L);
}

static void add_place(lua_State *L, luaL_Buffer *path, const char *directory, size_t length) {
  if (length == 0) return;
  lua_pushlstring(L, directory, length);
  const char *text = lua_tostring(L, -1);
  lua_pushfstring(L, "%s/?.lua;%s/?/init.lua;", text, text);
  lua_remove(L, -2);
  luaL_addvalue(path);
}

/* Pushes the templates of NEBULA_PATH's directories, then of the host's scripts, then Lua's own.
 * A script's project comes before them: nebula.cli adds it once it knows which script runs. */
static void push_path(lua_State *L, const char *scripts) {
  luaL_Buffer path;
  luaL_buffinit(L, &path);
  const char *places = getenv("NEBULA_PATH");
  while (places != NULL && *places != 0) {
    size_t length = strcspn(places, ":");
    add_place(L, &path, places, length);
    places += length + (places[length] == ':');
  }
  if (scripts != NULL) add_place(L, &path, scripts, strlen(scripts));
  luaL_pushresult(&path);
}

static int index_done(lua_State *L, int status, lua_KContext context) { // stack: nebula, name, ...
  (void)status, (void)context;
  lua_pushvalue(L, 2);
  lua_pushvalue(L, -2);
  lua_rawset(L, 1);
  return 1;
}

/* __index of the module: `nebula.args` is require "nebula.args", where there is such a file. */
static int nebula_index(lua_State *L) {
  if (lua_type(L, 2) != LUA_TSTRING) return 0;
  const char *name = lua_tostring(L, 2);
  if (strpbrk(name, "./\\?;%") != NULL) return 0;
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "searchpath");
  lua_pushfstring(L, "nebula.%s", name);
  lua_getfield(L, 3, "path");
  lua_call(L, 2, 1);
  if (lua_isnil(L, -1)) {
    lua_getfield(L, 3, "preload");
    lua_pushfstring(L, "nebula.%s", name);
    if (lua_gettable(L, -2) == LUA_TNIL) return 0;
  }
  lua_getglobal(L, "require");
  lua_pushfstring(L, "nebula.%s", name);
  lua_callk(L, 1, 1, 0, index_done);
  return index_done(L, LUA_OK, 0);
}

static int open_nebula(lua_State *L) {
  luaopen_nebula(L); // stack: nebula
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, nebula_index);
  lua_setfield(L, -2, "__index");
  lua_setmetatable(L, -2);
  return 1;
}

static void open_modules(lua_State *L) {
  luaL_requiref(L, "nebula", open_nebula, 0); // the scheduler exists from here on
  lua_pop(L, 1);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  luaL_setfuncs(L, PRELOADED, 0);
  lua_getglobal(L, "package"); // stack: preload, package
  push_scripts(L);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &SCRIPTS);
  push_path(L, lua_tostring(L, -1)); // stack: preload, package, scripts, path
  lua_getfield(L, -3, "path");
  lua_concat(L, 2);
  lua_setfield(L, -3, "path");
  lua_pop(L, 3);
}

/* ---- the end ---- */

static const char MAIN; /* registry: the main Task while it runs */

/* os.exit(code, close): with close, from a running task, unwinds instead of leaving freed state
 * behind: <close> variables run, the loop is drained, then the program ends. */
static int host_exit(lua_State *L) {
  runtime *self = runtime_of(L);
  int status = EXIT_SUCCESS;
  if (lua_isboolean(L, 1)) {
    status = lua_toboolean(L, 1) ? EXIT_SUCCESS : EXIT_FAILURE;
  } else {
    status = (int)luaL_optinteger(L, 1, EXIT_SUCCESS);
  }
  bool inside = lua_rawgetp(L, LUA_REGISTRYINDEX, &MAIN) == LUA_TUSERDATA;
  if (!lua_toboolean(L, 2) || !inside) {
    fflush(NULL);
    _exit(status); // handlers of exit() may touch what other threads still use
  }
  self->exiting = true;
  self->exit_status = status;
  lua_getfield(L, -1, "cancel"); // stack: ..., main, cancel
  lua_pushvalue(L, -2);
  lua_call(L, 1, 0); // raises where this is the main task
  task_push_current(L);
  lua_getfield(L, -1, "cancel");
  lua_pushvalue(L, -2);
  lua_call(L, 1, 0);
  err_raisef(L, ERR_CANCELLED, NULL, "os.exit"); // in a clean-up, where a second cancel is none
}

/* ---- signals ---- */

void runtime_on_interrupt(runtime *self, runtime_interrupt_fn *interrupted, void *data) {
  self->interrupted = interrupted;
  self->interrupted_data = data;
}

static void signal_urgent(void *data, int number) {
  (void)number;
  const runtime *self = data;
  task_host_signalled(self->scheduler);
}

static void signal_arrived(void *data, int number) {
  runtime *self = data;
  if (host_signal_handled(self->L, number)) return;
  if (number != SIGINT && number != SIGTERM) return;
  if (number == SIGINT && self->interrupted != NULL) {
    bool taken = task_host_interrupt(self->scheduler);
    self->interrupted(self->interrupted_data, taken);
    return;
  }
  self->signalled = number;
  if (++self->interrupts > 1) {
    static const char text[] = "nebula: interrupted again: ending at once, without clean-up\n";
    ssize_t written = write(STDERR_FILENO, text, sizeof text - 1);
    _exit(written < 0 ? 1 : 128 + number);
  }
  task_host_interrupt(self->scheduler);
}

/* ---- the main task ---- */

/* Says an uncaught error through nebula.report; returns the exit status it means. */
static int report(lua_State *L, int index) {
  lua_getglobal(L, "require");
  lua_pushliteral(L, "nebula.report");
  if (lua_pcall(L, 1, 1, 0) == LUA_OK && lua_istable(L, -1)) {
    lua_getfield(L, -1, "finish");
    lua_pushvalue(L, index);
    if (lua_pcall(L, 1, 1, 0) == LUA_OK && lua_isinteger(L, -1)) return (int)lua_tointeger(L, -1);
  }
  fflush(stdout);
  fprintf(stderr, "nebula: %s\n", luaL_tolstring(L, index, NULL));
  return EXIT_FAILURE;
}

static int main_done(lua_State *L, int status, lua_KContext context) {
  (void)L, (void)status, (void)context;
  return 1;
}

/* The body of the main task. stack: argv as a table */
static int main_body(lua_State *L) {
  task_push_current(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &MAIN);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "nebula.cli");
  lua_call(L, 1, 1); // its chunk does not wait
  lua_getfield(L, -1, "main");
  lua_pushvalue(L, 1);
  lua_callk(L, 1, 1, 0, main_done);
  return 1;
}

int runtime_run(runtime *self) {
  lua_State *L = self->L;
  lua_pushcfunction(L, main_body);
  lua_createtable(L, self->argc, 0);
  for (int i = 0; i < self->argc; i++) {
    lua_pushstring(L, self->argv[i]);
    lua_rawseti(L, -2, i);
  }
  bool ok = task_host_run(L, 1);
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &MAIN);
  int status = ok && lua_isinteger(L, 1) ? (int)lua_tointeger(L, 1) : !ok;
  if (self->exiting) {
    status = self->exit_status;
  } else if (self->signalled != 0 && !ok) {
    status = 128 + self->signalled;
  } else if (!ok) {
    status = report(L, 1);
  }
  lua_settop(L, 0);
  task_host_drain(L);
  return status;
}

/* ---- making and freeing ---- */

static int open_state(lua_State *L) {
  runtime *self = lua_touserdata(L, 1);
  luaL_openlibs(L);
  lua_pushlightuserdata(L, self);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &SELF);
  open_modules(L);
  task_host_install(L);
  lua_push_require(L);
  lua_setglobal(L, "require");
  lua_getglobal(L, "os");
  lua_pushcfunction(L, host_exit);
  lua_setfield(L, -2, "exit");
  self->scheduler = task_host_scheduler(L);
  int rc = signals_open(&task_loop(L)->uv, signal_arrived, signal_urgent, self);
  if (rc == 0) rc = watchdog_open(self->scheduler);
  if (rc < 0) return luaL_error(L, "signals: %s", uv_strerror(rc));
  static const int watched[] = {SIGINT, SIGTERM};
  for (size_t i = 0; i < sizeof watched / sizeof *watched; i++) {
    signals_watch(watched[i]);
    signals_urgent(watched[i], true);
  }
  return 0;
}

runtime *runtime_new(int argc, char **argv) {
  runtime *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  *self = (runtime){.L = luaL_newstate(), .argc = argc, .argv = argv};
  if (self->L == NULL) {
    fputs("nebula: not enough memory\n", stderr);
    free(self);
    return NULL;
  }
  lua_pushcfunction(self->L, open_state);
  lua_pushlightuserdata(self->L, self);
  if (lua_pcall(self->L, 1, 0, 0) == LUA_OK) return self;
  fprintf(stderr, "nebula: cannot start: %s\n", luaL_tolstring(self->L, -1, NULL));
  runtime_free(self);
  return NULL;
}

void runtime_free(runtime *self) {
  watchdog_close();
  signals_close();
  lua_close(self->L);
  free(self);
}
