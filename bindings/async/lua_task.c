/* lua_task.c: nebula.task: making, joining, cancelling and listing tasks; sleeping. */
#include "async/task_internal.h"

#include <lauxlib.h>
#include "nebula.h"
#include "base/lua_error.h"
#include "base/lua_options.h"

static task *check_task(lua_State *L, int index) {
  return luaL_checkudata(L, index, TASK_METATABLE);
}

static int lua_task_spawn(lua_State *L) {
  luaL_checkany(L, 1);
  task_create(L, lua_gettop(L) - 1, 0);
  return 1;
}

/* ---- join ---- */

static int join_result(lua_State *L, task *self) {
  lua_State *co = self->thread;
  self->observed = true;
  int count = self->failed ? 1 : lua_gettop(co);
  luaL_checkstack(L, count, "too many results");
  if (!lua_checkstack(co, count)) luaL_error(L, "stack overflow (too many results)");
  for (int i = 0; i < count; i++)
    lua_pushvalue(co, -count);
  lua_xmove(co, L, count);
  return self->failed ? lua_error(L) : count;
}

static int join_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  return join_result(L, check_task(L, 1));
}

static int lua_task_join(lua_State *L) {
  task *self = check_task(L, 1);
  lua_settop(L, 1);
  if (self->state == TASK_ENDED) return join_result(L, self);
  if (self == task_of(L)) {
    err_raisef(L, ERR_SCRIPT, NULL, "a task cannot join itself");
  }
  task_ticket ticket = task_wait_begin(L, "Task:join");
  waiter *place = waiter_new(L);
  waiter_append(&self->joiners, place, ticket);
  return task_wait(L, ticket, waiter_leave, place, 0, join_done);
}

static int lua_task_cancel(lua_State *L) {
  task *self = check_task(L, 1);
  bool living = self->state != TASK_ENDED;
  task_interrupt(self, INTERRUPT_CANCEL);
  if (self == task_of(L) && !task_in_finalizer(L)) task_check_interrupt(L, self);
  lua_pushboolean(L, living);
  return 1;
}

/* ---- a task's fields ---- */

static const char *state_name(const task *self) {
  switch (self->state) {
  case TASK_READY: return "ready";
  case TASK_RUNNING: return "running";
  case TASK_WAITING: return "waiting";
  case TASK_ENDED: break;
  }
  return self->cancelled_end ? "cancelled" : self->failed ? "failed" : "done";
}

static int lua_task_state(lua_State *L) {
  lua_pushstring(L, state_name(check_task(L, 1)));
  return 1;
}

static int lua_task_tostring(lua_State *L) {
  const task *self = check_task(L, 1);
  lua_pushfstring(L, "task %I (%s)", (LUAI_UACINT)self->id, state_name(self));
  return 1;
}

/* An error that nobody joined for must not be lost. */
static int lua_task_gc(lua_State *L) {
  task *self = check_task(L, 1);
  if (self->state != TASK_ENDED || !self->failed || self->observed || self->cancelled_end) return 0;
  self->observed = true;
  lua_State *co = self->thread;
  if (lua_gettop(co) < 1 || !lua_checkstack(co, 1)) return 0;
  lua_pushvalue(co, -1);
  lua_xmove(co, L, 1);
  int error = lua_gettop(L);
  lua_writestringerror("nebula: task %s failed and nobody joined it: ",
                       lua_pushfstring(L, "%I", (LUAI_UACINT)self->id));
  lua_writestringerror("%s\n", luaL_tolstring(L, error, NULL));
  if (err_is(L, error) && lua_getfield(L, error, "traceback") == LUA_TSTRING) {
    lua_writestringerror("%s\n", lua_tostring(L, -1));
  }
  return 0;
}

/* ---- sleep, yield ---- */

typedef struct sleeper {
  loop *loop;
  loop_timer *timer;
  task_ticket ticket;
} sleeper;

static void sleep_over(void *data) {
  sleeper *self = data;
  self->timer = NULL;
  task_wake(self->ticket);
}

static void sleep_abandon(void *data) {
  sleeper *self = data;
  loop_timer_stop(self->loop, self->timer);
  self->timer = NULL;
}

static int nothing_done(lua_State *L, int status, lua_KContext context) {
  (void)L;
  (void)status;
  (void)context;
  return 0;
}

static int lua_task_sleep(lua_State *L) {
  double seconds = opt_to_duration(L, 1, "task.sleep", "the time");
  lua_settop(L, 1);
  task_ticket ticket = task_wait_begin(L, "task.sleep");
  sleeper *self = lua_newuserdatauv(L, sizeof *self, 0);
  *self = (sleeper){.loop = task_loop(L), .ticket = ticket};
  self->timer = loop_timer_start(self->loop, seconds, sleep_over, self);
  if (self->timer == NULL) return luaL_error(L, "not enough memory");
  return task_wait(L, ticket, sleep_abandon, self, 0, nothing_done);
}

typedef struct yielder {
  loop *loop;
  loop_deferred call;
  task_ticket ticket;
} yielder;

static void yielder_wake(void *data) {
  task_wake(((yielder *)data)->ticket);
}

static void yielder_abandon(void *data) {
  yielder *self = data;
  loop_defer_cancel(self->loop, &self->call);
}

/* Lets every other ready task, and the loop, have a turn. */
static int lua_task_yield(lua_State *L) {
  lua_settop(L, 0);
  task_ticket ticket = task_wait_begin(L, "task.yield");
  yielder *self = lua_newuserdatauv(L, sizeof *self, 0);
  *self = (yielder){.loop = task_loop(L), .ticket = ticket};
  self->call = (loop_deferred){.run = yielder_wake, .data = self};
  loop_defer(self->loop, &self->call);
  return task_wait(L, ticket, yielder_abandon, self, 0, nothing_done);
}

/* ---- list, current ---- */

static int lua_task_current(lua_State *L) {
  task_push_current(L);
  return 1;
}

static int lua_task_list(lua_State *L) {
  scheduler *s = task_scheduler(L);
  lua_newtable(L);
  lua_Integer count = 0;
  uint64_t now = uv_hrtime();
  for (uint32_t i = 1; i < s->slot_count; i++) {
    task *self = s->slots[i].task;
    if (self == NULL) continue;
    lua_createtable(L, 0, 6);
    task_push(L, self);
    lua_setfield(L, -2, "task");
    lua_pushinteger(L, (lua_Integer)self->id);
    lua_setfield(L, -2, "id");
    lua_pushstring(L, state_name(self));
    lua_setfield(L, -2, "state");
    lua_pushnumber(L, (double)(now - self->born_ns) / 1e9);
    lua_setfield(L, -2, "age");
    lua_State *at = self->thread;
    if (self->state == TASK_WAITING) {
      lua_pushstring(L, self->wait.what);
      lua_setfield(L, -2, "waits_for");
      at = self->wait.thread; /* the generator that waits, where it is one */
    }
    luaL_traceback(L, at, NULL, 0);
    lua_setfield(L, -2, "traceback");
    lua_rawseti(L, -2, ++count);
  }
  return 1;
}

int lua_open_task(lua_State *L) {
  static const luaL_Reg FUNCTIONS[] = {
      {"spawn", lua_task_spawn},     {"sleep", lua_task_sleep}, {"yield", lua_task_yield},
      {"current", lua_task_current}, {"list", lua_task_list},   {NULL, NULL},
  };
  static const luaL_Reg METHODS[] = {
      {"join", lua_task_join},
      {"cancel", lua_task_cancel},
      {"state", lua_task_state},
      {NULL, NULL},
  };
  static const luaL_Reg METAMETHODS[] = {
      {"__tostring", lua_task_tostring},
      {"__gc", lua_task_gc},
      {NULL, NULL},
  };
  luaL_newmetatable(L, TASK_METATABLE);
  luaL_setfuncs(L, METAMETHODS, 0);
  luaL_newlib(L, METHODS);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  task_scheduler(L); /* after Task's metatable: collected last of all */
  luaL_newlib(L, FUNCTIONS);
  task_open_scope(L);
  task_open_channel(L);
  task_open_coroutine(L);
  return 1;
}
