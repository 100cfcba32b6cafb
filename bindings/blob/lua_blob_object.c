/* lua_blob_object.c: a store's methods on whole objects: get, head, exists, delete, copy, download.
 * Each is one job. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "blob/lua_blob.h"
#include "fs/fs_ops.h"

enum { KEY = 2, OPTIONS = 3, PIECE = 256 * 1024, GET_MOST = 256 << 20 };

/* Those of S3 that mean nothing in a directory are taken, so that a script works with both. */
#define BLOB_CONDITION_OPTIONS "if_match", "if_none_match", "deadline"
#define BLOB_OBJECT_OPTIONS                                                                        \
  "cache_control", "content_disposition", "content_encoding", "content_language", "content_type",  \
      "metadata", "sse", "sse_kms_key_id", "storage_class"

static blob_job *begin(lua_State *L, const lua_work_class *class, const char *const names[]) {
  lua_settop(L, OPTIONS);
  opt_check(L, OPTIONS, class->call, names);
  blob_job *self = blob_job_new(L, class, sizeof(blob_job), true);
  blob_read_conditions(L, OPTIONS, class->call, &self->wish);
  return self;
}

static blob_job *end(lua_State *L, lua_KContext context) {
  blob_job *self = (blob_job *)context;
  if (self->error != 0)
    blob_raise(L, self->base.class->call, &self->key, self->culprit, self->error);
  return self;
}

/* True, and nil pushed, where the object is absent. */
static bool absent(lua_State *L, lua_KContext context) {
  if (((blob_job *)context)->error != BLOB_ABSENT) return false;
  lua_pushnil(L);
  return true;
}

/* ---- get ---- */

static void get_run(lua_work *work) {
  blob_job *self = (blob_job *)work;
  blob_reader reader;
  blob_conditions conditions = blob_conditions_of(&self->wish);
  self->error =
      blob_reader_open(&reader, self->store, self->key.text, self->key.length, &conditions);
  if (self->error != 0) return;
  uint64_t size = reader.info.size;
  if (self->ranged && (size == 0 || (self->first >= 0 && (uint64_t)self->first >= size))) {
    self->error = BLOB_OUTSIDE;
    blob_reader_close(&reader);
    return;
  }
  if (self->ranged) {
    uint64_t first = self->first >= 0                             ? (uint64_t)self->first
                     : size > (uint64_t)0 - (uint64_t)self->first ? size + (uint64_t)self->first
                                                                  : 0;
    blob_reader_limit(&reader, first, self->last < 0 ? size : (uint64_t)self->last + 1);
  }
  uint64_t wanted = reader.end - reader.at;
  if (wanted > self->most) {
    self->error = BLOB_LARGE;
  } else {
    self->result = malloc((size_t)wanted + 1);
    self->error = self->result == NULL ? ENOMEM
                                       : blob_reader_read(&reader, self->result, (size_t)wanted,
                                                          &self->result_length);
  }
  self->info = reader.info;
  reader.info.pairs = NULL; // taken over
  blob_reader_close(&reader);
}

static int get_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  if (absent(L, context)) return 1;
  blob_job *self = end(L, context);
  lua_pushlstring(L, self->result, self->result_length);
  blob_push_info(L, self->key.text, self->key.length, &self->info);
  lua_work_release(&self->base);
  return 2;
}

/* { first, last }: bytes counted from 0, both included; without last, to the end; a negative first
 * alone: that many bytes at the end. */
static void read_range(lua_State *L, const char *call, blob_job *self) {
  if (!lua_istable(L, OPTIONS) || lua_getfield(L, OPTIONS, "range") == LUA_TNIL) return;
  bool well = lua_istable(L, -1);
  if (well) {
    lua_rawgeti(L, -1, 1);
    lua_rawgeti(L, -2, 2); // stack: ..., range, first, last
    well = lua_isinteger(L, -2) && (lua_isnil(L, -1) || lua_isinteger(L, -1));
    self->first = lua_tointeger(L, -2);
    self->last = lua_isnil(L, -1) ? -1 : lua_tointeger(L, -1);
    bool open = lua_isnil(L, -1);
    well = well && (open || (self->first >= 0 && self->last >= self->first));
  }
  if (!well) {
    err_raisef(L, ERR_VALIDATION, "blob",
               "%s: range must be { first, last } with bytes counted from 0, { first } to the end, "
               "or { -n } for the last n bytes",
               call);
  }
  self->ranged = true;
}

static int store_get(lua_State *L) {
  static const lua_work_class GET = {
      .call = "store:get", .run = get_run, .destroy = blob_job_destroy};
  static const char *const NAMES[] = {BLOB_CONDITION_OPTIONS, "max_bytes", "range", NULL};
  blob_job *self = begin(L, &GET, NAMES);
  int job = lua_gettop(L);
  lua_Integer most = GET_MOST;
  if (lua_istable(L, OPTIONS))
    opt_integer(L, OPTIONS, GET.call, "max_bytes", 1, LUA_MAXINTEGER, &most);
  self->most = (uint64_t)most;
  read_range(L, GET.call, self);
  lua_settop(L, job);
  return blob_job_wait(L, 1, get_done);
}

/* ---- head and exists ---- */

static void head_run(lua_work *work) {
  blob_job *self = (blob_job *)work;
  blob_reader reader;
  blob_conditions conditions = blob_conditions_of(&self->wish);
  self->error =
      blob_reader_open(&reader, self->store, self->key.text, self->key.length, &conditions);
  if (self->error != 0) return;
  self->info = reader.info;
  reader.info.pairs = NULL; // taken over
  blob_reader_close(&reader);
}

static int head_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  if (absent(L, context)) return 1;
  blob_job *self = end(L, context);
  blob_push_info(L, self->key.text, self->key.length, &self->info);
  lua_work_release(&self->base);
  return 1;
}

static int exists_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  blob_job *self = (blob_job *)context;
  bool found = self->error != BLOB_ABSENT;
  if (found) (void)end(L, context);
  lua_work_release(&self->base);
  lua_pushboolean(L, found);
  return 1;
}

static const char *const HEAD_NAMES[] = {BLOB_CONDITION_OPTIONS, NULL};

static int store_head(lua_State *L) {
  static const lua_work_class HEAD = {
      .call = "store:head", .run = head_run, .destroy = blob_job_destroy};
  (void)begin(L, &HEAD, HEAD_NAMES);
  return blob_job_wait(L, 1, head_done);
}

static int store_exists(lua_State *L) {
  static const lua_work_class EXISTS = {
      .call = "store:exists", .run = head_run, .destroy = blob_job_destroy};
  (void)begin(L, &EXISTS, HEAD_NAMES);
  return blob_job_wait(L, 1, exists_done);
}

/* ---- delete ---- */

static void delete_run(lua_work *work) {
  blob_job *self = (blob_job *)work;
  blob_conditions conditions = blob_conditions_of(&self->wish);
  self->error = blob_delete(self->store, self->key.text, self->key.length, &conditions);
  if (self->error == BLOB_ABSENT) self->error = 0; // what was gone before is as well as deleted
}

static int delete_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  lua_work_release(&end(L, context)->base);
  return 0;
}

static int store_delete(lua_State *L) {
  static const lua_work_class DELETE = {
      .call = "store:delete", .run = delete_run, .destroy = blob_job_destroy};
  static const char *const NAMES[] = {"if_match", "deadline", NULL};
  (void)begin(L, &DELETE, NAMES);
  return blob_job_wait(L, 1, delete_done);
}

static void delete_many_run(lua_work *work) {
  blob_job *self = (blob_job *)work;
  const unsigned char *at = (const unsigned char *)bytes_text(&self->keys);
  const unsigned char *stop = at + self->keys.length;
  while (self->error == 0 && at < stop && !atomic_load(&work->cancelled)) {
    self->key.length = (size_t)at[0] << 8 | at[1];
    memcpy(self->key.text, at + 2, self->key.length);
    at += 2 + self->key.length;
    delete_run(work);
  }
}

static int delete_many_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)end(L, context);
  lua_pushinteger(L, luaL_len(L, KEY));
  return 1;
}

static int store_delete_many(lua_State *L) {
  static const lua_work_class DELETE = {
      .call = "store:delete_many", .run = delete_many_run, .destroy = blob_job_destroy};
  static const char *const NAMES[] = {"deadline", NULL};
  lua_settop(L, OPTIONS);
  if (!lua_istable(L, KEY)) {
    err_raisef(L, ERR_VALIDATION, "blob", "%s: wants a list of keys, got %s", DELETE.call,
               luaL_typename(L, KEY));
  }
  opt_check(L, OPTIONS, DELETE.call, NAMES);
  blob_job *self = blob_job_new(L, &DELETE, sizeof(blob_job), false);
  lua_Integer count = luaL_len(L, KEY);
  for (lua_Integer i = 1; i <= count; i++) {
    lua_rawgeti(L, KEY, i);
    blob_check_key(L, -1, DELETE.call, &self->key);
    lua_pop(L, 1);
    bytes_append_char(&self->keys, (char)(self->key.length >> 8));
    bytes_append_char(&self->keys, (char)(self->key.length & 0xFF));
    bytes_append(&self->keys, self->key.text, self->key.length);
  }
  if (self->keys.failed) luaL_error(L, "not enough memory");
  return blob_job_wait(L, 1, delete_many_done);
}

/* ---- copy ---- */

static void copy_run(lua_work *work) {
  blob_job *self = (blob_job *)work;
  blob_reader reader;
  blob_writer writer = {.fd = -1};
  blob_conditions none = {0}, conditions = blob_conditions_of(&self->wish);
  self->error = blob_reader_open(&reader, self->store, self->key.text, self->key.length, &none);
  if (self->error != 0) return;
  char *piece = malloc(PIECE);
  self->error = piece == NULL ? ENOMEM : blob_writer_open(&writer, self->store);
  for (size_t got = 1; self->error == 0 && got > 0;) {
    self->error = blob_reader_read(&reader, piece, PIECE, &got);
    if (self->error == 0) self->error = blob_writer_write(&writer, piece, got);
    if (self->error == 0 && atomic_load(&work->cancelled)) self->error = ECANCELED;
  }
  free(piece);
  const blob_wish *wish = &self->wish;
  bytes pairs = {0};
  if (!wish->has_pairs) blob_pairs_append(&pairs, &reader.info, false);
  bytes_append(&pairs, bytes_text(&wish->pairs), wish->pairs.length);
  blob_pairs_append(&pairs, &reader.info, true);
  if (pairs.failed) self->error = ENOMEM;
  if (self->error == 0) {
    self->error = blob_writer_commit(&writer, self->other.text, self->other.length, &conditions,
                                     bytes_text(&pairs), pairs.length, &self->info);
  }
  bytes_free(&pairs);
  blob_writer_abort(&writer);
  blob_reader_close(&reader);
}

static int copy_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  blob_job *self = (blob_job *)context;
  if (self->error == BLOB_CONFLICT)
    blob_raise(L, self->base.class->call, &self->other, NULL, self->error);
  (void)end(L, context);
  blob_push_stored(L, &self->other, &self->info);
  return 1;
}

/* store:copy(from, to, options) */
static int store_copy(lua_State *L) {
  static const lua_work_class COPY = {
      .call = "store:copy", .run = copy_run, .destroy = blob_job_destroy};
  static const char *const NAMES[] = {BLOB_OBJECT_OPTIONS, BLOB_CONDITION_OPTIONS, "concurrency",
                                      "part_size", NULL};
  enum { TO = 3, COPY_OPTIONS };
  lua_settop(L, COPY_OPTIONS);
  opt_check(L, COPY_OPTIONS, COPY.call, NAMES);
  blob_job *self = blob_job_new(L, &COPY, sizeof(blob_job), true);
  blob_check_key(L, TO, COPY.call, &self->other);
  blob_read_put_conditions(L, COPY_OPTIONS, COPY.call, &self->wish);
  blob_read_pairs(L, COPY_OPTIONS, COPY.call, &self->wish);
  return blob_job_wait(L, 1, copy_done);
}

/* ---- download ---- */

static int download_to(blob_job *self, blob_reader *reader, int fd, const char *beside) {
  char *piece = malloc(PIECE);
  int error = piece == NULL ? ENOMEM : 0;
  for (size_t got = 1; error == 0 && got > 0;) {
    error = blob_reader_read(reader, piece, PIECE, &got);
    if (error == 0) {
      error = fs_write_fully(fd, piece, got);
      self->culprit = error != 0 ? self->file : NULL;
    }
    if (error == 0 && atomic_load(&self->base.cancelled)) error = ECANCELED;
  }
  free(piece);
  if (error == 0 && rename(beside, self->file) != 0) {
    error = errno;
    self->culprit = self->file;
  }
  return error;
}

static void download_run(lua_work *work) {
  blob_job *self = (blob_job *)work;
  blob_reader reader;
  blob_conditions conditions = blob_conditions_of(&self->wish);
  self->error =
      blob_reader_open(&reader, self->store, self->key.text, self->key.length, &conditions);
  if (self->error != 0) return;
  char *beside = NULL;
  int fd = -1;
  self->error = fs_open_beside(self->file, &beside, &fd);
  if (self->error != 0) {
    self->culprit = self->file;
  } else {
    self->error = download_to(self, &reader, fd, beside);
    (void)close(fd);
    if (self->error != 0) (void)unlink(beside);
  }
  free(beside);
  self->info = reader.info;
  reader.info.pairs = NULL; // taken over
  blob_reader_close(&reader);
}

static int download_done(lua_State *L, int status, lua_KContext context) {
  uint64_t size = ((blob_job *)context)->info.size;
  bool found = ((blob_job *)context)->error == 0;
  (void)head_done(L, status, context);
  return found ? blob_return_told(L, OPTIONS, "store:download", size) : 1;
}

static int store_download(lua_State *L) {
  static const lua_work_class DOWNLOAD = {
      .call = "store:download", .run = download_run, .destroy = blob_job_destroy};
  static const char *const NAMES[] = {
      BLOB_CONDITION_OPTIONS, "concurrency", "file", "part_size", "progress", NULL};
  blob_job *self = begin(L, &DOWNLOAD, NAMES);
  const char *file;
  size_t length;
  if (!lua_istable(L, OPTIONS) || !opt_string(L, OPTIONS, DOWNLOAD.call, "file", &file, &length) ||
      length == 0 || strlen(file) != length) {
    err_raisef(L, ERR_VALIDATION, "blob", "%s: wants { file = path }, where to put the bytes",
               DOWNLOAD.call);
  }
  (void)blob_push_progress(L, OPTIONS, DOWNLOAD.call);
  lua_pop(L, 1);
  self->file = strdup(file);
  if (self->file == NULL) luaL_error(L, "not enough memory");
  return blob_job_wait(L, 1, download_done);
}

void blob_add_object_methods(lua_State *L) {
  static const luaL_Reg METHODS[] = {
      {"copy", store_copy},
      {"delete", store_delete},
      {"delete_many", store_delete_many},
      {"download", store_download},
      {"exists", store_exists},
      {"get", store_get},
      {"head", store_head},
      {NULL, NULL},
  };
  luaL_setfuncs(L, METHODS, 0);
}
