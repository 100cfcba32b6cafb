/* lua_blob_store.c: a store's methods about the whole of it: unfinished uploads, the directory as a
 * bucket, and what a directory cannot do. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "blob/lua_blob.h"
#include "time/time_calendar.h"

enum { OPTIONS = 2 };

/* ---- uploads, abort, abort_uploads ---- */

typedef struct uploads_job {
  blob_job base;
  char *prefix; /* owned; may be NULL */
  double older_than;
  blob_upload *list;
  size_t count, aborted;
  bool aborts;
} uploads_job;

static void uploads_destroy(lua_work *work) {
  uploads_job *self = (uploads_job *)work;
  for (size_t i = 0; i < self->count; i++)
    free(self->list[i].key);
  free(self->list);
  free(self->prefix);
  blob_job_destroy(work);
}

static bool is_meant(const uploads_job *self, const blob_upload *upload, int64_t now) {
  const char *prefix = self->prefix == NULL ? "" : self->prefix;
  return strncmp(upload->key, prefix, strlen(prefix)) == 0 &&
         (double)(now - upload->began) >= self->older_than * 1e6;
}

static void uploads_run(lua_work *work) {
  uploads_job *self = (uploads_job *)work;
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  int64_t microseconds = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
  int error = blob_uploads(self->base.store, &self->list, &self->count);
  size_t kept = 0;
  for (size_t i = 0; i < self->count; i++) {
    if (is_meant(self, &self->list[i], microseconds)) {
      blob_upload moved = self->list[i];
      self->list[i].key = NULL;
      self->list[kept++] = moved;
    } else {
      free(self->list[i].key);
      self->list[i].key = NULL;
    }
  }
  self->count = kept;
  for (size_t i = 0; self->aborts && error == 0 && i < kept; i++) {
    error = blob_upload_abort(self->base.store, self->list[i].id);
    self->aborted += error == 0;
  }
  self->base.error = error;
}

static int uploads_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  uploads_job *self = (uploads_job *)context;
  if (self->base.error != 0)
    blob_raise(L, self->base.base.class->call, &self->base.key, NULL, self->base.error);
  if (self->aborts) {
    lua_pushinteger(L, (lua_Integer)self->aborted);
    return 1;
  }
  lua_createtable(L, (int)self->count, 0);
  for (size_t i = 0; i < self->count; i++) {
    const blob_upload *upload = &self->list[i];
    char time[TIME_TEXT_MOST];
    lua_createtable(L, 0, 3);
    lua_pushstring(L, upload->key);
    lua_setfield(L, -2, "key");
    lua_pushstring(L, upload->id);
    lua_setfield(L, -2, "id");
    lua_pushlstring(L, time, time_format(upload->began, 0, true, time));
    lua_setfield(L, -2, "initiated");
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}

static int uploads(lua_State *L, const lua_work_class *class, bool aborts) {
  static const char *const NAMES[] = {"prefix", "older_than", NULL};
  lua_settop(L, OPTIONS);
  opt_check(L, OPTIONS, class->call, NAMES);
  const char *prefix = NULL;
  double older_than = -1;
  if (lua_istable(L, OPTIONS)) {
    opt_string(L, OPTIONS, class->call, "prefix", &prefix, NULL);
    opt_duration(L, OPTIONS, class->call, "older_than", &older_than);
  }
  if (aborts && older_than < 0)
    err_raisef(L, ERR_VALIDATION, "blob",
               "%s: older_than is missing: younger uploads may still be going on", class->call);
  uploads_job *self = (uploads_job *)blob_job_new(L, class, sizeof *self, false);
  self->aborts = aborts;
  self->older_than = older_than < 0 ? 0 : older_than;
  self->prefix = prefix == NULL ? NULL : strdup(prefix);
  if (prefix != NULL && self->prefix == NULL) luaL_error(L, "not enough memory");
  return blob_job_wait(L, 1, uploads_done);
}

/* store:uploads{prefix=, older_than=} -> list of { key=, id=, initiated= } */
static int store_uploads(lua_State *L) {
  static const lua_work_class UPLOADS = {
      .call = "store:uploads", .run = uploads_run, .destroy = uploads_destroy};
  return uploads(L, &UPLOADS, false);
}

/* store:abort_uploads{prefix=, older_than=} -> how many */
static int store_abort_uploads(lua_State *L) {
  static const lua_work_class ABORT = {
      .call = "store:abort_uploads", .run = uploads_run, .destroy = uploads_destroy};
  return uploads(L, &ABORT, true);
}

static void abort_run(lua_work *work) {
  blob_job *self = (blob_job *)work;
  self->error = blob_upload_abort(self->store, self->id);
}

static int nothing_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  blob_job *self = (blob_job *)context;
  if (self->error != 0) blob_raise(L, self->base.class->call, &self->key, NULL, self->error);
  return 0;
}

/* store:abort(key, id), or the table that uploads gave. What is gone already is aborted. */
static int store_abort(lua_State *L) {
  static const lua_work_class ABORT = {
      .call = "store:abort", .run = abort_run, .destroy = blob_job_destroy};
  if (lua_istable(L, 2)) {
    lua_settop(L, 2);
    lua_getfield(L, 2, "id");
    lua_getfield(L, 2, "key");
    lua_replace(L, 2); // stack: store, key, id
  }
  lua_settop(L, 3);
  if (lua_type(L, 3) != LUA_TSTRING)
    err_raisef(L, ERR_VALIDATION, "blob", "%s wants a key and an upload's id, or one of uploads()",
               ABORT.call);
  blob_job *self = blob_job_new(L, &ABORT, sizeof *self, true);
  size_t length;
  const char *id = lua_tolstring(L, 3, &length);
  if (length < sizeof self->id) memcpy(self->id, id, length + 1); // a longer one is none of ours
  return blob_job_wait(L, 1, nothing_done);
}

/* ---- the directory as a bucket ---- */

static void create_run(lua_work *work) {
  blob_job *self = (blob_job *)work;
  self->error = blob_store_prepare(self->store);
}

static void exists_run(lua_work *work) {
  blob_job *self = (blob_job *)work;
  self->error = blob_store_exists(self->store) ? 0 : BLOB_ABSENT;
}

static int exists_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  lua_pushboolean(L, ((blob_job *)context)->error == 0);
  return 1;
}

static void remove_run(lua_work *work) {
  blob_job *self = (blob_job *)work;
  self->error = blob_store_remove(self->store);
}

static int remove_done(lua_State *L, int status, lua_KContext context) {
  blob_job *self = (blob_job *)context;
  if (self->error != ENOTEMPTY && self->error != EEXIST) return nothing_done(L, status, context);
  err_info info = {.kind = ERR_CONFLICT, .source = "blob", .code = "BucketNotEmpty"};
  info.message = lua_pushfstring(
      L, "store:delete_bucket: %s still holds objects, or uploads are under way: delete them first",
      self->store->root);
  err_raise(L, &info);
}

static int whole(lua_State *L, const lua_work_class *class, lua_KFunction done) {
  static const char *const NAMES[] = {"deadline", NULL};
  lua_settop(L, OPTIONS);
  opt_check(L, OPTIONS, class->call, NAMES);
  (void)blob_job_new(L, class, sizeof(blob_job), false);
  return blob_job_wait(L, 1, done);
}

static int store_create_bucket(lua_State *L) {
  static const lua_work_class CREATE = {
      .call = "store:create_bucket", .run = create_run, .destroy = blob_job_destroy};
  return whole(L, &CREATE, nothing_done);
}

static int store_bucket_exists(lua_State *L) {
  static const lua_work_class EXISTS = {
      .call = "store:bucket_exists", .run = exists_run, .destroy = blob_job_destroy};
  return whole(L, &EXISTS, exists_done);
}

static int store_delete_bucket(lua_State *L) {
  static const lua_work_class DELETE = {
      .call = "store:delete_bucket", .run = remove_run, .destroy = blob_job_destroy};
  return whole(L, &DELETE, remove_done);
}

static int store_presign(lua_State *L) {
  const blob_store *self = blob_check_store(L, "store:presign");
  err_raisef(L, ERR_CONFIG, "blob",
             "store:presign: the directory %s has no presigned URLs: they need S3 (S3_BUCKET)",
             self->root);
}

void blob_add_store_methods(lua_State *L) {
  static const luaL_Reg METHODS[] = {
      {"abort", store_abort},
      {"abort_uploads", store_abort_uploads},
      {"bucket_exists", store_bucket_exists},
      {"create_bucket", store_create_bucket},
      {"delete_bucket", store_delete_bucket},
      {"presign", store_presign},
      {"uploads", store_uploads},
      {NULL, NULL},
  };
  luaL_setfuncs(L, METHODS, 0);
}
