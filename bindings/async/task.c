/* task.c: the scheduler: one resume function, one switch on its result, one place that raises
 * interrupts. The contract for bindings is in task.h, the data in task_internal.h.
 *
 * Which coroutine belongs to which task stands in Lua's extra space of each thread, written by
 * whoever resumes it. A foreign value there (a thread that stock Lua made before the module was
 * loaded) is never followed: it counts only where it equals the task that runs now. */
#include "async/task_internal.h"

#include <stdlib.h>
#include <string.h>
#include <lauxlib.h>
#include "base/lua_error.h"

static const char SCHEDULER;
static const char LIVING; /* registry: slot -> Task userdata, so that a task outlives its handle */
const char TASK_KILL;

task *task_of(lua_State *L) {
  task *running = task_scheduler(L)->running;
  return running != NULL && *(task **)lua_getextraspace(L) == running ? running : NULL;
}

void task_adopt(lua_State *L, task *owner) {
  *(task **)lua_getextraspace(L) = owner;
}

/* ---- waiting ---- */

/* Pushes "table.sort" for a library function: one that C called has no name of its own. */
static bool push_library_name(lua_State *L, int function) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  for (lua_pushnil(L); lua_next(L, -2) != 0; lua_pop(L, 1)) { // stack: loaded, name, library
    if (lua_type(L, -2) != LUA_TSTRING || !lua_istable(L, -1)) continue;
    for (lua_pushnil(L); lua_next(L, -2) != 0; lua_pop(L, 1)) {
      if (lua_type(L, -2) != LUA_TSTRING || !lua_rawequal(L, -1, function)) continue;
      const char *library = lua_tostring(L, -4);
      const char *name = lua_tostring(L, -2);
      bool global = library[0] == '_' && library[1] == 'G';
      lua_pushfstring(L, "%s%s%s", global ? "" : library, global ? "" : ".", name);
      return true;
    }
  }
  return false;
}

static bool frame_is_finalizer(const lua_Debug *frame) {
  return frame->name != NULL && strcmp(frame->name, "__gc") == 0 &&
         strcmp(frame->namewhat, "metamethod") == 0;
}

bool task_in_finalizer(lua_State *L) {
  lua_Debug frame;
  for (int level = 0; lua_getstack(L, level, &frame); level++) {
    lua_getinfo(L, "n", &frame);
    if (frame_is_finalizer(&frame)) return true;
  }
  return false;
}

/* Library functions through which a wait passes: they are not what is in its way. */
static bool is_passable(const char *name) {
  static const char *const NAMES[] = {"pcall",          "xpcall",           "dofile",
                                      "coroutine.wrap", "coroutine.resume", "coroutine.close"};
  for (size_t i = 0; i < sizeof NAMES / sizeof NAMES[0]; i++)
    if (strcmp(NAMES[i], name) == 0) return true;
  return strncmp(name, "nebula.", 7) == 0;
}

/* Names the innermost C function that keeps this coroutine from yielding. */
static _Noreturn void refuse_wait(lua_State *L, const char *what) {
  const char *blocker = "a C function";
  luaL_checkstack(L, 12, "error message");
  lua_Debug frame;
  int top = lua_gettop(L);
  for (int level = 1; lua_getstack(L, level, &frame); level++) {
    lua_settop(L, top);
    lua_getinfo(L, "Snf", &frame);
    if (frame_is_finalizer(&frame)) {
      blocker = "a finalizer";
      break;
    }
    if (*frame.what == 'C' && push_library_name(L, lua_gettop(L))) {
      if (is_passable(lua_tostring(L, -1))) continue;
      blocker = lua_tostring(L, -1);
      break;
    }
  }
  err_raisef(L, ERR_SCRIPT, NULL,
             "%s cannot wait here: it was called from inside %s, which Lua "
             "cannot suspend; call it before or after",
             what, blocker);
}

task_ticket task_wait_begin(lua_State *L, const char *what) {
  task *self = task_of(L);
  if (self != NULL && lua_isyieldable(L) && self->pinned == 0) task_check_interrupt(L, self);
  return task_wait_begin_shielded(L, what);
}

task_ticket task_wait_begin_shielded(lua_State *L, const char *what) {
  scheduler *s = task_scheduler(L);
  task *self = task_of(L);
  wait_state *wait = &s->outside;
  if (self != NULL) {
    if (!lua_isyieldable(L) || self->pinned > 0) refuse_wait(L, what);
    wait = &self->wait;
  } else if (task_in_finalizer(L)) {
    refuse_wait(L, what);
  } else if (s->closed) {
    err_raisef(L, ERR_SCRIPT, NULL, "%s cannot wait: the Lua state is closing", what);
  } else if (s->turning) {
    err_raisef(L, ERR_SCRIPT, NULL,
               "%s cannot wait in a coroutine that belongs to no task: make "
               "it with nebula.task.coroutine or nebula.task.generator",
               what);
  }
  wait->generation++;
  wait->woken = false;
  wait->shielded = false;
  wait->abandon = NULL;
  wait->what = what;
  return (task_ticket){s, self != NULL ? self->slot : 0, wait->generation};
}

static void ready_append(task *self) {
  scheduler *s = self->owner;
  self->state = TASK_READY;
  self->next_ready = NULL;
  loop_stay_awake(&s->loop);
  if (s->ready_last != NULL) {
    s->ready_last->next_ready = self;
  } else {
    s->ready_first = self;
  }
  s->ready_last = self;
}

void task_wake(task_ticket ticket) {
  scheduler *s = ticket.owner;
  if (s == NULL || s->closed) return;
  if (ticket.slot == 0) {
    if (s->outside.generation == ticket.generation) s->outside.woken = s->returning = true;
    loop_stay_awake(&s->loop);
    return;
  }
  task *self = s->slots[ticket.slot].task;
  if (self == NULL || self->wait.generation != ticket.generation || self->wait.woken) return;
  if (self->state == TASK_READY) return; /* it was abandoned and is about to raise */
  self->wait.woken = true;
  self->wait.abandon = NULL;
  if (self->state == TASK_WAITING) ready_append(self);
}

static void wait_abandon(wait_state *wait) {
  task_abandon_fn *abandon = wait->abandon;
  wait->abandon = NULL;
  if (abandon != NULL) abandon(wait->data);
}

void task_abandon_wait(task *self) {
  if (self->state != TASK_WAITING || self->wait.woken) return;
  wait_abandon(&self->wait);
  if (!self->wait.shielded && self->state == TASK_WAITING) ready_append(self);
}

static int wait_continue(lua_State *L, int status, lua_KContext context) {
  (void)context;
  task *self = task_of(L);
  if (!self->wait.woken && !self->wait.shielded) task_check_interrupt(L, self);
  return self->wait.done(L, status, self->wait.context);
}

static int wait_outside(lua_State *L, scheduler *s) {
  wait_state *wait = &s->outside;
  uint32_t generation = wait->generation;
  s->turning = true;
  bool alive = true;
  while (!wait->woken && alive)
    alive = task_turn(s, true);
  s->turning = false;
  if (!wait->woken || wait->generation != generation) {
    wait_abandon(wait);
    err_raisef(L, ERR_SCRIPT, NULL, "%s waits for ever: nothing is left that could end it",
               wait->what);
  }
  return wait->done(L, LUA_OK, wait->context);
}

static int wait_start(lua_State *L, task_ticket ticket, wait_state values) {
  scheduler *s = ticket.owner;
  task *self = ticket.slot == 0 ? NULL : s->slots[ticket.slot].task;
  wait_state *wait = self != NULL ? &self->wait : &s->outside;
  values.generation = wait->generation;
  values.woken = wait->woken;
  values.what = wait->what;
  values.thread = L;
  *wait = values;
  if (self == NULL) return wait_outside(L, s);
  if (wait->woken) {
    wait->abandon = NULL;
    return wait->done(L, LUA_OK, wait->context);
  }
  if (self->unwinding == UNWIND_PENDING) { /* since task_wait_begin: a finalizer's doing */
    wait_abandon(wait);
    if (!wait->shielded) task_check_interrupt(L, self);
  }
  self->state = TASK_WAITING;
  return lua_yieldk(L, 0, 0, wait_continue);
}

int task_wait(lua_State *L, task_ticket ticket, task_abandon_fn *abandon, void *data,
              lua_KContext context, lua_KFunction done) {
  return wait_start(
      L, ticket, (wait_state){.abandon = abandon, .data = data, .context = context, .done = done});
}

int task_wait_shielded(lua_State *L, task_ticket ticket, task_abandon_fn *abandon, void *data,
                       lua_KContext context, lua_KFunction done) {
  return wait_start(
      L, ticket,
      (wait_state){
          .abandon = abandon, .data = data, .context = context, .done = done, .shielded = true});
}

/* ---- running ---- */

/* The scope's side of a child's end. */
static void scope_child_ended(scheduler *s, task *self) {
  boundary *scope = self->scope;
  self->scope = NULL;
  if (self->sibling_next != NULL) self->sibling_next->sibling_previous = self->sibling_previous;
  if (self->sibling_previous != NULL) {
    self->sibling_previous->sibling_next = self->sibling_next;
  } else {
    scope->children = self->sibling_next;
  }
  scope->living--;
  if (self->failed && !self->cancelled_end) self->observed = true;
  if (self->failed && !self->cancelled_end && !scope->failed && !scope->body_failed) {
    scope->failed = true;
    task_push(s->work, self);
    lua_getiuservalue(s->work, -1, 2);
    lua_insert(s->work, -2); // stack: boundary, task
    lua_setiuservalue(s->work, -2, 1);
    lua_pop(s->work, 1);
    for (task *child = scope->children; child != NULL; child = child->sibling_next) {
      task_interrupt(child, INTERRUPT_SIBLING);
    }
    if (!scope->closed) boundary_interrupt(scope, INTERRUPT_SIBLING);
  }
  if (scope->living == 0) task_wake(scope->joiner);
}

static void task_end(task *self) {
  scheduler *s = self->owner;
  self->state = TASK_ENDED;
  s->returning = true;
  self->unwinding = UNWIND_NONE;
  task_cleanup_stop(self);
  while (self->boundaries != NULL)
    boundary_leave(self->boundaries);
  task_slot *slot = &s->slots[self->slot];
  slot->task = NULL;
  slot->generation_base = self->wait.generation + 1;
  slot->next_free = s->slot_free;
  s->slot_free = self->slot;
  s->living--;
  if (s->foreground == self) s->foreground = NULL;
  if (self->scope != NULL) scope_child_ended(s, self);
  waiter_wake_all(&self->joiners);
  lua_rawgetp(s->work, LUA_REGISTRYINDEX, &LIVING);
  lua_pushnil(s->work);
  lua_rawseti(s->work, -2, self->slot); /* the slot's key stays in the table: nothing allocates */
  lua_pop(s->work, 1);
}

static void task_resume(scheduler *s, task *self) {
  lua_State *co = self->thread;
  int arguments = lua_status(co) == LUA_OK ? lua_gettop(co) - 1 : 0;
  task_push(s->work, self); /* anchors it while it runs */
  s->stack_base = (uintptr_t)__builtin_frame_address(0);
  s->running = self;
  self->state = TASK_RUNNING;
  task_adopt(co, self);
  task_run_on(s, co);
  int count = 0;
  int status = lua_resume(co, s->work, arguments, &count);
  task_run_on(s, NULL);
  s->running = NULL;
  switch (status) {
  case LUA_YIELD: break; /* it waits: task_wait has set the state */
  case LUA_OK: task_end(self); break;
  default: /* memory ran out where nothing could catch it */
    self->failed = true;
    task_end(self);
    break;
  }
  lua_settop(s->work, 0);
}

bool task_turn(scheduler *self, bool wait) {
  task *last = self->ready_last;
  while (last != NULL) {
    task *next = self->ready_first;
    self->ready_first = next->next_ready;
    if (self->ready_first == NULL) self->ready_last = NULL;
    bool is_last = next == last;
    task_resume(self, next);
    if (is_last) break;
  }
  loop_run_deferred(&self->loop); /* may make tasks ready */
  bool block = wait && self->ready_first == NULL && !self->returning;
  self->returning = false;
  bool alive = loop_poll(&self->loop, block);
  return alive || self->ready_first != NULL;
}

static int body_done(lua_State *L, int status, lua_KContext context) {
  (void)context;
  task *self = task_of(L);
  lua_sethook(L, NULL, 0, 0);
  if (status == LUA_OK || status == LUA_YIELD) return lua_gettop(L) - 1;
  self->failed = true;
  self->cancelled_end = self->unwinding == UNWIND_RAISED && self->target == NULL;
  if (self->cancelled_end) task_keep_interrupt(L, self, NULL);
  return 1;
}

static int body_cancelled(lua_State *L) {
  task_check_interrupt(L, task_of(L));
  return 0;
}

static int body(lua_State *L) { // stack: function, arguments
  lua_pushcfunction(L, err_handler);
  lua_insert(L, 1);
  task *self = task_of(L);
  if (self->unwinding == UNWIND_PENDING && self->target == NULL) { /* cancelled before it began */
    lua_settop(L, 1);
    lua_pushcfunction(L, body_cancelled);
  }
  return body_done(L, lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 1, 0, body_done), 0);
}

/* ---- making ---- */

/* A slot for a new task; it is taken for good when the task is whole. Nothing that may run a
 * finalizer, which may spawn a task, can come in between. */
static uint32_t slot_find(lua_State *L, scheduler *s) {
  if (s->slot_free == 0) {
    uint32_t count = s->slot_count * 2;
    task_slot *grown = realloc(s->slots, count * sizeof *grown);
    if (grown == NULL) luaL_error(L, "not enough memory");
    for (uint32_t i = s->slot_count; i < count; i++) {
      grown[i] = (task_slot){.next_free = i + 1 < count ? i + 1 : 0};
    }
    s->slot_free = s->slot_count;
    s->slots = grown;
    s->slot_count = count;
  }
  return s->slot_free;
}

task *task_create(lua_State *L, int nargs, int scope) { // stack: ..., function, arguments
  scheduler *s = task_scheduler(L);
  int function = lua_gettop(L) - nargs;
  if (s->closed) {
    err_raisef(L, ERR_SCRIPT, NULL, "no task can begin: the Lua state is closing");
  }
  if (!lua_isfunction(L, function) && luaL_getmetafield(L, function, "__call") == LUA_TNIL) {
    err_raisef(L, ERR_VALIDATION, NULL, "a task wants a function, got %s",
               luaL_typename(L, function));
  }
  lua_settop(L, function + nargs);
  luaL_checkstack(L, 6, "task");
  boundary *parent = scope != 0 ? lua_touserdata(L, scope) : NULL;
  task *self = lua_newuserdatauv(L, sizeof *self, 2);
  *self = (task){.owner = s, .state = TASK_ENDED};
  luaL_setmetatable(L, TASK_METATABLE);
  lua_State *co = lua_newthread(L);
  lua_setiuservalue(L, -2, 1);
  if (scope != 0) {
    lua_pushvalue(L, scope);
    lua_setiuservalue(L, -2, 2);
  }
  if (!lua_checkstack(co, nargs + 3)) luaL_error(L, "too many arguments for a task");
  uint32_t slot = slot_find(L, s);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &LIVING);
  lua_pushvalue(L, -2);
  lua_rawseti(L, -2, (lua_Integer)slot);
  lua_pop(L, 1);
  lua_insert(L, function); // stack: ..., Task, function, arguments
  lua_pushcfunction(co, body);
  lua_xmove(L, co, nargs + 1);

  self->slot = slot;
  s->slot_free = s->slots[slot].next_free;
  s->slots[slot].task = self;
  self->wait.generation = s->slots[slot].generation_base;
  self->thread = co;
  self->id = ++s->last_id;
  self->born_ns = uv_hrtime();
  s->living++;
  if (parent != NULL) {
    self->scope = parent;
    self->sibling_next = parent->children;
    if (parent->children != NULL) parent->children->sibling_previous = self;
    parent->children = self;
    parent->living++;
  }
  ready_append(self);
  if (s->ending) task_interrupt(self, INTERRUPT_CANCEL);
  return self;
}

void task_spawn(lua_State *L, int nargs) {
  task_create(L, nargs, 0);
}

static int scheduler_gc(lua_State *L) {
  scheduler *s = lua_touserdata(L, 1);
  if (s->closed || s->slots == NULL) return 0;
  loop_close(&s->loop);
  s->closed = true;
  free(s->slots);
  s->slots = NULL;
  return 0;
}

static scheduler *scheduler_make(lua_State *L) {
  luaL_checkstack(L, 8, "scheduler");
  scheduler *s = lua_newuserdatauv(L, sizeof *s, 1);
  *s = (scheduler){.protect_serial = 1};
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, scheduler_gc);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  task_adopt(lua_tothread(L, -1), NULL); /* threads copy the main one's extra space */
  lua_pop(L, 1);
  s->work = lua_newthread(L);
  lua_setiuservalue(L, -2, 1);
  lua_newtable(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &LIVING);
  int status = loop_init(&s->loop);
  if (status != 0) {
    err_raisef(L, ERR_IO, NULL, "no event loop: %s", uv_strerror(status));
  }
  s->slot_count = 64;
  s->slots = calloc(s->slot_count, sizeof *s->slots);
  if (s->slots == NULL) luaL_error(L, "not enough memory");
  s->slot_free = 1;
  for (uint32_t i = 1; i + 1 < s->slot_count; i++)
    s->slots[i].next_free = i + 1;
  lua_rawsetp(L, LUA_REGISTRYINDEX, &SCHEDULER);
  return s;
}

scheduler *task_scheduler(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &SCHEDULER);
  scheduler *s = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return s != NULL ? s : scheduler_make(L);
}

loop *task_loop(lua_State *L) {
  scheduler *s = task_scheduler(L);
  if (s->closed) err_raisef(L, ERR_SCRIPT, NULL, "nothing can begin: the Lua state is closing");
  return &s->loop;
}

uint64_t task_current_id(lua_State *L) {
  const task *self = task_of(L);
  return self != NULL ? self->id : 0;
}

void task_push(lua_State *L, const task *self) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &LIVING);
  lua_rawgeti(L, -1, (lua_Integer)self->slot);
  lua_remove(L, -2);
}

void task_push_current(lua_State *L) {
  const task *self = task_of(L);
  if (self != NULL) {
    task_push(L, self);
  } else {
    lua_pushnil(L);
  }
}

void task_push_where(lua_State *L) {
  lua_Debug frame;
  for (int level = 1; lua_getstack(L, level, &frame); level++) {
    lua_getinfo(L, "Sl", &frame);
    if (frame.currentline > 0) {
      lua_pushfstring(L, "%s:%d", frame.short_src, frame.currentline);
      return;
    }
  }
  lua_pushliteral(L, "?");
}
