/* sandbox.c: the limits, and calls into the state. Every use of the inner state is inside a
 * protected call; what may fail outside of it does not touch the state. */
#include "sandbox/sandbox.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <lauxlib.h>
#include <lualib.h>

enum {
  HOOK_INSTRUCTIONS = 256,
  CLOCK_INSTRUCTIONS = 4096,  /* between two looks at the clock, which is a system call */
  COPIED_AN_INSTRUCTION = 64, /* bytes */
  MESSAGE_MOST = 1024,
  TRACEBACK_MOST = 4096,
};

typedef struct source_text {
  const char *name, *text, *chunk;
  size_t length;
} source_text;

struct sandbox {
  lua_State *L;
  size_t memory, memory_most;
  sandbox_limits limits;
  int64_t left;
  int64_t unclocked;    /* work since the last look at the clock */
  int64_t cpu_end_ns;   /* 0: this call has not come to the clock yet */
  const char *exceeded; /* what, or NULL */
  value_buffer arguments, results;
  sandbox_callback *callback;
  void *data;
  char message[MESSAGE_MOST], traceback[TRACEBACK_MOST];
  /* what the operation under way is about: */
  const char *path;
  const source_text *source;
  lua_Integer called;  /* a function's number, where it has no path */
  int count;           /* of the arguments */
  lua_Integer finder;  /* the callback that finds a policy's source, or 0 */
  lua_Integer payload; /* the callback that gives a record's payload, or 0 */
};

static const char EXPORTS; /* registry: the chunk's table */
static const char NUMBERS; /* registry: number -> function that left in a result */
static const char SOURCES; /* registry: name -> {source, chunk name}, or the loaded table */

/* ---- limits ---- */

/* What a block takes of the allocator: its size classes are 16 bytes, later an eighth apart. */
static size_t taken(size_t size) {
  return size < 1024 ? (size + 15) & ~(size_t)15 : size + size / 8;
}

/* What may be allocated still. */
static size_t memory_left(const sandbox *self) {
  size_t used = self->memory + self->arguments.capacity + self->results.capacity;
  return used < self->memory_most ? self->memory_most - used : 0;
}

static void *allocate(void *data, void *block, size_t old, size_t size) {
  sandbox *self = data;
  if (block == NULL) old = 0; // then it is a kind, not a size
  if (size == 0) {
    self->memory -= taken(old);
    free(block);
    return NULL;
  }
  // A block that grows is copied: for a moment there are both.
  if (size > old && taken(size) > memory_left(self)) return NULL;
  void *grown = realloc(block, size);
  if (grown == NULL) return NULL;
  self->memory = self->memory - taken(old) + taken(size);
  self->unclocked += (int64_t)(size / COPIED_AN_INSTRUCTION);
  return grown;
}

/* Empties a buffer, which gets what memory is left when garbage is out of the way. `leaves`: its
 * values go to the host, out of the allocator's sight. */
static void begin(sandbox *self, value_buffer *buffer, bool leaves) {
  value_buffer_begin(buffer, 0, leaves);
  if (memory_left(self) < self->memory_most / 2) lua_gc(self->L, LUA_GCCOLLECT, 0);
  buffer->limit = memory_left(self);
}

static int64_t cpu_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

sandbox *sandbox_of(lua_State *L) {
  return *(sandbox **)lua_getextraspace(L);
}

static void hook(lua_State *L, lua_Debug *where) {
  (void)where;
  if (sandbox_of(L)->exceeded == NULL && lua_gethookcount(L) == 1)
    lua_sethook(L, hook, LUA_MASKCOUNT, HOOK_INSTRUCTIONS); // a coroutine of an earlier call
  sandbox_charge(L, HOOK_INSTRUCTIONS);
}

bool sandbox_spend(sandbox *self, int64_t instructions) {
  self->left -= instructions;
  self->unclocked += instructions;
  if (self->exceeded != NULL) return false;
  if (self->left < 0) {
    self->exceeded = "its budget of instructions";
  } else if (self->unclocked >= CLOCK_INSTRUCTIONS) {
    int64_t now = cpu_ns();
    self->unclocked = 0;
    if (self->cpu_end_ns == 0) self->cpu_end_ns = now + (int64_t)(self->limits.cpu_seconds * 1e9);
    if (now > self->cpu_end_ns) self->exceeded = "its time";
  }
  return self->exceeded == NULL;
}

void sandbox_charge(lua_State *L, int64_t instructions) {
  sandbox *self = sandbox_of(L);
  if (sandbox_spend(self, instructions)) return;
  lua_sethook(L, hook, LUA_MASKCOUNT, 1); // from now on every instruction raises
  luaL_error(L, "the code has used up %s", self->exceeded);
}

static void arm(sandbox *self) {
  self->exceeded = NULL;
  self->left = self->limits.instructions;
  self->unclocked = self->cpu_end_ns = 0;
  lua_sethook(self->L, hook, LUA_MASKCOUNT, HOOK_INSTRUCTIONS);
}

/* ---- protected calls ---- */

static int message_handler(lua_State *L) {
  sandbox *self = sandbox_of(L);
  if (lua_type(L, 1) != LUA_TSTRING) {
    if (self->exceeded != NULL) return 1; // under the armed hook no __tostring runs
    luaL_tolstring(L, 1, NULL);
  }
  luaL_traceback(L, L, NULL, 1);
  snprintf(self->traceback, sizeof self->traceback, "%s", lua_tostring(L, -1));
  lua_pop(L, 1);
  return 1;
}

/* Runs a C function of the sandbox's own under all limits. */
static sandbox_status protect(sandbox *self, lua_CFunction function) {
  lua_State *L = self->L;
  *self->traceback = *self->message = 0;
  arm(self);
  if (!lua_checkstack(L, 8)) return SANDBOX_EXCEEDED;
  lua_pushcfunction(L, message_handler);
  lua_pushcfunction(L, function);
  int status = lua_pcall(L, 0, 0, -2);
  lua_sethook(L, NULL, 0, 0);
  sandbox_status result = SANDBOX_OK;
  if (status == LUA_ERRMEM) {
    snprintf(self->message, sizeof self->message, "the code has used up its memory (%zu bytes)",
             self->limits.memory);
    result = SANDBOX_EXCEEDED;
  } else if (status != LUA_OK) {
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "error without text";
    snprintf(self->message, sizeof self->message, "%s", text);
    result = self->exceeded != NULL ? SANDBOX_EXCEEDED : SANDBOX_FAILED;
  }
  lua_settop(L, 0);
  return result;
}

/* ---- functions that cross ---- */

/* A function that leaves in a result is kept under a number. */
static bool write_function(lua_State *L, void *data, lua_Integer *number) {
  (void)data;
  if (!lua_isfunction(L, -1)) return false;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &NUMBERS);
  lua_pushvalue(L, -2);
  *number = luaL_ref(L, -2);
  lua_pop(L, 1);
  return true;
}

/* The arguments of the operation under way have been read: their buffer is free for this. */
static int call_host(lua_State *L) {
  sandbox *self = sandbox_of(L);
  int count = lua_gettop(L);
  const char *problem = NULL;
  begin(self, &self->arguments, true);
  for (int i = 1; i <= count && problem == NULL; i++)
    problem = value_write(L, i, &self->arguments, NULL, NULL);
  begin(self, &self->results, false);
  lua_Integer number = lua_tointeger(L, lua_upvalueindex(1));
  if (problem != NULL ||
      !self->callback(self->data, number, &self->arguments, &self->results, &problem))
    return luaL_error(L, "%s", problem);
  lua_settop(L, 0);
  for (size_t at = 0; at < self->results.length;)
    value_read(L, &self->results, &at, NULL, NULL);
  return lua_gettop(L);
}

/* Numbers above zero are functions of this state, below zero callbacks of the host. */
static void read_function(lua_State *L, void *data, lua_Integer number) {
  (void)data;
  if (number < 0) {
    lua_pushinteger(L, -number);
    lua_pushcclosure(L, call_host, 1);
    return;
  }
  lua_rawgetp(L, LUA_REGISTRYINDEX, &NUMBERS);
  lua_rawgeti(L, -1, number);
  lua_remove(L, -2);
}

static int read_arguments(lua_State *L, sandbox *self) {
  size_t at = 0;
  int count = 0;
  luaL_checkstack(L, self->count + 4, "too many arguments");
  for (; at < self->arguments.length; count++)
    value_read(L, &self->arguments, &at, read_function, self);
  return count;
}

static void write_results(lua_State *L, sandbox *self, int first) {
  begin(self, &self->results, true);
  for (int i = first; i <= lua_gettop(L); i++) {
    const char *problem = value_write(L, i, &self->results, write_function, NULL);
    if (problem != NULL) luaL_error(L, "its result %d cannot leave: %s", i - first + 1, problem);
  }
}

/* ---- making ---- */

/* Asks the host for a source by its name. Leaves {source=, chunk=} on the stack. */
static void find_source(lua_State *L, sandbox *self, const char *name) {
  const char *problem = NULL;
  begin(self, &self->arguments, true);
  lua_pushstring(L, name);
  problem = value_write(L, -1, &self->arguments, NULL, NULL);
  lua_pop(L, 1);
  begin(self, &self->results, false);
  if (problem != NULL ||
      !self->callback(self->data, self->finder, &self->arguments, &self->results, &problem))
    luaL_error(L, "%s", problem);
  lua_createtable(L, 0, 2);
  size_t at = 0;
  if (self->results.length > 0) value_read(L, &self->results, &at, NULL, NULL);
  if (at == 0 || lua_type(L, -1) != LUA_TSTRING) luaL_error(L, "there is no policy \"%s\"", name);
  lua_setfield(L, -2, "source");
  lua_pushfstring(L, "=policy %s", name);
  if (at < self->results.length) {
    value_read(L, &self->results, &at, NULL, NULL);
    if (lua_type(L, -1) == LUA_TSTRING) lua_pushfstring(L, "@%s", lua_tostring(L, -1));
    lua_replace(L, 4);
    lua_settop(L, 4);
  } // stack: name, sources, entry, chunk
  lua_setfield(L, 3, "chunk");
}

/* policy(name): another source as a plain table, run once. */
static int load_policy(lua_State *L) {
  sandbox *self = sandbox_of(L);
  const char *name = luaL_checkstring(L, 1);
  lua_settop(L, 1);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &SOURCES);
  int type = lua_getfield(L, 2, name); // stack: name, sources, entry
  if (type == LUA_TBOOLEAN) return luaL_error(L, "policy \"%s\" loads itself", name);
  if (type == LUA_TNIL) {
    if (self->finder == 0) return luaL_error(L, "there is no policy \"%s\"", name);
    lua_settop(L, 2);
    find_source(L, self, name);
  }
  if (lua_getfield(L, 3, "source") != LUA_TSTRING) {
    lua_getfield(L, 3, "loaded");
    return 1;
  }
  size_t length;
  const char *source = lua_tolstring(L, -1, &length);
  lua_getfield(L, 3, "chunk");
  if (luaL_loadbufferx(L, source, length, lua_tostring(L, -1), "t") != LUA_OK) return lua_error(L);
  lua_pushboolean(L, 1);
  lua_setfield(L, 2, name); // under way
  lua_call(L, 0, 1);
  if (!lua_istable(L, -1)) return luaL_error(L, "policy \"%s\" returns no table", name);
  lua_createtable(L, 0, 1);
  lua_pushvalue(L, -2);
  lua_setfield(L, -2, "loaded");
  lua_setfield(L, 2, name);
  return 1;
}

/* __index of a record: its payload, which the host is asked for once. */
static int record_index(lua_State *L) {
  sandbox *self = sandbox_of(L);
  const char *problem = NULL;
  if (self->payload == 0 || lua_type(L, 2) != LUA_TSTRING ||
      strcmp(lua_tostring(L, 2), "payload") != 0)
    return 0;
  lua_pushliteral(L, "id");
  lua_rawget(L, 1);
  begin(self, &self->arguments, true);
  problem = value_write(L, -1, &self->arguments, NULL, NULL);
  begin(self, &self->results, false);
  if (problem != NULL ||
      !self->callback(self->data, self->payload, &self->arguments, &self->results, &problem))
    return luaL_error(L, "%s", problem);
  size_t at = 0;
  if (self->results.length == 0) return 0;
  value_read(L, &self->results, &at, NULL, NULL);
  lua_pushvalue(L, 2);
  lua_pushvalue(L, -2);
  lua_rawset(L, 1);
  return 1;
}

static void set_record(lua_State *L) {
  lua_createtable(L, 1, 2);
  lua_pushcfunction(L, record_index);
  lua_setfield(L, -2, "__index");
  lua_pushboolean(L, 0); // what getmetatable gives, and setmetatable refuses to change
  lua_setfield(L, -2, "__metatable");
  value_set_record(L, true);
}

static int open_state(lua_State *L) {
  set_record(L);
  sandbox_open_libraries(L, sandbox_of(L)->limits.seed);
  lua_newtable(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &NUMBERS);
  lua_newtable(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &SOURCES);
  lua_pushcfunction(L, load_policy);
  lua_setglobal(L, "policy");
  return 0;
}

sandbox *sandbox_new(const sandbox_limits *limits, sandbox_callback *callback, void *data) {
  sandbox *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  self->limits = *limits;
  self->memory_most = SIZE_MAX;
  self->callback = callback;
  self->data = data;
  self->L = lua_newstate(allocate, self);
  if (self->L == NULL) {
    free(self);
    return NULL;
  }
  *(sandbox **)lua_getextraspace(self->L) = self; // its coroutines copy it
  if (protect(self, open_state) != SANDBOX_OK) {
    sandbox_free(self);
    return NULL;
  }
  self->memory_most = limits->memory;
  return self;
}

void sandbox_free(sandbox *self) {
  if (self == NULL) return;
  lua_close(self->L);
  value_buffer_free(&self->arguments);
  value_buffer_free(&self->results);
  free(self);
}

value_buffer *sandbox_begin_arguments(sandbox *self) {
  begin(self, &self->arguments, false);
  return &self->arguments;
}

const value_buffer *sandbox_results(const sandbox *self) {
  return &self->results;
}

const char *sandbox_message(const sandbox *self) {
  return self->message;
}

const char *sandbox_traceback(const sandbox *self) {
  return self->traceback;
}

size_t sandbox_memory(const sandbox *self) {
  return self->memory;
}

/* ---- operations; what they are about lies in the sandbox ---- */

static int do_set_global(lua_State *L) {
  sandbox *self = sandbox_of(L);
  read_arguments(L, self);
  lua_settop(L, 1);
  lua_setglobal(L, self->path);
  return 0;
}

sandbox_status sandbox_set_global(sandbox *self, const char *name) {
  self->path = name;
  return protect(self, do_set_global);
}

static int do_set_callback(lua_State *L) {
  sandbox *self = sandbox_of(L);
  read_function(L, self, -self->called);
  lua_setglobal(L, self->path);
  return 0;
}

sandbox_status sandbox_set_callback(sandbox *self, const char *name, lua_Integer number) {
  self->path = name;
  self->called = number;
  return protect(self, do_set_callback);
}

static int do_add_module(lua_State *L) {
  const source_text *source = sandbox_of(L)->source;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &SOURCES);
  lua_createtable(L, 0, 2);
  lua_pushlstring(L, source->text, source->length);
  lua_setfield(L, -2, "source");
  lua_pushstring(L, source->chunk);
  lua_setfield(L, -2, "chunk");
  lua_setfield(L, -2, source->name);
  return 0;
}

void sandbox_set_finder(sandbox *self, lua_Integer number) {
  self->finder = number;
}

void sandbox_set_payload(sandbox *self, lua_Integer number) {
  self->payload = number;
}

sandbox_status sandbox_add_module(sandbox *self, const char *name, const char *source,
                                  size_t length, const char *chunk) {
  source_text text = {name, source, chunk, length};
  self->source = &text;
  return protect(self, do_add_module);
}

static int do_load(lua_State *L) {
  const source_text *source = sandbox_of(L)->source;
  if (luaL_loadbufferx(L, source->text, source->length, source->chunk, "t") != LUA_OK)
    return lua_error(L);
  lua_call(L, 0, 1);
  if (!lua_istable(L, -1)) return luaL_error(L, "%s returns no table", source->chunk + 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &EXPORTS);
  return 0;
}

sandbox_status sandbox_load(sandbox *self, const char *source, size_t length, const char *chunk) {
  source_text text = {NULL, source, chunk, length};
  self->source = &text;
  return protect(self, do_load);
}

/* Pushes what stands at the path. */
static void push_path(lua_State *L, const char *path) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &EXPORTS);
  for (const char *name = path; *name != 0;) {
    size_t length = strcspn(name, ".");
    if (!lua_istable(L, -1)) luaL_error(L, "there is no function \"%s\"", path);
    lua_pushlstring(L, name, length);
    lua_gettable(L, -2);
    lua_remove(L, -2);
    name += length + (name[length] == '.');
  }
  if (!lua_isfunction(L, -1)) luaL_error(L, "there is no function \"%s\"", path);
}

static int do_call(lua_State *L) {
  sandbox *self = sandbox_of(L);
  if (self->path != NULL) {
    push_path(L, self->path);
  } else {
    read_function(L, self, self->called);
  }
  int count = read_arguments(L, self);
  lua_call(L, count, LUA_MULTRET);
  write_results(L, self, 1);
  return 0;
}

sandbox_status sandbox_call(sandbox *self, const char *path, int count) {
  self->path = path;
  self->count = count;
  return protect(self, do_call);
}

sandbox_status sandbox_call_number(sandbox *self, lua_Integer number, int count) {
  self->path = NULL;
  self->count = count;
  self->called = number;
  return protect(self, do_call);
}

/* All arguments are read before the first call: one that calls the host uses their buffer. */
static int do_map(lua_State *L) {
  sandbox *self = sandbox_of(L);
  int count = read_arguments(L, self);
  luaL_checkstack(L, 4, "too many arguments");
  read_function(L, self, self->called);
  for (int i = 1; i <= count; i++) {
    lua_pushvalue(L, count + 1);
    lua_pushvalue(L, i);
    lua_call(L, 1, 1);
    lua_replace(L, i);
  }
  lua_settop(L, count);
  write_results(L, self, 1);
  return 0;
}

sandbox_status sandbox_map_number(sandbox *self, lua_Integer number, int count) {
  self->count = count;
  self->called = number;
  return protect(self, do_map);
}

static int do_describe(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &EXPORTS);
  write_results(L, sandbox_of(L), 1);
  return 0;
}

sandbox_status sandbox_describe(sandbox *self) {
  return protect(self, do_describe);
}

static int do_seed(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, "randomseed");
  lua_pushinteger(L, sandbox_of(L)->limits.seed);
  lua_call(L, 1, 0);
  return 0;
}

void sandbox_seed(sandbox *self, lua_Integer seed) {
  self->limits.seed = seed;
  protect(self, do_seed);
}

void sandbox_forget(sandbox *self, lua_Integer number) {
  lua_State *L = self->L; // setting an existing element allocates nothing
  lua_rawgetp(L, LUA_REGISTRYINDEX, &NUMBERS);
  luaL_unref(L, -1, (int)number);
  lua_pop(L, 1);
}
