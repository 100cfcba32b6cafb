/* lua_coroutine.c: a coroutine library through which a wait passes.
 *
 * A generator that waits yields to whoever resumed it. The resume functions here tell that yield
 * (the task is TASK_WAITING) from one that gives a value, and yield in their turn, down to the
 * scheduler; resumed, they resume the generator again. So a wait costs one step a level.
 *
 * A coroutine's function runs under lua_pcallk, because Lua skips the __close handlers of a
 * coroutine that dies unprotected. Closing a suspended one resumes it once more, with the order
 * that its yield raises TASK_KILL: so its handlers may wait, which lua_resetthread's cannot. */
#include "async/task_internal.h"

#include <lauxlib.h>
#include <lualib.h>
#include "base/lua_error.h"

#define CLOSER_METATABLE "nebula.generator"
#define CLOSING_METATABLE "nebula.closing"

/* What stands in a thread's extra space: the task in whose name it runs or waits; or NULL; or,
 * where it is suspended in our own yield, so that TASK_KILL can be raised there, &SUSPENDED_HERE;
 * or the chain of boundaries that are suspended with it, with one of these tags. */
static const char SUSPENDED_HERE;
#define TAG_BOUNDARIES ((uintptr_t)1)
#define TAG_FOREIGN ((uintptr_t)2) /* by a yield that is not ours */

static uintptr_t thread_mark(lua_State *co) {
  return *(uintptr_t *)lua_getextraspace(co);
}

static void thread_set_mark(lua_State *co, uintptr_t mark) {
  *(uintptr_t *)lua_getextraspace(co) = mark;
}

static bool is_suspended_here(lua_State *co) {
  uintptr_t mark = thread_mark(co);
  return lua_status(co) == LUA_YIELD &&
         (mark == (uintptr_t)&SUSPENDED_HERE ||
          ((mark & TAG_BOUNDARIES) != 0 && (mark & TAG_FOREIGN) == 0));
}

/* The boundaries that were suspended with a coroutine that goes on now. */
static boundary *suspended_boundaries(lua_State *co) {
  uintptr_t mark = thread_mark(co);
  if (lua_status(co) != LUA_YIELD || (mark & TAG_BOUNDARIES) == 0) return NULL;
  return (boundary *)(mark & ~(TAG_BOUNDARIES | TAG_FOREIGN));
}

static int body_done(lua_State *L, int status, lua_KContext context) {
  (void)context;
  if (status != LUA_OK && status != LUA_YIELD) return lua_error(L);
  return lua_gettop(L) - 1;
}

static int note_traceback(lua_State *L) {
  lua_settop(L, 1);
  if (lua_touserdata(L, 1) != &TASK_KILL) err_note_traceback(L);
  return 1;
}

static int body(lua_State *L) { // stack: function, arguments
  lua_pushcfunction(L, note_traceback);
  lua_insert(L, 1);
  return body_done(L, lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 1, 0, body_done), 0);
}

/* Pushes a coroutine of the function at index. */
static lua_State *coroutine_new(lua_State *L, int index) {
  luaL_checktype(L, index, LUA_TFUNCTION);
  lua_State *co = lua_newthread(L);
  task_adopt(co, NULL);
  lua_pushcfunction(co, body);
  lua_pushvalue(L, index);
  lua_xmove(L, co, 1);
  return co;
}

closing *closing_of(lua_State *L) {
  for (closing *at = task_scheduler(L)->closings; at != NULL; at = at->outer)
    if (at->thread == L) return at;
  return NULL;
}

_Noreturn void closing_raise(lua_State *L) {
  lua_pushlightuserdata(L, (void *)&TASK_KILL);
  lua_error(L);
  __builtin_unreachable();
}

static int yield_continue(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  closing *close = closing_of(L);
  if (close != NULL && close->raised_serial == 0) {
    close->raised_serial = close->scheduler->protect_serial;
    closing_raise(L);
  }
  task *self = task_of(L); /* a boundary in here may have been interrupted meanwhile */
  bool ours = self != NULL && self->target != NULL && self->target->thread == L;
  if (ours) task_check_interrupt(L, self);
  return lua_gettop(L);
}

static int coroutine_yield(lua_State *L) {
  const task *self = task_of(L);
  if (self != NULL && self->thread == L) {
    err_raisef(L, ERR_SCRIPT, NULL,
               "coroutine.yield outside a coroutine: nothing here takes the "
               "value (nebula.task.yield lets other tasks run)");
  }
  if (!lua_isyieldable(L)) {
    return luaL_error(L, "attempt to yield across a C-call boundary or outside a coroutine");
  }
  if (self != NULL && task_unwinds_through(self)) {
    err_raisef(L, ERR_SCRIPT, NULL,
               "coroutine.yield in the clean-up of a coroutine that is being cancelled");
  }
  thread_set_mark(L, (uintptr_t)&SUSPENDED_HERE);
  return lua_yieldk(L, lua_gettop(L), 0, yield_continue);
}

/* What a resume came to. */
typedef enum outcome { GAVE, ENDED, FAILED, WAITS } outcome;

/* A generator in a generator in a generator lies deep in the C stack. Lua counts C levels, three
 * for each of ours, and would end at 65; a task counts bytes instead. One coroutine alone adds at
 * most Lua's own 200 levels, well under the rest of the smallest usual stack of 8 MB. */
#define STACK_BYTES ((uintptr_t)2 << 20)

static bool stack_is_deep(const scheduler *s) {
  return s->stack_base - (uintptr_t)__builtin_frame_address(0) > STACK_BYTES;
}

/* The coroutine has given a value or has ended: its boundaries leave the path of the task. */
static void coroutine_leave(task *self, lua_State *co, int status) {
  bool here = thread_mark(co) == (uintptr_t)&SUSPENDED_HERE;
  if (status != LUA_YIELD) {
    while (self->boundaries != NULL && self->boundaries->thread == co)
      boundary_leave(self->boundaries);
  }
  uintptr_t chain = (uintptr_t)boundary_sleep(self, co);
  if (chain != 0) {
    thread_set_mark(co, chain | TAG_BOUNDARIES | (here ? 0 : TAG_FOREIGN));
  } else if (!here) {
    task_adopt(co, NULL);
  }
}

/* Resumes co in the name of L's task. */
static int coroutine_run(lua_State *L, lua_State *co, task *self, int nargs, int *count) {
  scheduler *s = self->owner;
  bool pins = !lua_isyieldable(L);
  self->pinned += pins;
  task_run_on(s, co);
  int status = lua_resume(co, s->work, nargs, count);
  task_run_on(s, L);
  self->pinned -= pins;
  return status;
}

/* Resumes co on behalf of L's task; count is the number of values on top of co's stack. `serial` is
 * of the call that resumes: where that is a call of a clean-up, no protected call inside of co is
 * on the way of the interrupt that is being cleaned up after. */
static outcome coroutine_step(lua_State *L, lua_State *co, int nargs, int *count,
                              lua_KContext serial) {
  task *self = task_of(L);
  if (self != NULL && stack_is_deep(self->owner)) {
    lua_pop(co, nargs);
    lua_pushliteral(co, "C stack overflow: too many coroutines inside each other");
    return FAILED;
  }
  /* at the start our body takes the function as its first argument */
  if (lua_status(co) == LUA_OK && lua_tocfunction(co, 1) == body) nargs++;
  boundary *chain = suspended_boundaries(co);
  task_adopt(co, self);
  if (self == NULL) {
    int status = lua_resume(co, L, nargs, count);
    return status == LUA_YIELD ? GAVE : status == LUA_OK ? ENDED : FAILED;
  }
  boundary_resume(self, chain, closing_of(co) != NULL);
  uint64_t raised = self->raised_serial;
  bool aside = self->unwinding == UNWIND_RAISED && (uint64_t)serial > raised;
  if (aside) self->raised_serial = 0;
  int status = coroutine_run(L, co, self, nargs, count);
  if (aside) self->raised_serial = raised;
  if (status == LUA_YIELD && self->state == TASK_WAITING) return WAITS;
  coroutine_leave(self, co, status);
  return status == LUA_YIELD ? GAVE : status == LUA_OK ? ENDED : FAILED;
}

/* Moves what co gave to L; false with one error message instead where there is no room. */
static bool take_values(lua_State *L, lua_State *co, int count) {
  if (lua_checkstack(L, count + 1)) {
    lua_xmove(co, L, count);
    return true;
  }
  lua_pop(co, count);
  lua_pushliteral(L, "too many results to resume");
  return false;
}

/* Suspended inside a wait of its task: the scheduler alone resumes it. */
static bool coroutine_waits(lua_State *co) {
  uintptr_t mark = thread_mark(co);
  return lua_status(co) == LUA_YIELD && mark != 0 && mark != (uintptr_t)&SUSPENDED_HERE &&
         (mark & TAG_BOUNDARIES) == 0;
}

/* The thread is at index 1; pushes the arguments on it. False with a message on L. */
static bool give_arguments(lua_State *L, lua_State *co, int nargs) {
  bool dead = lua_status(co) == LUA_OK && lua_gettop(co) == 0;
  lua_Debug frame;
  bool runs = lua_status(co) == LUA_OK && lua_getstack(co, 0, &frame) != 0;
  if (co == L || runs) {
    lua_pushliteral(L, "cannot resume non-suspended coroutine");
  } else if (dead || (lua_status(co) != LUA_OK && lua_status(co) != LUA_YIELD)) {
    lua_pushliteral(L, "cannot resume dead coroutine");
  } else if (coroutine_waits(co)) {
    lua_pushliteral(L, "cannot resume a coroutine that waits");
  } else if (!lua_checkstack(co, nargs)) {
    lua_pushliteral(L, "too many arguments to resume");
  } else {
    lua_xmove(L, co, nargs);
    return true;
  }
  return false;
}

static int resume_again(lua_State *L, int status, lua_KContext serial);

static int resume_step(lua_State *L, int nargs, lua_KContext serial) {
  lua_State *co = lua_tothread(L, 1);
  int count = 0;
  switch (coroutine_step(L, co, nargs, &count, serial)) {
  case WAITS: return lua_yieldk(L, 0, serial, resume_again);
  case FAILED:
    lua_xmove(co, L, 1);
    task_protect_caught(L, serial);
    lua_pushboolean(L, 0);
    lua_insert(L, -2);
    return 2;
  case GAVE:
  case ENDED: break;
  }
  int first = lua_gettop(L) + 1;
  bool ok = take_values(L, co, count);
  lua_pushboolean(L, ok);
  lua_insert(L, first);
  return lua_gettop(L) - first + 1;
}

static int resume_again(lua_State *L, int status, lua_KContext serial) {
  (void)status;
  return resume_step(L, 0, serial);
}

static int coroutine_resume(lua_State *L) {
  lua_State *co = lua_tothread(L, 1);
  luaL_argexpected(L, co != NULL, 1, "coroutine");
  int nargs = lua_gettop(L) - 1;
  if (!give_arguments(L, co, nargs)) {
    lua_pushboolean(L, 0);
    lua_insert(L, -2);
    return 2;
  }
  return resume_step(L, nargs, task_protect_enter(L));
}

static int wrap_again(lua_State *L, int status, lua_KContext context);

static int wrap_step(lua_State *L, int nargs, lua_KContext serial) {
  lua_State *co = lua_tothread(L, 1);
  int count = 0;
  switch (coroutine_step(L, co, nargs, &count, serial)) {
  case WAITS: return lua_yieldk(L, 0, serial, wrap_again);
  case FAILED: lua_xmove(co, L, 1); return lua_error(L);
  case GAVE:
  case ENDED: break;
  }
  if (!take_values(L, co, count)) return lua_error(L);
  return count;
}

static int wrap_again(lua_State *L, int status, lua_KContext serial) {
  (void)status;
  return wrap_step(L, 0, serial);
}

static int wrap_call(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1); // stack: thread, arguments
  int nargs = lua_gettop(L) - 1;
  if (!give_arguments(L, lua_tothread(L, 1), nargs)) {
    luaL_where(L, 1);
    lua_insert(L, -2);
    lua_concat(L, 2);
    return lua_error(L);
  }
  return wrap_step(L, nargs, task_protect_enter(L));
}

/* A generator's call: nil once it has ended, so that a for loop ends. */
static int generator_call(lua_State *L) {
  lua_State *co = lua_tothread(L, lua_upvalueindex(1));
  lua_Debug frame;
  if (lua_status(co) == LUA_OK && lua_getstack(co, 0, &frame) == 0 && lua_gettop(co) == 0) {
    lua_pushnil(L);
    return 1;
  }
  lua_settop(L, 0);
  return wrap_call(L);
}

static int coroutine_create(lua_State *L) {
  coroutine_new(L, 1);
  return 1;
}

static int coroutine_wrap(lua_State *L) {
  coroutine_new(L, 1);
  lua_pushcclosure(L, wrap_call, 1);
  return 1;
}

static int close_again(lua_State *L, int status, lua_KContext serial);

static void closing_end(closing *self) {
  if (self->scheduler == NULL) return;
  closing **link = &self->scheduler->closings;
  while (*link != self)
    link = &(*link)->outer;
  *link = self->outer;
  self->scheduler = NULL;
}

/* Reached unended where who closes died of a lack of memory. */
static int closing_gc(lua_State *L) {
  closing_end(lua_touserdata(L, 1));
  return 0;
}

static void closing_begin(lua_State *L, lua_State *co) {
  closing *self = lua_newuserdatauv(L, sizeof *self, 0);
  *self = (closing){0};
  luaL_setmetatable(L, CLOSING_METATABLE);
  scheduler *s = task_scheduler(L);
  *self = (closing){.scheduler = s, .thread = co, .outer = s->closings};
  s->closings = self;
}

/* stack: thread, closing. Returns true, or false and an error. */
static int close_step(lua_State *L, lua_KContext serial) {
  lua_State *co = lua_tothread(L, 1);
  int count = 0;
  outcome came = coroutine_step(L, co, 0, &count, serial);
  if (came == WAITS) return lua_yieldk(L, 0, serial, close_again);
  closing_end(lua_touserdata(L, 2));
  bool failed = came == FAILED && lua_touserdata(co, -1) != &TASK_KILL;
  if (failed) {
    lua_xmove(co, L, 1);
  } else if (came == GAVE) {
    lua_pushliteral(L, "the coroutine yielded while it was being closed");
    failed = true;
  }
  lua_resetthread(co);
  lua_settop(co, 0);
  if (!failed) lua_pushnil(L);
  task_protect_caught(L, serial); /* an interrupt that came during the clean-up goes on */
  if (!failed) lua_pop(L, 1);
  lua_pushboolean(L, !failed);
  if (!failed) return 1;
  lua_insert(L, -2);
  return 2;
}

static int close_again(lua_State *L, int status, lua_KContext serial) {
  (void)status;
  return close_step(L, serial);
}

static int coroutine_close(lua_State *L) {
  lua_State *co = lua_tothread(L, 1);
  luaL_argexpected(L, co != NULL, 1, "coroutine");
  lua_settop(L, 1);
  lua_Debug frame;
  if (co == L || (lua_status(co) == LUA_OK && lua_getstack(co, 0, &frame) != 0)) {
    return luaL_error(L, "cannot close a running coroutine");
  }
  if (coroutine_waits(co)) return luaL_error(L, "cannot close a coroutine that waits");
  if (is_suspended_here(co)) {
    closing_begin(L, co);
    return close_step(L, task_protect_enter(L));
  }
  int status = lua_resetthread(co);
  if (status == LUA_OK) {
    lua_settop(co, 0);
    lua_pushboolean(L, 1);
    return 1;
  }
  lua_pushboolean(L, 0);
  lua_xmove(co, L, 1);
  return 2;
}

static int closer_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  if (!lua_toboolean(L, -2)) return lua_error(L); // stack: closer, ok, error
  return 0;
}

static int closer_close(lua_State *L) {
  lua_settop(L, 1);
  lua_pushcfunction(L, coroutine_close);
  lua_getiuservalue(L, 1, 1);
  lua_callk(L, 1, 2, 0, closer_done);
  return closer_done(L, LUA_OK, 0);
}

/* task.generator(fn) -> iterator, nil, nil, closing value: a for loop that is left early closes the
 * generator, and its __close handlers may wait. */
static int task_generator(lua_State *L) {
  lua_settop(L, 1);
  coroutine_new(L, 1);
  lua_pushvalue(L, 2);
  lua_pushcclosure(L, generator_call, 1); // stack: fn, thread, iterator
  lua_pushnil(L);
  lua_pushnil(L);
  lua_newuserdatauv(L, 0, 1);
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, -2, 1);
  luaL_setmetatable(L, CLOSER_METATABLE);
  return 4;
}

void task_open_coroutine(lua_State *L) {
  static const luaL_Reg OURS[] = {
      {"create", coroutine_create}, {"wrap", coroutine_wrap},   {"resume", coroutine_resume},
      {"yield", coroutine_yield},   {"close", coroutine_close}, {NULL, NULL},
  };
  if (luaL_newmetatable(L, CLOSER_METATABLE)) {
    lua_pushcfunction(L, closer_close);
    lua_setfield(L, -2, "__close");
  }
  if (luaL_newmetatable(L, CLOSING_METATABLE)) {
    lua_pushcfunction(L, closing_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_pop(L, 2);
  lua_pushcfunction(L, task_generator);
  lua_setfield(L, -2, "generator");
  luaL_newlib(L, OURS); // stack: task, coroutine
  luaL_requiref(L, LUA_COLIBNAME, luaopen_coroutine, 0);
  static const char *const STOCK[] = {"status", "running", "isyieldable"};
  for (size_t i = 0; i < sizeof STOCK / sizeof STOCK[0]; i++) {
    lua_getfield(L, -1, STOCK[i]);
    lua_setfield(L, -3, STOCK[i]);
  }
  lua_pop(L, 1);
  lua_setfield(L, -2, "coroutine");
}
