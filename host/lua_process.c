/* lua_process.c: `nebula.process`: spawn, run, and what a Process can do.
 *
 * The userdata holds a `process *` and the tasks that wait for a change of it. While the child runs
 * the userdata is anchored in the registry, so that a Process that nobody holds is still reaped. */
#include "lua_host.h"

#include <lauxlib.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include "async/task.h"
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "process.h"

#define METATABLE "nebula.process"
enum { COLLECT_BYTES = 64 * 1024 * 1024 };

typedef struct lua_process {
  process *child;
  lua_State *main;
  task_ticket *waiters;
  size_t waiting, capacity;
} lua_process;

static const char *const OPTIONS[] = {"file", "args",     "env",     "clear_env", "cwd",
                                      "uid",  "gid",      "stdin",   "stdout",    "stderr",
                                      "pty",  "detached", "timeout", "max_bytes", NULL};

static lua_process *check(lua_State *L) {
  return luaL_checkudata(L, 1, METATABLE);
}

static void changed(void *data) {
  lua_process *self = data;
  int64_t status;
  int signal;
  if (process_ended(self->child, &status, &signal)) {
    lua_pushnil(self->main);
    lua_rawsetp(self->main, LUA_REGISTRYINDEX, self->child);
  }
  size_t count = self->waiting;
  self->waiting = 0;
  for (size_t i = 0; i < count; i++)
    task_wake(self->waiters[i]);
}

/* Announces a wait for the next change. Nobody is ever taken off the list: a late wake of a ticket
 * is a no-op. */
static task_ticket wait_begin(lua_State *L, lua_process *self, const char *what) {
  if (self->waiting == self->capacity) {
    size_t capacity = self->capacity * 2 + 4;
    task_ticket *waiters = realloc(self->waiters, capacity * sizeof *waiters);
    if (waiters == NULL) err_raisef(L, ERR_LIMIT, NULL, "%s: out of memory", what);
    self->waiters = waiters;
    self->capacity = capacity;
  }
  return self->waiters[self->waiting++] = task_wait_begin(L, what);
}

static int process_gc(lua_State *L) {
  lua_process *self = check(L);
  if (self->child != NULL) process_release(self->child);
  self->child = NULL;
  free(self->waiters);
  self->waiters = NULL;
  return 0;
}

/* ---- options ---- */

/* The words of a list option, NULL-terminated, in memory of Lua's (pushed). `first` goes before. */
static char **words_push(lua_State *L, int options, const char *name, const char *first) {
  size_t count = 0;
  int type = lua_getfield(L, options, name);
  if (type == LUA_TTABLE) {
    count = (size_t)luaL_len(L, -1);
  } else if (type != LUA_TNIL) {
    err_raisef(L, ERR_VALIDATION, NULL, "process.spawn: %s is a list of strings, not a %s", name,
               luaL_typename(L, -1));
  }
  char **words =
      lua_newuserdatauv(L, (count + 2) * sizeof *words, (int)count); // stack: list, words
  words[0] = (char *)first;
  for (size_t i = 0; i < count; i++) {
    lua_geti(L, -2, (lua_Integer)i + 1);
    if (lua_isinteger(L, -1) || lua_type(L, -1) == LUA_TNUMBER) lua_tostring(L, -1);
    size_t length = 0;
    const char *word = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &length) : NULL;
    if (word == NULL || strlen(word) != length) {
      err_raisef(L, ERR_VALIDATION, NULL, "process.spawn: %s[%d] is no string without NUL", name,
                 (int)i + 1);
    }
    words[i + 1] = (char *)word;
    lua_setiuservalue(L, -2, (int)i + 1); // the block keeps its strings
  }
  words[count + 1] = NULL;
  lua_remove(L, -2);
  return words;
}

/* The environment: the host's own with `env` over it, or `env` alone. Pushes one value. */
static char **environment_push(lua_State *L, int options) {
  lua_newtable(L);
  int merged = lua_gettop(L);
  lua_getfield(L, options, "clear_env");
  bool clear = lua_toboolean(L, -1);
  lua_pop(L, 1);
  extern char **environ;
  for (char **entry = environ; !clear && *entry != NULL; entry++) {
    const char *equals = strchr(*entry, '=');
    if (equals == NULL) continue;
    lua_pushlstring(L, *entry, (size_t)(equals - *entry));
    lua_pushstring(L, equals + 1);
    lua_rawset(L, merged);
  }
  int type = lua_getfield(L, options, "env");
  if (type != LUA_TNIL && type != LUA_TTABLE)
    err_raisef(L, ERR_VALIDATION, NULL, "process.spawn: env is a table of NAME = \"value\"");
  if (type == LUA_TTABLE) {
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) { // stack: merged, env, name, value
      lua_pushvalue(L, -2);
      if (lua_isboolean(L, -2) && !lua_toboolean(L, -2)) {
        lua_pushnil(L); // NAME = false takes it out
      } else {
        luaL_tolstring(L, -2, NULL);
      }
      lua_rawset(L, merged);
    }
  }
  lua_pop(L, 1);
  lua_newtable(L);
  lua_Integer count = 0;
  for (lua_pushnil(L); lua_next(L, merged);) { // stack: merged, wrapper, name, value
    lua_pushfstring(L, "%s=%s", lua_tostring(L, -2), lua_tostring(L, -1));
    lua_rawseti(L, merged + 1, ++count);
    lua_pop(L, 1);
  }
  lua_createtable(L, 0, 1);
  lua_insert(L, -2);
  lua_setfield(L, -2, "env"); // stack: merged, {env=list}
  char **words = words_push(L, merged + 1, "env", NULL);
  lua_replace(L, merged);
  lua_settop(L, merged);
  return words + 1; // words[0] is nobody's here
}

static process_stdio stdio_read(lua_State *L, int options, const char *name, process_stdio fallback,
                                const char **path) {
  const char *value = NULL;
  if (!opt_string(L, options, "process.spawn", name, &value, NULL)) return fallback;
  if (strcmp(value, "pipe") == 0) return PROCESS_PIPE;
  if (strcmp(value, "inherit") == 0) return PROCESS_INHERIT;
  if (strcmp(value, "null") == 0) return PROCESS_NULL;
  if (strcmp(name, "stderr") == 0 && strcmp(value, "stdout") == 0) return PROCESS_STDOUT;
  if (strchr(value, '/') == NULL) {
    err_raisef(L, ERR_VALIDATION, NULL,
               "process.spawn: %s is \"pipe\", \"inherit\", \"null\"%s or "
               "a path with a slash, not \"%s\"",
               name, strcmp(name, "stderr") == 0 ? ", \"stdout\"" : "", value);
  }
  *path = value;
  return PROCESS_FILE;
}

static void pty_read(lua_State *L, int options, process_options *out) {
  int type = lua_getfield(L, options, "pty");
  if (type == LUA_TTABLE) {
    static const char *const names[] = {"rows", "columns", NULL};
    lua_Integer rows = 24, columns = 80;
    int index = lua_gettop(L);
    opt_check(L, index, "process.spawn: pty", names);
    opt_integer(L, index, "process.spawn: pty", "rows", 1, 1000, &rows);
    opt_integer(L, index, "process.spawn: pty", "columns", 1, 1000, &columns);
    out->rows = (unsigned short)rows;
    out->columns = (unsigned short)columns;
  } else {
    out->rows = 24;
    out->columns = 80;
  }
  out->pty = lua_toboolean(L, -1);
  lua_pop(L, 1);
}

/* Leaves on the stack what the options point to. *input: text for the child's stdin, or NULL. */
static void options_read(lua_State *L, int index, process_options *out, const char **input,
                         size_t *input_length) {
  const char *call = "process.spawn";
  lua_Integer id = 0;
  opt_check(L, index, call, OPTIONS);
  if (!opt_string(L, index, call, "file", &out->file, NULL))
    err_raisef(L, ERR_VALIDATION, NULL, "process.spawn: file (the program to run) is missing");
  opt_string(L, index, call, "cwd", &out->cwd, NULL);
  opt_boolean(L, index, call, "detached", &out->detached);
  if (opt_integer(L, index, call, "uid", 0, 0xfffffffe, &id)) {
    out->set_ids = true;
    out->uid = (uv_uid_t)id;
    out->gid = (uv_gid_t)id;
  }
  if (opt_integer(L, index, call, "gid", 0, 0xfffffffe, &id)) out->gid = (uv_gid_t)id;
  pty_read(L, index, out);
  out->stdio[1] = stdio_read(L, index, "stdout", PROCESS_PIPE, &out->paths[1]);
  out->stdio[2] = stdio_read(L, index, "stderr", PROCESS_PIPE, &out->paths[2]);
  const char *text = NULL;
  out->stdio[0] = PROCESS_NULL;
  if (opt_string(L, index, call, "stdin", &text, input_length)) {
    bool word = strcmp(text, "inherit") == 0 || strcmp(text, "null") == 0;
    out->stdio[0] =
        word ? stdio_read(L, index, "stdin", PROCESS_NULL, &out->paths[0]) : PROCESS_PIPE;
    if (!word && strcmp(text, "pipe") != 0) *input = text;
  }
  luaL_checkstack(L, 20, call);
  out->args = words_push(L, index, "args", out->file);
  int env = lua_getfield(L, index, "env");
  lua_getfield(L, index, "clear_env");
  bool own = env == LUA_TNIL && !lua_toboolean(L, -1);
  lua_pop(L, 2);
  if (!own) out->env = environment_push(L, index);
}

/* Pushes a new Process made by the options at index 1. */
static lua_process *spawn_push(lua_State *L) {
  process_options options = {0};
  const char *input = NULL, *failed = NULL;
  size_t input_length = 0;
  luaL_checktype(L, 1, LUA_TTABLE);
  options_read(L, 1, &options, &input, &input_length);
  lua_process *self = lua_newuserdatauv(L, sizeof *self, 0);
  *self = (lua_process){0};
  luaL_setmetatable(L, METATABLE);
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  self->main = lua_tothread(L, -1);
  lua_pop(L, 1);
  int rc = process_spawn(&task_loop(L)->uv, &options, changed, self, &self->child, &failed);
  if (rc < 0) {
    err_raise(L, &(err_info){.kind = ERR_IO,
                             .code = uv_err_name(rc),
                             .message = lua_pushfstring(L, "process.spawn: %s: %s", failed,
                                                        uv_strerror(rc))});
  }
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, self->child);
  if (input != NULL) {
    process_write(self->child, input, input_length);
    if (!options.pty) process_end_input(self->child); // a terminal stays open for what is typed
  }
  return self;
}

static int lua_process_spawn(lua_State *L) {
  spawn_push(L);
  return 1;
}

/* ---- waiting ---- */

static void push_status(lua_State *L, int64_t status, int signal) {
  lua_createtable(L, 0, 2);
  lua_pushinteger(L, status);
  lua_setfield(L, -2, "status");
  if (signal == 0) return;
  lua_pushinteger(L, signal);
  lua_setfield(L, -2, "signal");
}

typedef struct wait_timer {
  loop_timer *timer;
  task_ticket ticket;
  bool fired;
} wait_timer;

static void wait_timed_out(void *data) {
  wait_timer *self = data;
  self->timer = NULL;
  self->fired = true;
  task_wake(self->ticket);
}

static int wait_timer_gc(lua_State *L) {
  wait_timer *self = lua_touserdata(L, 1);
  loop_timer_stop(task_loop(L), self->timer);
  self->timer = NULL;
  return 0;
}

static int wait_done(lua_State *L, int state, lua_KContext context) {
  (void)state;
  lua_process *self = check(L);
  wait_timer *timer = lua_touserdata(L, 2); // or NULL
  int64_t status;
  int signal;
  if (!process_ended(self->child, &status, &signal)) {
    if (timer != NULL && timer->fired) {
      lua_pushnil(L);
      return 1;
    }
    task_ticket ticket = wait_begin(L, self, "process:wait");
    if (timer != NULL) timer->ticket = ticket;
    return task_wait(L, ticket, NULL, NULL, context, wait_done);
  }
  if (timer != NULL) {
    loop_timer_stop(task_loop(L), timer->timer);
    timer->timer = NULL;
  }
  push_status(L, status, signal);
  return 1;
}

static int lua_process_wait(lua_State *L) {
  check(L);
  lua_settop(L, 2);
  if (!lua_isnil(L, 2)) {
    double seconds = opt_to_duration(L, 2, "process:wait", "timeout");
    wait_timer *timer = lua_newuserdatauv(L, sizeof *timer, 0);
    *timer = (wait_timer){0};
    luaL_setmetatable(L, METATABLE ".timer");
    lua_replace(L, 2);
    timer->timer = loop_timer_start(task_loop(L), seconds, wait_timed_out, timer);
  }
  return wait_done(L, LUA_OK, 0);
}

static int read_done(lua_State *L, int state, lua_KContext context) {
  (void)state;
  lua_process *self = check(L);
  size_t length;
  bool ended;
  const char *bytes = process_peek(self->child, (process_stream)context, &length, &ended);
  if (length == 0 && !ended) {
    task_ticket ticket = wait_begin(L, self, "process:read");
    return task_wait(L, ticket, NULL, NULL, context, read_done);
  }
  if (length == 0) return 0;
  lua_pushlstring(L, bytes, length);
  process_consume(self->child, (process_stream)context, length);
  return 1;
}

static int lua_process_read(lua_State *L) {
  static const char *const names[] = {"stdout", "stderr", NULL};
  check(L);
  int stream = luaL_checkoption(L, 2, "stdout", names);
  return read_done(L, LUA_OK, stream);
}

static void push_rest(lua_State *L, lua_process *self, process_stream stream) {
  size_t length;
  bool ended;
  const char *bytes = process_peek(self->child, stream, &length, &ended);
  lua_pushlstring(L, bytes, length);
  process_consume(self->child, stream, length);
}

static bool collected(lua_State *L, lua_process *self, size_t bound) {
  bool out_ended, err_ended;
  size_t length;
  process_peek(self->child, PROCESS_OUT, &length, &out_ended);
  process_peek(self->child, PROCESS_ERR, &length, &err_ended);
  if (process_full(self->child, PROCESS_OUT, bound) ||
      process_full(self->child, PROCESS_ERR, bound)) {
    process_kill(self->child, SIGKILL);
    err_raisef(L, ERR_LIMIT, NULL,
               "process: more than %d bytes of output; the program was ended. "
               "Read it in pieces with process:read(), or send it to a file",
               (int)bound);
  }
  return out_ended && err_ended;
}

static int read_all_done(lua_State *L, int state, lua_KContext context) {
  (void)state;
  lua_process *self = check(L);
  if (!collected(L, self, COLLECT_BYTES)) {
    task_ticket ticket = wait_begin(L, self, "process:read_all");
    return task_wait(L, ticket, NULL, NULL, context, read_all_done);
  }
  push_rest(L, self, PROCESS_OUT);
  push_rest(L, self, PROCESS_ERR);
  return 2;
}

static int lua_process_read_all(lua_State *L) {
  lua_process *self = check(L);
  process_collect(self->child, PROCESS_OUT, COLLECT_BYTES);
  process_collect(self->child, PROCESS_ERR, COLLECT_BYTES);
  return read_all_done(L, LUA_OK, 0);
}

/* A run that is cancelled takes its program with it. */
static void run_abandon(void *data) {
  lua_process *self = data;
  process_kill(self->child, SIGKILL);
}

static int run_done(lua_State *L, int state, lua_KContext context) { // stack: Process, timer
  (void)state;
  lua_process *self = check(L);
  wait_timer *timer = lua_touserdata(L, 2);
  int64_t status = 0;
  int signal = 0;
  if (timer != NULL && timer->fired) {
    process_kill(self->child, SIGKILL);
    err_raisef(L, ERR_TIMEOUT, NULL, "process.run: the program did not end in time; it was ended");
  }
  if (!collected(L, self, (size_t)context) || !process_ended(self->child, &status, &signal)) {
    task_ticket ticket = wait_begin(L, self, "process.run");
    if (timer != NULL) timer->ticket = ticket;
    return task_wait(L, ticket, run_abandon, self, context, run_done);
  }
  if (timer != NULL) {
    loop_timer_stop(task_loop(L), timer->timer);
    timer->timer = NULL;
  }
  push_status(L, status, signal);
  push_rest(L, self, PROCESS_OUT);
  lua_setfield(L, -2, "stdout");
  push_rest(L, self, PROCESS_ERR);
  lua_setfield(L, -2, "stderr");
  return 1;
}

static int lua_process_run(lua_State *L) {
  double seconds = 0;
  lua_Integer bytes = COLLECT_BYTES;
  lua_settop(L, 1);
  lua_process *self = spawn_push(L);
  lua_rotate(L, 1, 1);
  int options = 2; // stack: Process, options, ...
  opt_integer(L, options, "process.run", "max_bytes", 1, (lua_Integer)1 << 40, &bytes);
  bool timed = opt_duration(L, options, "process.run", "timeout", &seconds);
  lua_settop(L, 1);
  process_collect(self->child, PROCESS_OUT, (size_t)bytes);
  process_collect(self->child, PROCESS_ERR, (size_t)bytes);
  if (timed) {
    wait_timer *timer = lua_newuserdatauv(L, sizeof *timer, 0);
    *timer = (wait_timer){0};
    luaL_setmetatable(L, METATABLE ".timer");
    timer->timer = loop_timer_start(task_loop(L), seconds, wait_timed_out, timer);
  } else {
    lua_pushnil(L);
  }
  return run_done(L, LUA_OK, (lua_KContext)bytes);
}

/* ---- the rest ---- */

static int lua_process_kill(lua_State *L) {
  lua_process *self = check(L);
  int number = lua_isnoneornil(L, 2) ? SIGTERM : host_signal_number(L, 2, "process:kill");
  lua_pushboolean(L, process_kill(self->child, number) == 0);
  return 1;
}

static int lua_process_write(lua_State *L) {
  lua_process *self = check(L);
  size_t length;
  const char *bytes = luaL_checklstring(L, 2, &length);
  int rc = process_write(self->child, bytes, length);
  if (rc < 0) {
    err_raisef(L, ERR_IO, NULL, "process:write: %s; was it spawned with stdin = \"pipe\"?",
               uv_strerror(rc));
  }
  return 0;
}

static int lua_process_end_input(lua_State *L) {
  process_end_input(check(L)->child);
  return 0;
}

static int lua_process_resize(lua_State *L) {
  lua_process *self = check(L);
  lua_Integer rows = luaL_checkinteger(L, 2), columns = luaL_checkinteger(L, 3);
  luaL_argcheck(L, rows > 0 && rows <= 1000, 2, "rows out of range");
  luaL_argcheck(L, columns > 0 && columns <= 1000, 3, "columns out of range");
  int rc = process_resize(self->child, (unsigned short)rows, (unsigned short)columns);
  if (rc < 0) err_raisef(L, ERR_IO, NULL, "process:resize: %s", uv_strerror(rc));
  return 0;
}

static int process_index(lua_State *L) {
  lua_process *self = check(L);
  const char *name = lua_tostring(L, 2);
  if (name != NULL && strcmp(name, "pid") == 0) {
    lua_pushinteger(L, process_pid(self->child));
    return 1;
  }
  lua_pushvalue(L, 2);
  lua_rawget(L, lua_upvalueindex(1));
  return 1;
}

static int process_tostring(lua_State *L) {
  lua_process *self = check(L);
  int64_t status;
  int signal;
  lua_pushfstring(L, "Process %d%s", process_pid(self->child),
                  process_ended(self->child, &status, &signal) ? " (ended)" : "");
  return 1;
}

static const luaL_Reg METHODS[] = {
    {"wait", lua_process_wait},     {"kill", lua_process_kill},
    {"read", lua_process_read},     {"read_all", lua_process_read_all},
    {"write", lua_process_write},   {"end_input", lua_process_end_input},
    {"resize", lua_process_resize}, {NULL, NULL},
};

static const luaL_Reg META[] = {
    {"__gc", process_gc}, {"__tostring", process_tostring}, {NULL, NULL}};

static const luaL_Reg FUNCTIONS[] = {{"spawn", lua_process_spawn},
                                     {"run", lua_process_run},
                                     {"on_signal", host_signal_on},
                                     {NULL, NULL}};

int lua_open_process(lua_State *L) {
  luaL_newmetatable(L, METATABLE ".timer");
  lua_pushcfunction(L, wait_timer_gc);
  lua_setfield(L, -2, "__gc");
  luaL_newmetatable(L, METATABLE);
  luaL_setfuncs(L, META, 0);
  luaL_newlib(L, METHODS);
  lua_pushcclosure(L, process_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 2);
  luaL_newlib(L, FUNCTIONS);
  return 1;
}
