/* lua_work.c: jobs for the thread pool. The contract is in lua_work.h.
 *
 * A job is malloc'd memory behind a userdata. While it is in flight the registry holds the userdata
 * (under the job's address), so that an abandoned job keeps what its thread reads. Only when the
 * state closes can the userdata be finalised earlier; the job is then freed by its own callback,
 * which the closing of the loop waits for. */
#include "base/lua_work.h"

#include <stdlib.h>
#include <lauxlib.h>

static const char BOX_TYPE[] = "nebula.work";

static int box_collect(lua_State *L) {
  lua_work **box = lua_touserdata(L, 1);
  lua_work *self = *box;
  *box = NULL;
  if (self == NULL) return 0;
  self->box = NULL;
  if (!self->in_flight) lua_work_release(self);
  return 0;
}

void *lua_work_new(lua_State *L, size_t size, const lua_work_class *class) {
  (void)task_loop(L); // made before the box, so that it is closed after it
  lua_work **box = lua_newuserdatauv(L, sizeof(lua_work *), 1);
  *box = NULL;
  if (luaL_newmetatable(L, BOX_TYPE)) {
    lua_pushcfunction(L, box_collect);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  lua_work *self = calloc(1, size);
  if (self == NULL) luaL_error(L, "not enough memory");
  self->class = class;
  self->box = box;
  *box = self;
  lua_gc(L, LUA_GCSTEP, (int)(size / 1024) + 1); // the collector does not see the job's memory
  return self;
}

void lua_work_anchor(lua_State *L, int index) {
  lua_setiuservalue(L, index, 1);
}

void lua_work_release(lua_work *self) {
  if (self->box != NULL) *self->box = NULL;
  if (self->class->destroy != NULL) self->class->destroy(self);
  free(self);
}

static void on_run(uv_work_t *request) {
  lua_work *self = request->data;
  self->class->run(self);
}

void lua_work_finish(lua_work *self) {
  lua_State *L = self->main;
  self->in_flight = false;
  task_wake(self->ticket);
  lua_rawgetp(L, LUA_REGISTRYINDEX, self);
  lua_pushnil(L); // stack: box, nil
  lua_setiuservalue(L, -2, 1);
  lua_pop(L, 1);
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, self);
  if (self->box == NULL) lua_work_release(self);
}

static void on_done(uv_work_t *request, int status) {
  (void)status; // UV_ECANCELED where it never ran: nobody waits then
  lua_work *self = request->data;
  if (self->class->ended != NULL) self->class->ended(self);
  if (!self->held) lua_work_finish(self);
}

static void abandon(void *data) {
  lua_work *self = data;
  atomic_store(&self->cancelled, true);
  (void)uv_cancel((uv_req_t *)&self->request); // refused where it runs already
}

int lua_work_wait(lua_State *L, int index, lua_KFunction done) {
  lua_work *self = *(lua_work **)lua_touserdata(L, index);
  lua_pushvalue(L, index);
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  self->main = lua_tothread(L, -1);
  lua_pop(L, 1); // stack: box
  self->ticket = task_wait_begin(L, self->class->call);
  lua_rawsetp(L, LUA_REGISTRYINDEX, self);
  self->request.data = self;
  self->in_flight = true;
  if (self->class->begun != NULL) self->class->begun(self);
  (void)uv_queue_work(&task_loop(L)->uv, &self->request, on_run,
                      on_done); // fails without a run only
  return task_wait(L, self->ticket, abandon, self, (lua_KContext)self, done);
}
