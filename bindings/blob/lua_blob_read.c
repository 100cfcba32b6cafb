/* lua_blob_read.c: a store's readers: an object's bytes piece by piece, verified at its end. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <lauxlib.h>
#include "base/lua_compress.h"
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "blob/lua_blob.h"

enum { OPTIONS = 3, READ_PRESET = 256 * 1024, READ_MOST = 64 * 1024 * 1024 };

static const char READER_TYPE[] = "nebula.blob.reader";

typedef struct source {
  blob_reader reader;
  blob_key key;
  decompress_stream *decompress; /* NULL: the bytes as they are stored */
  bytes stored, plain;           /* read and not yet decompressed; decompressed and not yet given */
  size_t used, given;
  bool ended, busy, dropped;
} source;

typedef struct read_job {
  lua_work base;
  blob_store *store; /* held by the job that opens */
  source *source;
  blob_wish wish;
  size_t length;
  char *result; /* owned */
  int error;
} read_job;

static void source_free(source *self) {
  blob_reader_close(&self->reader);
  decompress_free(self->decompress);
  bytes_free(&self->stored);
  bytes_free(&self->plain);
  free(self);
}

static void job_begun(lua_work *work) {
  ((read_job *)work)->source->busy = true;
}

static void job_ended(lua_work *work) {
  source *self = ((read_job *)work)->source;
  self->busy = false;
  if (self->dropped) source_free(self);
}

static void job_destroy(lua_work *work) {
  read_job *self = (read_job *)work;
  blob_store_release(self->store);
  blob_wish_free(&self->wish);
  free(self->result);
}

static int reader_collect(lua_State *L) {
  source **box = luaL_checkudata(L, 1, READER_TYPE);
  source *self = *box;
  *box = NULL;
  if (self == NULL) return 0;
  self->dropped = self->busy;
  if (!self->busy) source_free(self);
  return 0;
}

static int reader_close(lua_State *L) {
  lua_settop(L, 1);
  return reader_collect(L);
}

/* Pushes a job on the reader at index. */
static read_job *push_job(lua_State *L, const lua_work_class *class, source *self, int reader) {
  read_job *job = lua_work_new(L, sizeof *job, class);
  job->source = self;
  lua_createtable(L, 2, 0);
  lua_pushvalue(L, reader);
  lua_rawseti(L, -2, 1);
  lua_pushvalue(L, 1);
  lua_rawseti(L, -2, 2);
  lua_work_anchor(L, -2);
  return job;
}

static void open_run(lua_work *work) {
  read_job *self = (read_job *)work;
  source *target = self->source;
  blob_conditions conditions = blob_conditions_of(&self->wish);
  self->error = blob_reader_open(&target->reader, self->store, target->key.text, target->key.length,
                                 &conditions);
}

static int open_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  read_job *job = (read_job *)context;
  source *self = job->source;
  if (job->error == BLOB_ABSENT) {
    lua_pushnil(L);
    return 1;
  }
  if (job->error != 0) blob_raise(L, job->base.class->call, &self->key, NULL, job->error);
  lua_settop(L, OPTIONS + 1); // stack: store, key, options, reader
  return 1;
}

/* store:reader(key, options) -> reader */
static int store_reader(lua_State *L) {
  static const lua_work_class OPEN = {.call = "store:reader",
                                      .run = open_run,
                                      .begun = job_begun,
                                      .ended = job_ended,
                                      .destroy = job_destroy};
  static const char *const NAMES[] = {"deadline", "decompress", "if_match", "if_none_match", NULL};
  lua_settop(L, OPTIONS);
  blob_store *store = blob_check_store(L, OPEN.call);
  opt_check(L, OPTIONS, OPEN.call, NAMES);
  source **box = lua_newuserdatauv(L, sizeof(source *), 1);
  *box = NULL;
  luaL_setmetatable(L, READER_TYPE);
  source *self = calloc(1, sizeof *self);
  if (self == NULL) luaL_error(L, "not enough memory");
  self->reader.fd = -1;
  *box = self;
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1); // for its errors
  blob_check_key(L, 2, OPEN.call, &self->key);
  read_job *job = push_job(L, &OPEN, self, OPTIONS + 1);
  job->store = blob_store_hold(store);
  blob_read_conditions(L, OPTIONS, OPEN.call, &job->wish);
  self->decompress = lua_decompress_open(L, OPTIONS, OPEN.call, "blob");
  return lua_work_wait(L, -1, open_done);
}

/* Reads on until there are plain bytes, or the end. */
static int fill_plain(source *self) {
  bytes_clear(&self->plain);
  self->given = 0;
  while (self->plain.length == 0) {
    if (self->used == self->stored.length && !self->ended) {
      size_t got = 0;
      bytes_clear(&self->stored);
      self->used = 0;
      if (!bytes_reserve(&self->stored, COMPRESS_AT_ONCE)) return ENOMEM;
      int error = blob_reader_read(&self->reader, self->stored.data, COMPRESS_AT_ONCE, &got);
      if (error != 0) return error;
      self->stored.length = got;
      self->ended = got == 0;
    }
    size_t used = 0;
    if (!decompress_feed(self->decompress, bytes_text(&self->stored) + self->used,
                         self->stored.length - self->used, self->ended, &used, &self->plain))
      return BLOB_NO_STREAM;
    self->used += used;
    if (self->ended && self->used == self->stored.length && self->plain.length == 0) break;
  }
  return 0;
}

static void read_run(lua_work *work) {
  read_job *self = (read_job *)work;
  source *from = self->source;
  self->result = malloc(self->length);
  if (self->result == NULL) {
    self->error = ENOMEM;
  } else if (from->decompress == NULL) {
    self->error = blob_reader_read(&from->reader, self->result, self->length, &self->length);
  } else {
    if (from->given == from->plain.length) self->error = fill_plain(from);
    size_t left = from->plain.length - from->given;
    if (self->length > left) self->length = left;
    memcpy(self->result, bytes_text(&from->plain) + from->given, self->length);
    from->given += self->length;
  }
}

static int read_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  read_job *job = (read_job *)context;
  if (job->error != 0) {
    blob_key key = job->source->key;
    lua_getiuservalue(L, 1, 1);
    lua_replace(L, 1); // its store, whose errors these are
    blob_raise(L, job->base.class->call, &key, NULL, job->error);
  }
  if (job->length == 0) {
    lua_pushnil(L);
  } else {
    lua_pushlstring(L, job->result, job->length);
  }
  lua_work_release(&job->base);
  return 1;
}

static int reader_read(lua_State *L) {
  static const lua_work_class READ = {.call = "reader:read",
                                      .run = read_run,
                                      .begun = job_begun,
                                      .ended = job_ended,
                                      .destroy = job_destroy};
  source *self = *(source **)luaL_checkudata(L, 1, READER_TYPE);
  if (self == NULL) err_raisef(L, ERR_VALIDATION, "blob", "%s: this reader is closed", READ.call);
  if (self->busy)
    err_raisef(L, ERR_VALIDATION, "blob", "%s: another task is reading from it", READ.call);
  lua_Integer length = luaL_optinteger(L, 2, READ_PRESET);
  if (length < 1 || length > READ_MOST) {
    err_raisef(L, ERR_VALIDATION, "blob", "%s: wants a count from 1 to %d bytes", READ.call,
               READ_MOST);
  }
  lua_settop(L, 1);
  read_job *job = push_job(L, &READ, self, 1);
  job->length = (size_t)length;
  return lua_work_wait(L, -1, read_done);
}

/* What is known about the object. */
static int reader_info(lua_State *L) {
  source *self = *(source **)luaL_checkudata(L, 1, READER_TYPE);
  if (self == NULL) err_raisef(L, ERR_VALIDATION, "blob", "reader:info: this reader is closed");
  blob_push_info(L, self->key.text, self->key.length, &self->reader.info);
  return 1;
}

/* So that a reader is an iterator as well: for piece in reader do */
static int reader_call(lua_State *L) {
  lua_settop(L, 1);
  return reader_read(L);
}

void blob_add_read_methods(lua_State *L) {
  static const luaL_Reg METHODS[] = {{"reader", store_reader}, {NULL, NULL}};
  static const luaL_Reg READER_METHODS[] = {
      {"read", reader_read},
      {"info", reader_info},
      {"close", reader_close},
      {"__call", reader_call},
      {"__close", reader_close},
      {"__gc", reader_collect},
      {NULL, NULL},
  };
  luaL_newmetatable(L, READER_TYPE);
  luaL_setfuncs(L, READER_METHODS, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  luaL_setfuncs(L, METHODS, 0);
}
