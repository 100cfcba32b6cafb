/* lua_walk.c: fs.list and fs.walk: iterators that take a batch of entries from the thread pool and
 * hand them out one by one. Leaving the loop early closes the directories. */
#include <stdlib.h>
#include <string.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "base/lua_work.h"
#include "fs/fs_ops.h"
#include "fs/fs_walk.h"
#include "fs/lua_fs.h"

static const char WALK_TYPE[] = "nebula.fs.walk";

typedef struct walker {
  const char *call;
  fs_walk *walk; /* NULL before the first batch */
  fs_batch batch;
  size_t next; /* of the batch */
  size_t root; /* the length of the path before an entry's own part */
  bool recursive, busy, dropped, ended;
  char path[]; /* as it was given */
} walker;

typedef struct walk_job {
  lua_work base;
  walker *walker;
  int error;
  char *failed; /* owned */
} walk_job;

static void walker_free(walker *self) {
  fs_walk_close(self->walk);
  fs_batch_clear(&self->batch);
  free(self);
}

static void job_run(lua_work *work) {
  walk_job *self = (walk_job *)work;
  walker *target = self->walker;
  if (target->walk == NULL)
    self->error = fs_walk_open(target->path, target->recursive, &target->walk);
  if (self->error == 0) self->error = fs_walk_next(target->walk, &target->batch, &self->failed);
}

static void job_begun(lua_work *work) {
  walker *target = ((walk_job *)work)->walker;
  fs_batch_clear(&target->batch);
  target->next = 0;
  target->busy = true;
}

static void job_ended(lua_work *work) {
  walker *target = ((walk_job *)work)->walker;
  target->busy = false;
  if (target->dropped) walker_free(target);
}

static void job_destroy(lua_work *work) {
  free(((walk_job *)work)->failed);
}

/* Pushes the next entry of the batch: list gives name and type, walk a table. */
static int push_entry(lua_State *L, walker *self) {
  const fs_entry *entry = &self->batch.entries[self->next];
  const char *type = fs_type_name(entry->mode);
  if (!self->recursive) {
    lua_pushstring(L, strrchr(entry->path, '/') + 1);
    lua_pushstring(L, type);
    self->next++;
    return 2;
  }
  lua_createtable(L, 0, 5);
  lua_pushstring(L, entry->path);
  lua_setfield(L, -2, "path");
  lua_pushstring(L, entry->path + self->root);
  lua_setfield(L, -2, "relative");
  lua_pushstring(L, type);
  lua_setfield(L, -2, "type");
  lua_pushinteger(L, (lua_Integer)entry->size);
  lua_setfield(L, -2, "size");
  lua_pushnumber(L, entry->changed);
  lua_setfield(L, -2, "modified");
  self->next++;
  return 1;
}

static int batch_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  walk_job *job = (walk_job *)context;
  walker *self = *(walker **)lua_touserdata(L, 1);
  if (self == NULL) return 0; // closed meanwhile
  if (job->error != 0) {
    self->ended = true;
    fs_raise(L, self->call, job->failed != NULL ? job->failed : self->path, job->error);
  }
  self->ended = self->batch.count == 0;
  return self->ended ? 0 : push_entry(L, self);
}

/* The iterator: called with its own userdata as the state. */
static int walk_step(lua_State *L) {
  static const lua_work_class STEP = {.call = "fs.walk",
                                      .run = job_run,
                                      .begun = job_begun,
                                      .ended = job_ended,
                                      .destroy = job_destroy};
  walker *self = *(walker **)luaL_checkudata(L, 1, WALK_TYPE);
  if (self == NULL || self->ended) return 0;
  if (self->busy)
    err_raisef(L, ERR_VALIDATION, NULL, "%s: another task is reading this iterator", self->call);
  if (self->next < self->batch.count) return push_entry(L, self);
  lua_settop(L, 1);
  walk_job *job = lua_work_new(L, sizeof *job, &STEP);
  job->walker = self;
  lua_pushvalue(L, 1);
  lua_work_anchor(L, -2);
  return lua_work_wait(L, -1, batch_done);
}

static int walk_collect(lua_State *L) {
  walker **box = luaL_checkudata(L, 1, WALK_TYPE);
  walker *self = *box;
  *box = NULL;
  if (self == NULL) return 0;
  self->dropped = self->busy;
  if (!self->busy) walker_free(self);
  return 0;
}

static int walk_leave(lua_State *L) {
  lua_settop(L, 1);
  return walk_collect(L);
}

/* Pushes what a generic for wants: the iterator, its state, no first value, what to close. */
static int walk_begin(lua_State *L, const char *call, bool recursive) {
  const char *path = fs_check_path(L, 1, call);
  lua_pushcfunction(L, walk_step);
  walker **box = lua_newuserdatauv(L, sizeof(walker *), 0);
  *box = NULL;
  luaL_setmetatable(L, WALK_TYPE);
  size_t size = strlen(path) + 1;
  walker *self = calloc(1, sizeof *self + size);
  if (self == NULL) luaL_error(L, "not enough memory");
  memcpy(self->path, path, size);
  self->call = call;
  self->recursive = recursive;
  for (self->root = size - 1; self->root > 1 && path[self->root - 1] == '/';)
    self->root--;
  self->root += path[self->root - 1] != '/'; // behind the slash that joins
  *box = self;
  lua_pushnil(L);
  lua_pushvalue(L, -2); // stack: iterator, state, nil, state
  return 4;
}

int fs_list(lua_State *L) {
  return walk_begin(L, "fs.list", false);
}

int fs_walk_tree(lua_State *L) {
  return walk_begin(L, "fs.walk", true);
}

void fs_open_walks(lua_State *L) {
  static const luaL_Reg METHODS[] = {{"__gc", walk_collect}, {"__close", walk_leave}, {NULL, NULL}};
  luaL_newmetatable(L, WALK_TYPE);
  luaL_setfuncs(L, METHODS, 0);
  lua_pop(L, 1);
}
