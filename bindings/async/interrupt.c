/* interrupt.c: what ends the work of a task from outside: to which boundary it unwinds, where the
 * error is raised, what a pcall on the way does, and how long the clean-up may take. The states are
 * described in task_internal.h.
 *
 * The boundaries of a task are those on its path: its own coroutine's and those of the generators
 * it is in the middle of resuming, innermost first. A generator that has given a value takes its
 * boundaries off the path and keeps them in its extra space until it is resumed: meanwhile an
 * interrupt of theirs is only noted, because the code that runs is not inside them. */
#include "async/task_internal.h"

#include <stddef.h>
#include <string.h>
#include <lauxlib.h>
#include "base/lua_error.h"

/* ---- where an unwinding goes ---- */

/* The outermost boundary that an interrupt waits for; true where there is one. */
static bool interrupt_find(const task *self, boundary **target) {
  bool found = false;
  for (boundary *at = self->boundaries; at != NULL; at = at->outer) {
    if (at->interrupted == INTERRUPT_NONE) continue;
    *target = at;
    found = true;
  }
  if (self->cancelled == INTERRUPT_NONE) return found;
  *target = NULL;
  return true;
}

/* Brings the unwinding up to date with the interrupts that wait. One that has been raised goes on
 * to its boundary first. */
static void unwind_update(task *self) {
  if (self->state == TASK_ENDED || self->unwinding == UNWIND_RAISED) return;
  boundary *target = NULL;
  if (!interrupt_find(self, &target)) {
    self->unwinding = UNWIND_NONE;
    return;
  }
  self->unwinding = UNWIND_PENDING;
  self->target = target;
  task_abandon_wait(self);
}

void task_interrupt(task *self, interrupt_reason why) {
  if (self->state == TASK_ENDED) return;
  if (self->cancelled == INTERRUPT_NONE) self->cancelled = why;
  unwind_update(self);
}

void boundary_interrupt(boundary *self, interrupt_reason why) {
  if (!self->entered) return;
  if (self->interrupted == INTERRUPT_NONE) self->interrupted = why;
  if (self->owner != NULL) unwind_update(self->owner);
}

/* ---- the time that a clean-up has ---- */

/* While anything has a time limit, the host ticks: see hook. */
static void limits_change(scheduler *s, int by) {
  bool before = s->limits > 0;
  s->limits += by;
  if (s->watch != NULL && before != (s->limits > 0)) s->watch(s->limits > 0);
}

void task_cleanup_stop(task *self) {
  if (self->cleanup_due_ns == 0) return;
  self->cleanup_due_ns = 0;
  loop_timer_stop(&self->owner->loop, self->cleanup);
  self->cleanup = NULL;
  limits_change(self->owner, -1);
}

void task_expire(task *self) {
  self->expired = true;
  task_abandon_wait(self);
}

static void cleanup_over(void *data) {
  task *self = data;
  self->cleanup = NULL;
  task_expire(self);
}

static void cleanup_start(task *self) {
  if (self->cleanup_due_ns != 0) return;
  self->cleanup = loop_timer_start(&self->owner->loop, CLEANUP_SECONDS, cleanup_over, self);
  self->cleanup_due_ns = uv_hrtime() + (uint64_t)(CLEANUP_SECONDS * 1e9);
  limits_change(self->owner, 1);
}

/* ---- raising ---- */

/* Pushes the error that unwinds to the boundary (NULL: the task's body). `instead` is the index of
 * an error that took its place on the way, whose message becomes the detail; or 0. */
static void interrupt_push(lua_State *L, task *self, const boundary *to, int instead) {
  luaL_checkstack(L, 8, "error object");
  const char *detail = NULL;
  if (instead != 0) {
    if (err_is(L, instead)) {
      lua_getfield(L, instead, "message");
    } else {
      lua_pushvalue(L, instead);
    }
    if (lua_type(L, -1) == LUA_TSTRING) {
      detail = lua_pushfstring(L, "its clean-up failed: %s", lua_tostring(L, -1));
    }
  }
  const char *late = "";
  if (self->expired) {
    late = lua_pushfstring(L, "; its clean-up took longer than %f s", CLEANUP_SECONDS);
  }
  err_info info = {.kind = ERR_CANCELLED, .detail = detail};
  switch (to != NULL ? to->interrupted : self->cancelled) {
  case INTERRUPT_DEADLINE:
    info.kind = ERR_TIMEOUT;
    info.retryable = true;
    info.message =
        lua_pushfstring(L, "the deadline of %f s has passed%s", to != NULL ? to->seconds : 0, late);
    break;
  case INTERRUPT_SIBLING:
    info.message = lua_pushfstring(L, "cancelled: another task of its scope failed%s", late);
    break;
  case INTERRUPT_DEADLOCK:
    info.kind = ERR_SCRIPT;
    info.message =
        lua_pushfstring(L, "%s waits for ever: nothing is left that could end it", self->wait.what);
    break;
  case INTERRUPT_SIGNAL: info.message = lua_pushfstring(L, "interrupted%s", late); break;
  case INTERRUPT_CANCEL:
  case INTERRUPT_NONE: info.message = lua_pushfstring(L, "the task was cancelled%s", late); break;
  }
  err_push(L, &info);
  self->raised = lua_topointer(L, -1);
}

static _Noreturn void interrupt_raise(lua_State *L, task *self) {
  interrupt_push(L, self, self->target, 0);
  lua_error(L);
  __builtin_unreachable();
}

void task_keep_interrupt(lua_State *L, task *self, const boundary *to) {
  if (lua_topointer(L, -1) == self->raised) return;
  int other = lua_gettop(L);
  interrupt_push(L, self, to, other);
  lua_replace(L, other);
  lua_settop(L, other);
}

void task_check_interrupt(lua_State *L, task *self) {
  if (self->expired) interrupt_raise(L, self);
  if (self->unwinding != UNWIND_PENDING) return;
  self->unwinding = UNWIND_RAISED;
  self->raised_serial = self->owner->protect_serial;
  cleanup_start(self);
  interrupt_raise(L, self);
}

lua_KContext task_protect_enter(lua_State *L) {
  return (lua_KContext)++task_scheduler(L)->protect_serial;
}

void task_protect_caught(lua_State *L, lua_KContext serial) {
  task *self = task_of(L);
  if (self != NULL && self->unwinding == UNWIND_RAISED &&
      (uint64_t)serial <= self->raised_serial) { /* else it is a call of the clean-up itself */
    task_keep_interrupt(L, self, self->target);
    lua_error(L);
  }
  const closing *close = closing_of(L);
  if (close != NULL && (uint64_t)serial <= close->raised_serial) closing_raise(L);
}

bool task_unwinds_through(const task *self) {
  return self->unwinding == UNWIND_RAISED && self->raised_serial != 0;
}

/* ---- boundaries ---- */

void boundary_enter(lua_State *L, boundary *self) {
  self->owner = task_of(L);
  if (self->owner == NULL) return;
  self->scheduler = self->owner->owner;
  self->thread = L;
  self->entered = true;
  self->outer = self->owner->boundaries;
  self->owner->boundaries = self;
  if (self->due_ns != 0) limits_change(self->scheduler, 1);
}

/* Its time does not count any more. */
static void boundary_disarm(boundary *self) {
  if (self->due_ns == 0) return;
  self->due_ns = 0;
  loop_timer_stop(&self->scheduler->loop, self->timer);
  self->timer = NULL;
  limits_change(self->scheduler, -1);
}

bool boundary_leave(boundary *self) {
  if (!self->entered) return false;
  self->entered = false;
  boundary_disarm(self);
  task *owner = self->owner;
  if (owner == NULL) return false;
  self->owner = NULL;
  boundary **link = &owner->boundaries;
  while (*link != NULL && *link != self)
    link = &(*link)->outer;
  if (*link == self) *link = self->outer;
  if (owner->unwinding == UNWIND_NONE || owner->target != self) return false;
  bool raised = owner->unwinding == UNWIND_RAISED;
  owner->unwinding = UNWIND_NONE;
  owner->target = NULL;
  owner->expired = false;
  task_cleanup_stop(owner);
  unwind_update(owner);
  return raised;
}

boundary *boundary_sleep(task *owner, lua_State *thread) {
  boundary *chain = NULL;
  boundary **link = &chain;
  bool unwound = false;
  while (owner->boundaries != NULL && owner->boundaries->thread == thread) {
    boundary *at = owner->boundaries;
    owner->boundaries = at->outer;
    unwound = unwound || (owner->unwinding != UNWIND_NONE && owner->target == at);
    at->owner = NULL;
    at->outer = NULL;
    *link = at;
    link = &at->outer;
  }
  if (unwound) {
    owner->unwinding = UNWIND_NONE;
    owner->target = NULL;
    task_cleanup_stop(owner);
    unwind_update(owner);
  }
  return chain;
}

void boundary_resume(task *owner, boundary *chain, bool closes) {
  if (chain == NULL) return;
  boundary *last = NULL;
  uint64_t now = uv_hrtime(); /* the loop may not have turned since the time came */
  for (boundary *at = chain; at != NULL; at = at->outer) {
    if (closes) { /* it unwinds already, and no further than its coroutine */
      boundary_disarm(at);
      at->interrupted = INTERRUPT_NONE;
    } else if (at->due_ns != 0 && at->due_ns <= now) {
      boundary_interrupt(at, INTERRUPT_DEADLINE);
    }
    at->owner = owner;
    last = at;
  }
  last->outer = owner->boundaries;
  owner->boundaries = chain;
  unwind_update(owner);
}

/* ---- the hook: interrupts that must not wait for a wait point ----
 *
 * `local x <close> = acquire()` is two instructions, and an error between them would lose x. So an
 * interrupt is raised only where a new line begins or a loop jumps back, which every computation
 * that does not end comes to. Lua's own idea of the last line is stale when a hook is set in the
 * middle of a function: it is right from the second instruction on. */

enum { HOOK_LOOK = 1, HOOK_SETTLE = 2 }; /* the counts, which tell the three steps apart */

/* Turns what has happened meanwhile into interrupts; true where the task must unwind. */
static bool hook_look(scheduler *s, task *self) {
  uint64_t now = uv_hrtime();
  if (self->cleanup_due_ns != 0 && self->cleanup_due_ns <= now) self->expired = true;
  if (s->interrupted) {
    s->interrupted = 0;
    if (s->foreground != NULL) task_interrupt(s->foreground, INTERRUPT_SIGNAL);
    task_interrupt(self, INTERRUPT_SIGNAL);
  }
  for (boundary *at = self->boundaries; at != NULL; at = at->outer) {
    if (at->due_ns != 0 && at->due_ns <= now) boundary_interrupt(at, INTERRUPT_DEADLINE);
  }
  return self->expired || self->unwinding == UNWIND_PENDING;
}

static bool in_close_handler(lua_State *L) {
  lua_Debug frame;
  for (int level = 0; lua_getstack(L, level, &frame); level++) {
    lua_getinfo(L, "n", &frame);
    if (frame.name != NULL && strcmp(frame.name, "close") == 0 &&
        strcmp(frame.namewhat, "metamethod") == 0) {
      return true;
    }
  }
  return false;
}

/* A deadline that passes while a __close handler computes would end it half done, or before its
 * first line. So the handler has a clean-up's time, as if the deadline had passed before it. */
static bool hook_must_wait(lua_State *L, const task *self) {
  const boundary *to = self->target;
  if (to == NULL || to->due_ns == 0) return false;
  if (uv_hrtime() >= to->due_ns + (uint64_t)(CLEANUP_SECONDS * 1e9)) return false;
  return in_close_handler(L);
}

static void hook(lua_State *L, lua_Debug *where) {
  scheduler *s = task_scheduler(L);
  task *self = task_of(L);
  bool line = where->event == LUA_HOOKLINE;
  bool settling = (lua_gethookmask(L) & LUA_MASKCOUNT) != 0;
  if (self == NULL || (!settling && !hook_look(s, self))) {
    lua_sethook(L, NULL, 0, 0);
    return;
  }
  if (self->expired) { /* stays armed: a script that swallows this one meets it again at once */
    lua_sethook(L, hook, LUA_MASKCOUNT, HOOK_LOOK);
    interrupt_raise(L, self);
  }
  if (settling && line) return;
  if (settling && lua_gethookcount(L) == HOOK_LOOK) {
    bool due = hook_look(s, self);
    lua_sethook(L, due ? hook : NULL, LUA_MASKLINE | LUA_MASKCOUNT, HOOK_SETTLE);
  } else if (settling) {
    lua_sethook(L, hook, LUA_MASKLINE, 0);
  } else {
    lua_sethook(L, NULL, 0, 0);
    if (!hook_must_wait(L, self)) task_check_interrupt(L, self);
  }
}

void task_hook_arm(lua_State *L) {
  lua_sethook(L, hook, LUA_MASKLINE | LUA_MASKCOUNT, HOOK_LOOK);
}

void task_run_on(scheduler *s, lua_State *thread) {
  s->running_thread = thread;
  if (thread == NULL) return;
  if (s->interrupted || s->running->expired) task_hook_arm(thread);
}
