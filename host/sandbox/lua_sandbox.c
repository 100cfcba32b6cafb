/* lua_sandbox.c: `nebula.sandbox`: load a source into a sandbox, call its functions.
 *
 *   local box <close> = sandbox.load(source, "policies/mine.lua", {instructions = 1000000})
 *   box:call("claim", ctx)
 *
 * Values are copied in and out. A function in a result becomes a handle that can be called like a
 * function, or mapped over a list; a function of the host travels in only where `functions` lists
 * it. */
#include "lua_host.h"

#include <stdio.h>
#include <string.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "sandbox/sandbox.h"

#define METATABLE "nebula.sandbox"
#define HANDLE_METATABLE "nebula.sandbox.function"

enum {
  FUNCTIONS = 1,   /* uservalue: number -> function, and function -> number */
  MAP_MOST = 1000, /* elements of a list */
};

typedef struct lua_sandbox {
  sandbox *box;
  lua_State *caller; /* while a call runs */
  char problem[512];
} lua_sandbox;

/* uservalue 1: its Sandbox */
typedef struct handle {
  lua_sandbox *owner;
  lua_Integer number;
} handle;

/* The Sandbox at an index, in no call. */
static lua_sandbox *check_idle(lua_State *L, int index) {
  lua_sandbox *self = luaL_checkudata(L, index, METATABLE);
  if (self->caller != NULL)
    err_raisef(L, ERR_SCRIPT, NULL,
               "this sandbox is in a call already: a function it calls may not "
               "call or close it");
  return self;
}

static lua_sandbox *check(lua_State *L, int index) {
  lua_sandbox *self = check_idle(L, index);
  if (self->box == NULL) err_raisef(L, ERR_SCRIPT, NULL, "this sandbox is closed");
  return self;
}

static int sandbox_gc(lua_State *L) {
  lua_sandbox *self = check_idle(L, 1);
  sandbox_free(self->box);
  self->box = NULL;
  return 0;
}

static int handle_gc(lua_State *L) {
  handle *self = luaL_checkudata(L, 1, HANDLE_METATABLE);
  if (lua_getiuservalue(L, 1, 1) == LUA_TUSERDATA && self->owner->box != NULL)
    sandbox_forget(self->owner->box, self->number);
  return 0;
}

/* Raises where a status is no success. */
static void check_status(lua_State *L, lua_sandbox *self, sandbox_status status) {
  if (status == SANDBOX_OK) return;
  const char *traceback = sandbox_traceback(self->box);
  err_raise(L, &(err_info){.kind = status == SANDBOX_EXCEEDED ? ERR_LIMIT : ERR_POLICY,
                           .message = sandbox_message(self->box),
                           .detail = *traceback != 0 ? traceback : NULL});
}

/* ---- values ---- */

typedef struct crossing {
  lua_sandbox *self;
  int index; /* of the Sandbox on the stack */
} crossing;

/* A handle goes home as its number; a listed function of the host as its negative one. */
static bool write_function(lua_State *L, void *data, lua_Integer *number) {
  const crossing *at = data;
  const handle *known = luaL_testudata(L, -1, HANDLE_METATABLE);
  if (known != NULL) {
    *number = known->number;
    return known->owner == at->self;
  }
  if (!lua_isfunction(L, -1)) return false;
  lua_getiuservalue(L, at->index, FUNCTIONS);
  lua_pushvalue(L, -2);
  bool listed = lua_rawget(L, -2) == LUA_TNUMBER;
  if (listed) *number = -lua_tointeger(L, -1);
  lua_pop(L, 2);
  return listed;
}

static void read_function(lua_State *L, void *data, lua_Integer number) {
  const crossing *at = data;
  handle *made = lua_newuserdatauv(L, sizeof *made, 1);
  *made = (handle){at->self, number};
  lua_pushvalue(L, at->index);
  lua_setiuservalue(L, -2, 1);
  luaL_setmetatable(L, HANDLE_METATABLE);
}

/* Writes the values from `first` to the top into the arguments. */
static int write_arguments(lua_State *L, lua_sandbox *self, int index, int first) {
  crossing at = {self, index};
  value_buffer *out = sandbox_begin_arguments(self->box);
  int count = lua_gettop(L) - first + 1;
  for (int i = 0; i < count; i++) {
    const char *problem = value_write(L, first + i, out, write_function, &at);
    if (problem != NULL) {
      err_raisef(L, ERR_POLICY, NULL, "argument %d cannot enter the sandbox: %s", i + 1, problem);
    }
  }
  return count;
}

static int push_results(lua_State *L, lua_sandbox *self, int index) {
  crossing at = {self, index};
  const value_buffer *in = sandbox_results(self->box);
  int count = 0;
  for (size_t position = 0; position < in->length; count++)
    value_read(L, in, &position, read_function, &at);
  return count;
}

/* ---- callbacks ---- */

typedef struct callback_call {
  lua_sandbox *self;
  lua_Integer number;
  const value_buffer *in;
  value_buffer *out;
} callback_call;

/* Runs on the caller's state, protected. stack: Sandbox, the call */
static int callback_body(lua_State *L) {
  const callback_call *call = lua_touserdata(L, 2);
  lua_getiuservalue(L, 1, FUNCTIONS);
  lua_rawgeti(L, -1, call->number);
  int function = lua_gettop(L), count = 0;
  for (size_t position = 0; position < call->in->length; count++)
    value_read(L, call->in, &position, NULL, NULL);
  lua_call(L, count, LUA_MULTRET);
  for (int i = function; i <= lua_gettop(L); i++) {
    const char *problem = value_write(L, i, call->out, NULL, NULL);
    if (problem != NULL) return luaL_error(L, "its result cannot enter the sandbox: %s", problem);
  }
  return 0;
}

static bool run_callback(void *data, lua_Integer number, const value_buffer *in, value_buffer *out,
                         const char **problem) {
  lua_sandbox *self = data;
  lua_State *L = self->caller;
  callback_call call = {self, number, in, out};
  *problem = self->problem;
  if (!lua_checkstack(L, 8)) {
    snprintf(self->problem, sizeof self->problem, "the host's stack is full");
    return false;
  }
  lua_pushcfunction(L, callback_body);
  lua_rawgetp(L, LUA_REGISTRYINDEX, self);
  lua_pushlightuserdata(L, &call);
  if (lua_pcall(L, 2, 0, 0) == LUA_OK) return true;
  const char *text = lua_tostring(L, -1);
  if (err_is(L, -1)) {
    lua_pushliteral(L, "message");
    lua_rawget(L, -2);
    lua_replace(L, -2);
    text = lua_tostring(L, -1);
  }
  snprintf(self->problem, sizeof self->problem, "%s",
           text != NULL ? text : "the host's function failed");
  lua_pop(L, 1);
  return false;
}

/* The number of calls that run is one at most; run_callback finds the Sandbox in the registry. */
static void enter(lua_State *L, lua_sandbox *self, int index) {
  lua_pushvalue(L, index);
  lua_rawsetp(L, LUA_REGISTRYINDEX, self);
  self->caller = L;
}

static void leave(lua_State *L, lua_sandbox *self) {
  self->caller = NULL;
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, self);
}

/* ---- load ---- */

static const char *const OPTIONS[] = {"memory",    "instructions", "seconds", "seed",    "globals",
                                      "functions", "modules",      "find",    "payload", NULL};

static void add_functions(lua_State *L, lua_sandbox *self, int options, int index) {
  if (lua_getfield(L, options, "functions") != LUA_TTABLE) return;
  lua_getiuservalue(L, index, FUNCTIONS); // stack: ..., given, numbered
  int numbered = lua_gettop(L);
  lua_Integer count = 0;
  for (lua_pushnil(L); lua_next(L, numbered - 1); lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING || !lua_isfunction(L, -1))
      err_raisef(L, ERR_VALIDATION, NULL, "sandbox.load: functions is a table of name = function");
    count++;
    lua_pushvalue(L, -1);
    lua_rawseti(L, numbered, count);
    lua_pushvalue(L, -1);
    lua_pushinteger(L, count);
    lua_rawset(L, numbered);
    check_status(L, self, sandbox_set_callback(self->box, lua_tostring(L, -2), count));
  }
}

/* Numbers the function that stands in an option; 0 where there is none. */
static lua_Integer number_option(lua_State *L, int options, const char *name, int index) {
  if (lua_getfield(L, options, name) == LUA_TNIL) return 0;
  luaL_checktype(L, -1, LUA_TFUNCTION);
  lua_getiuservalue(L, index, FUNCTIONS);
  lua_pushvalue(L, -2);
  lua_Integer number = luaL_len(L, -2) + 1;
  lua_rawseti(L, -2, number);
  return number;
}

static void add_globals(lua_State *L, lua_sandbox *self, int options, int index) {
  crossing at = {self, index};
  if (lua_getfield(L, options, "globals") != LUA_TTABLE) return;
  for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING)
      err_raisef(L, ERR_VALIDATION, NULL, "sandbox.load: globals is a table of name = value");
    value_buffer *out = sandbox_begin_arguments(self->box);
    const char *problem = value_write(L, -1, out, write_function, &at);
    if (problem != NULL) {
      err_raisef(L, ERR_VALIDATION, NULL, "sandbox.load: globals.%s cannot enter: %s",
                 lua_tostring(L, -2), problem);
    }
    check_status(L, self, sandbox_set_global(self->box, lua_tostring(L, -2)));
  }
}

/* "@name" for a file's name; names that begin with '@' or '=' stay. */
static const char *push_chunk_name(lua_State *L, const char *name) {
  return *name == '@' || *name == '=' ? lua_pushstring(L, name) : lua_pushfstring(L, "@%s", name);
}

static void add_modules(lua_State *L, lua_sandbox *self, int options) {
  if (lua_getfield(L, options, "modules") != LUA_TTABLE) return;
  for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) { // stack: ..., modules, name, entry
    int entry = lua_gettop(L);
    if (lua_istable(L, entry)) {
      lua_getfield(L, entry, "source");
      lua_getfield(L, entry, "chunkname");
    } else {
      lua_pushvalue(L, entry);
      lua_pushvalue(L, entry - 1);
    }
    size_t length;
    const char *source = lua_tolstring(L, entry + 1, &length), *name = lua_tostring(L, entry + 2);
    if (lua_type(L, entry - 1) != LUA_TSTRING || source == NULL || name == NULL) {
      err_raisef(L, ERR_VALIDATION, NULL,
                 "sandbox.load: modules is a table of name = source, or "
                 "name = {source=, chunkname=}");
    }
    const char *chunk = push_chunk_name(L, name);
    const char *key = lua_tostring(L, entry - 1);
    check_status(L, self, sandbox_add_module(self->box, key, source, length, chunk));
    lua_settop(L, entry);
  }
}

/* load(source, chunkname, options) -> Sandbox */
static int lua_sandbox_load(lua_State *L) {
  static const char call[] = "sandbox.load";
  size_t length;
  const char *source = luaL_checklstring(L, 1, &length);
  const char *name = luaL_checkstring(L, 2);
  lua_Integer memory = 16 << 20, instructions = 10000000;
  sandbox_limits limits = {.cpu_seconds = 1};
  lua_settop(L, 3);
  if (lua_isnil(L, 3)) {
    lua_newtable(L);
    lua_replace(L, 3);
  }
  opt_check(L, 3, call, OPTIONS);
  opt_integer(L, 3, call, "memory", 64 << 10, (lua_Integer)1 << 34, &memory);
  opt_integer(L, 3, call, "instructions", 1000, (lua_Integer)1 << 50, &instructions);
  opt_integer(L, 3, call, "seed", LUA_MININTEGER, LUA_MAXINTEGER, &limits.seed);
  opt_duration(L, 3, call, "seconds", &limits.cpu_seconds);
  limits.memory = (size_t)memory;
  limits.instructions = instructions;

  lua_sandbox *self = lua_newuserdatauv(L, sizeof *self, 1);
  *self = (lua_sandbox){0};
  luaL_setmetatable(L, METATABLE);
  int index = lua_gettop(L);
  lua_newtable(L);
  lua_setiuservalue(L, index, FUNCTIONS);
  self->box = sandbox_new(&limits, run_callback, self);
  if (self->box == NULL) err_raisef(L, ERR_LIMIT, NULL, "%s: not enough memory", call);
  add_functions(L, self, 3, index);
  sandbox_set_finder(self->box, number_option(L, 3, "find", index));
  sandbox_set_payload(self->box, number_option(L, 3, "payload", index));
  add_globals(L, self, 3, index);
  add_modules(L, self, 3);
  const char *chunk = push_chunk_name(L, name);
  enter(L, self, index);
  sandbox_status status = sandbox_load(self->box, source, length, chunk);
  leave(L, self);
  check_status(L, self, status);
  lua_settop(L, index);
  return 1;
}

/* record(table) -> the table, marked: it enters a sandbox without its payload, which the sandbox
 * asks the option `payload` for, and comes back as its id. */
static int lua_sandbox_record(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  value_push_record(L);
  lua_setmetatable(L, 1);
  return 1;
}

/* ---- methods ---- */

/* call(path, ...) -> what the function returns */
static int lua_sandbox_call(lua_State *L) {
  lua_sandbox *self = check(L, 1);
  const char *path = luaL_checkstring(L, 2);
  int count = write_arguments(L, self, 1, 3);
  enter(L, self, 1);
  sandbox_status status = sandbox_call(self->box, path, count);
  leave(L, self);
  check_status(L, self, status);
  return push_results(L, self, 1);
}

static int handle_call(lua_State *L) {
  handle *called = luaL_checkudata(L, 1, HANDLE_METATABLE);
  lua_getiuservalue(L, 1, 1);
  lua_insert(L, 1); // stack: Sandbox, handle, arguments
  lua_sandbox *self = check(L, 1);
  int count = write_arguments(L, self, 1, 3);
  enter(L, self, 1);
  sandbox_status status = sandbox_call_number(self->box, called->number, count);
  leave(L, self);
  check_status(L, self, status);
  return push_results(L, self, 1);
}

/* map(list) -> what the function returns for each element: a list with nils where it returns none.
 * One crossing, under the limits of one call. */
static int handle_map(lua_State *L) {
  handle *called = luaL_checkudata(L, 1, HANDLE_METATABLE);
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_Integer length = luaL_len(L, 2);
  luaL_argcheck(L, length <= MAP_MOST, 2, "too long a list");
  luaL_checkstack(L, (int)length + 8, "list");
  lua_settop(L, 2);
  lua_getiuservalue(L, 1, 1); // stack: handle, list, Sandbox
  lua_sandbox *self = check(L, 3);
  for (int i = 1; i <= (int)length; i++)
    lua_rawgeti(L, 2, i);
  int count = write_arguments(L, self, 3, 4);
  lua_settop(L, 3);
  enter(L, self, 3);
  sandbox_status status = sandbox_map_number(self->box, called->number, count);
  leave(L, self);
  check_status(L, self, status);
  lua_createtable(L, count, 0);
  push_results(L, self, 3);
  for (int i = count; i > 0; i--)
    lua_rawseti(L, 4, i);
  return 1;
}

/* describe() -> the table that the source returned; its functions as handles */
static int lua_sandbox_describe(lua_State *L) {
  lua_sandbox *self = check(L, 1);
  check_status(L, self, sandbox_describe(self->box));
  return push_results(L, self, 1);
}

static int lua_sandbox_seed(lua_State *L) {
  sandbox_seed(check(L, 1)->box, luaL_checkinteger(L, 2));
  return 0;
}

static int lua_sandbox_memory(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)sandbox_memory(check(L, 1)->box));
  return 1;
}

static const luaL_Reg METHODS[] = {{"call", lua_sandbox_call}, {"describe", lua_sandbox_describe},
                                   {"seed", lua_sandbox_seed}, {"memory", lua_sandbox_memory},
                                   {"close", sandbox_gc},      {NULL, NULL}};

static const luaL_Reg META[] = {{"__gc", sandbox_gc}, {"__close", sandbox_gc}, {NULL, NULL}};
static const luaL_Reg HANDLE_METHODS[] = {{"map", handle_map}, {NULL, NULL}};
static const luaL_Reg HANDLE_META[] = {{"__gc", handle_gc}, {"__call", handle_call}, {NULL, NULL}};

int lua_open_sandbox(lua_State *L) {
  luaL_newmetatable(L, METATABLE);
  luaL_setfuncs(L, META, 0);
  luaL_newlib(L, METHODS);
  lua_setfield(L, -2, "__index");
  luaL_newmetatable(L, HANDLE_METATABLE);
  luaL_setfuncs(L, HANDLE_META, 0);
  luaL_newlib(L, HANDLE_METHODS);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 2);
  lua_createtable(L, 1, 0);
  value_set_record(L, false);
  lua_createtable(L, 0, 2);
  lua_pushcfunction(L, lua_sandbox_load);
  lua_setfield(L, -2, "load");
  lua_pushcfunction(L, lua_sandbox_record);
  lua_setfield(L, -2, "record");
  return 1;
}
