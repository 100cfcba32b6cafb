/* task_host.c: running a program's main task. The contract is in task_host.h. */
#include "async/task_host.h"

#include <lauxlib.h>
#include <lualib.h>
#include "async/lua_protect.h"
#include "async/task_internal.h"

void task_host_install(lua_State *L) {
  lua_pushglobaltable(L);
  task_open_protect(L);
  lua_newtable(L);
  task_open_coroutine(L);
  lua_getfield(L, -1, "coroutine"); // stack: globals, table, coroutine
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushvalue(L, -2);
  lua_setfield(L, -2, LUA_COLIBNAME);
  lua_pop(L, 1);
  lua_setfield(L, -3, LUA_COLIBNAME);
  lua_pop(L, 2);
}

bool task_host_run(lua_State *L, int nargs) {
  scheduler *s = task_scheduler(L);
  int base = lua_gettop(L) - nargs;
  task *self = task_create(L, nargs, 0); // stack: ..., Task at base
  s->foreground = self;
  s->turning = true;
  while (self->state != TASK_ENDED) {
    if (!task_turn(s, true)) task_interrupt(self, INTERRUPT_DEADLOCK);
  }
  s->turning = false;
  self->observed = true;
  bool ok = !self->failed;
  int count = ok ? lua_gettop(self->thread) : 1;
  if (!lua_checkstack(L, count) || !lua_checkstack(self->thread, count)) count = 0;
  for (int i = 0; i < count; i++)
    lua_pushvalue(self->thread, -count);
  lua_xmove(self->thread, L, count);
  lua_remove(L, base);
  return ok;
}

static void cancel_all(scheduler *s) {
  for (uint32_t i = 1; i < s->slot_count; i++) {
    if (s->slots[i].task != NULL) task_interrupt(s->slots[i].task, INTERRUPT_CANCEL);
  }
}

/* Clean-ups may spawn tasks in their turn, but have had their time. */
static void drain_over(void *data) {
  scheduler *s = data;
  s->ending = true;
  cancel_all(s);
}

void task_host_drain(lua_State *L) {
  scheduler *s = task_scheduler(L);
  if (s->living == 0) return;
  cancel_all(s);
  loop_timer *limit = loop_timer_start(&s->loop, CLEANUP_SECONDS, drain_over, s);
  if (limit == NULL) s->ending = true;
  s->turning = true;
  while (s->living > 0) {
    if (task_turn(s, true)) continue;
    for (uint32_t i = 1; i < s->slot_count; i++) { /* its clean-up waits for ever */
      if (s->slots[i].task != NULL) task_expire(s->slots[i].task);
    }
  }
  s->turning = false;
  if (!s->ending) loop_timer_stop(&s->loop, limit);
  s->ending = false;
}

scheduler *task_host_scheduler(lua_State *L) {
  return task_scheduler(L);
}

void task_host_tick(scheduler *self) {
  lua_State *running = self->running_thread;
  if (running != NULL) task_hook_arm(running);
}

void task_host_watch(scheduler *self, void (*watch)(bool on)) {
  self->watch = watch;
}

void task_host_signalled(scheduler *self) {
  self->interrupted = 1;
  task_host_tick(self);
}

bool task_host_interrupt(scheduler *self) {
  if (!self->interrupted) return true; /* the hook has dealt with it */
  self->interrupted = 0;
  if (self->foreground == NULL) return false;
  task_interrupt(self->foreground, INTERRUPT_SIGNAL);
  return true;
}

void task_host_foreground(lua_State *L, int index) {
  task *self = index != 0 ? luaL_checkudata(L, index, TASK_METATABLE) : NULL;
  bool living = self != NULL && self->state != TASK_ENDED;
  task_scheduler(L)->foreground = living ? self : NULL;
}
