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

/* In a thread's extra space: suspended in our own yield, so that TASK_KILL can be raised there. */
static const char SUSPENDED_HERE;

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

static int yield_continue(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  scheduler *s = task_scheduler(L);
  if (s->kill == L) {
    s->kill = NULL;
    lua_pushlightuserdata(L, (void *)&TASK_KILL);
    return lua_error(L);
  }
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
  task_adopt(L, (task *)&SUSPENDED_HERE);
  return lua_yieldk(L, lua_gettop(L), 0, yield_continue);
}

/* What a resume came to. */
typedef enum outcome { GAVE, ENDED, FAILED, WAITS } outcome;

/* A generator in a generator in a generator lies deep in the C stack. Lua counts C levels, three
 * for each of ours, and would end at 65; a task counts bytes instead. One coroutine alone adds at
 * most Lua's own 200 levels, well under the rest of the smallest usual stack of 8 MB. */
#define STACK_BYTES ((uintptr_t)2 << 20)

static bool stack_is_deep(const scheduler *s) {
  char here;
  return s->stack_base - (uintptr_t)&here > STACK_BYTES;
}

/* Resumes co on behalf of L's task; count is the number of values on top of co's stack. */
static outcome coroutine_step(lua_State *L, lua_State *co, int nargs, int *count) {
  scheduler *s = task_scheduler(L);
  task *self = task_of(L);
  if (self != NULL && stack_is_deep(s)) {
    lua_pop(co, nargs);
    lua_pushliteral(co, "C stack overflow: too many coroutines inside each other");
    return FAILED;
  }
  bool pins = self != NULL && !lua_isyieldable(L);
  task_adopt(co, self);
  if (self != NULL) {
    self->pinned += pins;
    s->running_thread = co;
    if (self->expired) task_hook_arm(co);
  }
  int extra =
      lua_status(co) == LUA_OK; /* at the start body takes the function as its first argument */
  int status = lua_resume(co, self != NULL ? s->work : L, nargs + extra, count);
  if (self != NULL) {
    self->pinned -= pins;
    s->running_thread = L;
    if (self->expired) task_hook_arm(L);
    if (status == LUA_YIELD && self->state == TASK_WAITING) return WAITS;
  }
  if (*(task **)lua_getextraspace(co) == self) task_adopt(co, NULL);
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
  const void *mark = *(const void **)lua_getextraspace(co);
  return lua_status(co) == LUA_YIELD && mark != NULL && mark != &SUSPENDED_HERE;
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
  switch (coroutine_step(L, co, nargs, &count)) {
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

static int wrap_step(lua_State *L, int nargs) {
  lua_State *co = lua_tothread(L, 1);
  int count = 0;
  switch (coroutine_step(L, co, nargs, &count)) {
  case WAITS: return lua_yieldk(L, 0, 0, wrap_again);
  case FAILED: lua_xmove(co, L, 1); return lua_error(L);
  case GAVE:
  case ENDED: break;
  }
  if (!take_values(L, co, count)) return lua_error(L);
  return count;
}

static int wrap_again(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  return wrap_step(L, 0);
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
  return wrap_step(L, nargs);
}

/* A generator's call: nil once it has ended, so that a for loop ends. */
static int generator_call(lua_State *L) {
  lua_State *co = lua_tothread(L, lua_upvalueindex(1));
  if (lua_status(co) == LUA_OK && lua_gettop(co) == 0) {
    lua_pushnil(L);
    return 1;
  }
  lua_settop(L, 0);
  lua_pushvalue(L, lua_upvalueindex(1));
  return wrap_step(L, 0);
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

static int close_again(lua_State *L, int status, lua_KContext context);

/* stack: thread. Returns true, or false and an error. */
static int close_step(lua_State *L) {
  lua_State *co = lua_tothread(L, 1);
  int count = 0;
  outcome came = coroutine_step(L, co, 0, &count);
  if (came == WAITS) return lua_yieldk(L, 0, 0, close_again);
  task_scheduler(L)->kill = NULL;
  bool failed = came == FAILED && lua_touserdata(co, -1) != &TASK_KILL;
  if (failed) {
    lua_xmove(co, L, 1);
  } else if (came == GAVE) {
    lua_pushliteral(L, "the coroutine yielded while it was being closed");
    failed = true;
  }
  lua_resetthread(co);
  lua_settop(co, 0);
  lua_pushboolean(L, !failed);
  if (!failed) return 1;
  lua_insert(L, -2);
  return 2;
}

static int close_again(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  return close_step(L);
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
  if (lua_status(co) == LUA_YIELD && *(const char **)lua_getextraspace(co) == &SUSPENDED_HERE) {
    task_scheduler(L)->kill = co;
    return close_step(L);
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
  lua_pop(L, 1);
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
