/* lua_work.h: running a blocking function on libuv's thread pool while the task waits for it.
 *
 *   typedef struct read_job { lua_work base; char *path; ... int error; } read_job;
 *
 *   static void read_run(lua_work *work);      // on a thread of the pool: no Lua in here
 *   static void read_destroy(lua_work *work);  // frees what the job holds, not the job itself
 *   static const lua_work_class READ = {.call = "fs.read", .run = read_run, .destroy =
 * read_destroy};
 *
 *   read_job *job = lua_work_new(L, sizeof *job, &READ);  // pushes its userdata, zeroed
 *   ... fill it in; lua_work_anchor what the thread reads of Lua's memory ...
 *   return lua_work_wait(L, -1, read_done);               // yields; then read_done(L, status, job)
 *
 * The job and its anchors live until the thread is done, also where the task is cancelled before:
 * then `done` does not run and destroy is called when both the thread and Lua have let go of it.
 * All but `run` happens on the loop's thread. */
#ifndef NEBULA_BASE_LUA_WORK_H
#define NEBULA_BASE_LUA_WORK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <lua.h>
#include "async/task.h"

typedef struct lua_work lua_work;

typedef struct lua_work_class {
  const char *call; /* names the call in errors */
  void (*run)(lua_work *self);
  void (*begun)(lua_work *self);   /* it goes to the pool, nothing can fail any more; may be NULL */
  void (*ended)(lua_work *self);   /* when the thread is done, waited for or not; may be NULL */
  void (*destroy)(lua_work *self); /* called once; may be NULL */
} lua_work_class;

struct lua_work {
  const lua_work_class *class;
  atomic_bool cancelled; /* nobody waits any more: a long run may end early */
  uv_work_t request;
  task_ticket ticket;
  lua_State *main;
  lua_work **box; /* in the userdata; NULL once that is collected */
  bool in_flight, held;
};

/* Pushes a new job of `size` bytes, whose first member is its lua_work. */
void *lua_work_new(lua_State *L, size_t size, const lua_work_class *class);

/* Keeps the value on top of the stack alive as long as the job at index, and pops it. One value. */
void lua_work_anchor(lua_State *L, int index);

/* Queues the job at index and waits. `done` is a continuation: its context is the job, the stack is
 * that of the call. Raises what task_wait_begin raises. Use as `return lua_work_wait(...)`. */
int lua_work_wait(lua_State *L, int index, lua_KFunction done);

/* For `ended`: the wait goes on until lua_work_finish is called on the loop's thread. */
static inline void lua_work_hold(lua_work *self) {
  self->held = true;
}

void lua_work_finish(lua_work *self);

/* Frees the job now, for a `done` that has used what it held and does not touch it again. */
void lua_work_release(lua_work *self);

#endif
