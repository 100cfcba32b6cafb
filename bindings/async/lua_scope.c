/* lua_scope.c: boundaries on a task's stack: scope (a nursery of child tasks), deadline, and map.
 *
 * A scope ends when its body and every child have ended. The first error, of the body or of a
 * child, cancels the rest and is raised at the end; an interrupt from outside cancels the children
 * and waits for them before it goes on. The wait for children is shielded: nothing ends it but
 * their end (https://en.wikipedia.org/wiki/Structured_concurrency). */
#include "async/task_internal.h"

#include <math.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "base/lua_options.h"

#define SCOPE_METATABLE "nebula.scope"
#define DEADLINE_METATABLE "nebula.deadline"
#define MAP_CONCURRENCY 16

static bool succeeded(int status) {
  return status == LUA_OK || status == LUA_YIELD;
}

static boundary *boundary_new(lua_State *L, const char *metatable) {
  boundary *self = lua_newuserdatauv(L, sizeof *self, 1);
  *self = (boundary){0};
  luaL_setmetatable(L, metatable);
  return self;
}

/* Reached unleft where a generator was abandoned in the middle of the call. */
static int boundary_gc(lua_State *L) {
  boundary_leave(lua_touserdata(L, 1));
  return 0;
}

/* ---- scope ---- */

static void scope_cancel_children(const boundary *self) {
  for (task *child = self->children; child != NULL; child = child->sibling_next) {
    task_interrupt(child, INTERRUPT_CANCEL);
  }
}

static void scope_cancel(void *data) {
  boundary *self = data;
  self->cancelled = true;
  scope_cancel_children(self);
}

/* stack: handler, scope, body's results; or handler, scope, error. The children have ended. */
static int scope_end(lua_State *L, bool body_ok, lua_KContext serial) {
  boundary *self = lua_touserdata(L, 2);
  boundary_leave(self);
  if (self->failed) { /* a child was first: its error, unless something goes further out */
    lua_getiuservalue(L, 2, 1);
    const task *child = lua_touserdata(L, -1);
    if (!lua_checkstack(child->thread, 1)) return luaL_error(L, "stack overflow");
    lua_pushvalue(child->thread, -1);
    lua_xmove(child->thread, L, 1);
    task_protect_caught(L, serial);
    return lua_error(L);
  }
  if (!body_ok) {
    task_protect_caught(L, serial);
    return lua_error(L);
  }
  task *owner = task_of(L);
  if (owner != NULL) task_check_interrupt(L, owner);
  return lua_gettop(L) - 2;
}

static int scope_joined_ok(lua_State *L, int status, lua_KContext serial) {
  (void)status;
  return scope_end(L, true, serial);
}

static int scope_joined_failed(lua_State *L, int status, lua_KContext serial) {
  (void)status;
  return scope_end(L, false, serial);
}

static int scope_body_done(lua_State *L, int status, lua_KContext serial) {
  boundary *self = lua_touserdata(L, 2);
  bool ok = succeeded(status);
  const task *owner = self->owner;
  self->closed = true;
  self->body_failed = !ok && !self->failed;
  if (!ok || (owner != NULL && owner->unwinding == UNWIND_PENDING)) scope_cancel(self);
  if (self->living == 0) return scope_end(L, ok, serial);
  self->joiner = task_wait_begin_shielded(L, "the end of a scope's tasks");
  return task_wait_shielded(L, self->joiner, scope_cancel, self, serial,
                            ok ? scope_joined_ok : scope_joined_failed);
}

/* task.scope(function(scope) ... end) -> what the function returns */
static int task_scope(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  task_wait_begin(L, "task.scope"); /* a place that cannot wait is refused before children exist */
  lua_KContext serial = task_protect_enter(L);
  lua_pushcfunction(L, err_handler);
  lua_insert(L, 1);
  boundary *self = boundary_new(L, SCOPE_METATABLE);
  lua_insert(L, 2);
  lua_pushvalue(L, 2); // stack: handler, scope, fn, scope
  boundary_enter(L, self);
  return scope_body_done(L, lua_pcallk(L, 1, LUA_MULTRET, 1, serial, scope_body_done), serial);
}

static int scope_spawn(lua_State *L) {
  boundary *self = luaL_checkudata(L, 1, SCOPE_METATABLE);
  if (self->closed && self->living == 0) {
    err_raisef(L, ERR_SCRIPT, NULL, "the scope has ended: it takes no more tasks");
  }
  task_create(L, lua_gettop(L) - 2, 1);
  task *child = lua_touserdata(L, -1);
  if (self->failed) task_interrupt(child, INTERRUPT_SIBLING);
  if (self->cancelled) task_interrupt(child, INTERRUPT_CANCEL);
  return 1;
}

static int scope_cancel_all(lua_State *L) {
  scope_cancel_children(luaL_checkudata(L, 1, SCOPE_METATABLE));
  return 0;
}

/* ---- deadline ---- */

static void deadline_passed(void *data) {
  boundary *self = data;
  self->timer = NULL;
  boundary_interrupt(self, INTERRUPT_DEADLINE);
}

static int deadline_done(lua_State *L, int status, lua_KContext serial) {
  boundary *self = lua_touserdata(L, 2); // stack: handler, deadline, results | error
  bool ours = boundary_leave(self);
  if (succeeded(status)) return lua_gettop(L) - 2;
  if (!ours) task_protect_caught(L, serial);
  if (ours) task_keep_interrupt(L, task_of(L), self);
  return lua_error(L);
}

static int task_deadline(lua_State *L);

/* A main chunk that is no task has nothing to interrupt: a task does the work for it. */
static int deadline_outside(lua_State *L) {
  task_wait_begin(L, "task.deadline"); /* where it cannot wait nothing begins */
  lua_pushcfunction(L, task_deadline);
  lua_insert(L, 1);
  task_create(L, lua_gettop(L) - 1, 0);
  lua_getfield(L, -1, "join");
  lua_insert(L, -2);
  lua_call(L, 1, LUA_MULTRET);
  return lua_gettop(L);
}

/* task.deadline(seconds, fn, ...) -> what fn returns; raises `timeout` where it took longer */
static int task_deadline(lua_State *L) {
  double seconds = opt_to_duration(L, 1, "task.deadline", "the time");
  luaL_checktype(L, 2, LUA_TFUNCTION);
  if (task_of(L) == NULL) return deadline_outside(L);
  lua_pushcfunction(L, err_handler);
  lua_replace(L, 1);
  lua_KContext serial = task_protect_enter(L);
  boundary *self = boundary_new(L, DEADLINE_METATABLE);
  lua_insert(L, 2); // stack: handler, deadline, fn, arguments
  self->seconds = seconds;
  self->due_ns = uv_hrtime() + (uint64_t)fmin(seconds * 1e9, 9e18);
  self->timer = loop_timer_start(task_loop(L), seconds, deadline_passed, self);
  if (self->timer == NULL) return luaL_error(L, "not enough memory");
  boundary_enter(L, self);
  int status = lua_pcallk(L, lua_gettop(L) - 3, LUA_MULTRET, 1, serial, deadline_done);
  return deadline_done(L, status, serial);
}

/* ---- map ---- */

/* upvalues of the body and of each worker: list, fn, results, {next, size, workers} */
typedef struct map_state {
  lua_Integer next, size, workers;
} map_state;

static int map_worker_again(lua_State *L, int status, lua_KContext index);

static int map_worker(lua_State *L) {
  map_state *state = lua_touserdata(L, lua_upvalueindex(4));
  lua_settop(L, 0);
  while (state->next < state->size) {
    lua_Integer index = ++state->next;
    lua_pushvalue(L, lua_upvalueindex(2));
    lua_geti(L, lua_upvalueindex(1), index);
    lua_pushinteger(L, index);
    lua_callk(L, 2, 1, (lua_KContext)index, map_worker_again);
    lua_seti(L, lua_upvalueindex(3), index);
  }
  return 0;
}

static int map_worker_again(lua_State *L, int status, lua_KContext index) {
  (void)status;
  lua_seti(L, lua_upvalueindex(3), (lua_Integer)index);
  return map_worker(L);
}

static int map_body(lua_State *L) { // stack: scope
  const map_state *state = lua_touserdata(L, lua_upvalueindex(4));
  for (lua_Integer i = 0; i < state->workers; i++) {
    for (int up = 1; up <= 4; up++)
      lua_pushvalue(L, lua_upvalueindex(up));
    lua_pushcclosure(L, map_worker, 4);
    task_create(L, 0, 1);
    lua_pop(L, 1);
  }
  return 0;
}

static int map_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  lua_settop(L, 1);
  return 1;
}

/* A metatable by which `results.n` tells the length, which pairs and json.encode do not see. */
static void push_length(lua_State *L, lua_Integer size) {
  lua_createtable(L, 0, 1);
  lua_createtable(L, 0, 1);
  lua_pushinteger(L, size);
  lua_setfield(L, -2, "n"); // stack: metatable, index
  lua_setfield(L, -2, "__index");
}

/* task.map(list, fn, {concurrency=16}) -> {fn(list[1], 1), ...}, with n=#list */
static int task_map(lua_State *L) {
  static const char *const NAMES[] = {"concurrency", NULL};
  luaL_checktype(L, 1, LUA_TTABLE);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_settop(L, 3);
  opt_check(L, 3, "task.map", NAMES);
  lua_Integer workers = MAP_CONCURRENCY;
  opt_integer(L, 3, "task.map", "concurrency", 1, 1000000, &workers);
  lua_Integer size = luaL_len(L, 1);
  lua_createtable(L, size < 1000000 ? (int)size : 0, 0);
  push_length(L, size);
  lua_setmetatable(L, -2);
  lua_replace(L, 3);
  lua_pushvalue(L, 3); // stack: list, fn, results, results
  lua_insert(L, 1);    // stack: results, list, fn, results
  map_state *state = lua_newuserdatauv(L, sizeof *state, 0);
  *state = (map_state){.size = size, .workers = workers < size ? workers : size};
  lua_pushcclosure(L, map_body, 4); // stack: results, body
  lua_pushcfunction(L, task_scope);
  lua_insert(L, -2);
  lua_callk(L, 1, 0, 0, map_done);
  return map_done(L, LUA_OK, 0);
}

void task_open_scope(lua_State *L) {
  static const luaL_Reg FUNCTIONS[] = {
      {"scope", task_scope}, {"deadline", task_deadline}, {"map", task_map}, {NULL, NULL}};
  static const luaL_Reg METHODS[] = {
      {"spawn", scope_spawn}, {"cancel", scope_cancel_all}, {NULL, NULL}};
  luaL_newmetatable(L, DEADLINE_METATABLE);
  lua_pushcfunction(L, boundary_gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
  luaL_newmetatable(L, SCOPE_METATABLE);
  lua_pushcfunction(L, boundary_gc);
  lua_setfield(L, -2, "__gc");
  luaL_newlib(L, METHODS);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  luaL_setfuncs(L, FUNCTIONS, 0);
}
