/* lua_blob_put.c: a store's ways in: put, of text, a file or a reader, and writers.
 *
 * A writer's file and state live in malloc'd memory. While an operation is on the thread pool the
 * writer is busy: another one is refused by name, and a writer that is dropped meanwhile is aborted
 * when the thread is done. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <lauxlib.h>
#include "base/lua_compress.h"
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "blob/lua_blob.h"

enum { KEY = 2, DATA = 3, OPTIONS = 4 };

static const char WRITER_TYPE[] = "nebula.blob.writer";

/* Those of S3 that mean nothing in a directory are taken, so that a script works with both. */
#define PUT_OPTIONS                                                                                \
  "cache_control", "concurrency", "content_disposition", "content_encoding", "content_language",   \
      "content_type", "deadline", "if_match", "if_none_match", "metadata", "part_size", "sse",     \
      "sse_kms_key_id", "storage_class", "tags"

static const char *const NAMES[] = {PUT_OPTIONS, "progress", NULL};
static const char *const WRITER_NAMES[] = {PUT_OPTIONS, COMPRESS_OPTIONS, NULL};

/* ---- put of text or a file: one job, then its commit ---- */

typedef struct put_job {
  blob_job base;
  blob_writer writer;
  blob_pending pending;
  bool sealed;
} put_job;

static void put_run(lua_work *work) {
  blob_job *self = (blob_job *)work;
  blob_writer *writer = &((put_job *)work)->writer;
  self->error = blob_writer_open(writer, self->store);
  if (self->error == 0 && self->file != NULL) {
    self->error = blob_writer_copy(writer, self->file, &work->cancelled);
  } else if (self->error == 0) {
    self->error = blob_writer_write(writer, self->data, self->length);
  }
  if (self->error == 0) {
    bytes *pairs = &self->wish.pairs;
    bytes_append(pairs, bytes_text(&self->wish.tags), self->wish.tags.length);
    self->error = pairs->failed
                      ? ENOMEM
                      : blob_writer_seal(writer, bytes_text(pairs), pairs->length, &self->info);
  }
  ((put_job *)work)->sealed = self->error == 0;
  if (self->error != 0) blob_writer_abort(writer);
}

static void put_ended(lua_work *work) {
  put_job *self = (put_job *)work;
  if (!self->sealed) return;
  self->pending = (blob_pending){.work = work,
                                 .store = self->base.store,
                                 .writer = &self->writer,
                                 .key = &self->base.key,
                                 .wish = &self->base.wish,
                                 .error = &self->base.error};
  blob_commit(&self->pending);
}

static int put_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  blob_job *self = (blob_job *)context;
  if (self->error != 0) {
    bool source = self->error == ENOENT || self->error == EISDIR;
    blob_raise(L, self->base.class->call, &self->key, source ? self->file : NULL, self->error);
  }
  blob_push_stored(L, &self->key, &self->info);
  uint64_t size = self->info.size;
  lua_work_release(&self->base);
  return blob_return_told(L, OPTIONS, "store:put", size);
}

static int put_at_once(lua_State *L) {
  static const lua_work_class PUT = {
      .call = "store:put", .run = put_run, .ended = put_ended, .destroy = blob_job_destroy};
  blob_job *self = blob_job_new(L, &PUT, sizeof(put_job), true);
  int job = lua_gettop(L);
  blob_read_put_conditions(L, OPTIONS, PUT.call, &self->wish);
  blob_read_pairs(L, OPTIONS, PUT.call, &self->wish);
  if (lua_type(L, DATA) == LUA_TSTRING) {
    self->data = lua_tolstring(L, DATA, &self->length);
  } else {
    lua_getfield(L, DATA, "file");
    size_t length;
    const char *file = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &length) : NULL;
    if (file == NULL || length == 0 || strlen(file) != length)
      err_raisef(L, ERR_VALIDATION, "blob", "%s: file must be a path", PUT.call);
    self->file = strdup(file);
    if (self->file == NULL) luaL_error(L, "not enough memory");
  }
  lua_settop(L, job);
  return blob_job_wait(L, DATA, put_done);
}

/* ---- writers ---- */

typedef struct stream {
  blob_writer writer; /* opened by the first operation */
  blob_store *store;  /* held */
  blob_key key;
  blob_wish wish;
  compress_stream *compress; /* NULL: the bytes as they come */
  bytes compressed;
  int error;
  bool begun, ended, busy, dropped;
} stream;

typedef struct stream_job {
  lua_work base;
  stream *stream;
  const char *data; /* Lua's memory, anchored */
  size_t length;
  blob_info info;
  blob_pending pending;
  bool sealed;
} stream_job;

static void stream_free(stream *self) {
  blob_writer_abort(&self->writer);
  blob_store_release(self->store);
  blob_wish_free(&self->wish);
  compress_free(self->compress);
  bytes_free(&self->compressed);
  free(self);
}

static void job_begun(lua_work *work) {
  ((stream_job *)work)->stream->busy = true;
}

static void job_ended(lua_work *work) {
  stream *self = ((stream_job *)work)->stream;
  self->busy = false;
  if (self->dropped) stream_free(self);
}

static int stream_begin(stream *self) {
  if (self->begun) return 0;
  self->begun = true;
  int error = blob_writer_open(&self->writer, self->store);
  if (error == 0) blob_writer_list(&self->writer, self->key.text, self->key.length);
  return error;
}

static int stream_write(stream *self, const char *data, size_t length, bool last) {
  if (self->compress == NULL) return blob_writer_write(&self->writer, data, length);
  int error = 0;
  for (size_t at = 0; error == 0 && (at < length || last);) {
    size_t piece = length - at < COMPRESS_AT_ONCE ? length - at : COMPRESS_AT_ONCE;
    bool end = last && at + piece == length;
    bytes_clear(&self->compressed);
    if (!compress_feed(self->compress, data + at, piece, end, &self->compressed)) return ENOMEM;
    error =
        blob_writer_write(&self->writer, bytes_text(&self->compressed), self->compressed.length);
    at += piece;
    if (end) break;
  }
  return error;
}

static void write_run(lua_work *work) {
  stream_job *job = (stream_job *)work;
  stream *self = job->stream;
  self->error = stream_begin(self);
  if (self->error == 0) self->error = stream_write(self, job->data, job->length, false);
  if (self->error != 0) blob_writer_abort(&self->writer);
}

static void finish_run(lua_work *work) {
  stream_job *job = (stream_job *)work;
  stream *self = job->stream;
  self->error = stream_begin(self);
  if (self->error == 0 && self->compress != NULL) self->error = stream_write(self, "", 0, true);
  bytes *pairs = &self->wish.pairs;
  bytes_append(pairs, bytes_text(&self->wish.tags), self->wish.tags.length);
  if (self->error == 0 && pairs->failed) self->error = ENOMEM;
  if (self->error == 0)
    self->error = blob_writer_seal(&self->writer, bytes_text(pairs), pairs->length, &job->info);
  job->sealed = self->error == 0;
  if (self->error != 0) blob_writer_abort(&self->writer);
}

/* A sealed writer stays busy until it is stored. */
static void finish_ended(lua_work *work) {
  stream_job *job = (stream_job *)work;
  stream *self = job->stream;
  if (!job->sealed) {
    job_ended(work);
    return;
  }
  job->pending = (blob_pending){.work = work,
                                .ended = job_ended,
                                .store = self->store,
                                .writer = &self->writer,
                                .key = &self->key,
                                .wish = &self->wish,
                                .error = &self->error};
  blob_commit(&job->pending);
}

/* Gives the memory back, or leaves that to the thread that is at it: then nothing is stored. */
static int writer_collect(lua_State *L) {
  stream **box = luaL_checkudata(L, 1, WRITER_TYPE);
  stream *self = *box;
  *box = NULL;
  if (self == NULL) return 0;
  self->dropped = self->busy;
  if (!self->busy) stream_free(self);
  return 0;
}

static int writer_abort(lua_State *L) {
  lua_settop(L, 1);
  return writer_collect(L);
}

/* Pushes a writer of the store, key and options at indices 1, 2 and `options`. */
static stream *push_writer(lua_State *L, int options, const char *call) {
  stream **box = lua_newuserdatauv(L, sizeof(stream *), 1);
  *box = NULL;
  luaL_setmetatable(L, WRITER_TYPE);
  stream *self = calloc(1, sizeof *self);
  if (self == NULL) luaL_error(L, "not enough memory");
  self->writer.fd = -1;
  *box = self;
  self->store = blob_store_hold(blob_check_store(L, call));
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1); // the store lives as long as its writers
  blob_check_key(L, KEY, call, &self->key);
  blob_read_put_conditions(L, options, call, &self->wish);
  blob_read_pairs(L, options, call, &self->wish);
  return self;
}

static stream *check_writer(lua_State *L, int index, const char *call) {
  stream *self = *(stream **)luaL_checkudata(L, index, WRITER_TYPE);
  if (self == NULL || self->ended) {
    err_raisef(L, ERR_VALIDATION, "blob", "%s: this writer is %s", call,
               self == NULL ? "aborted or closed" : "finished");
  }
  if (self->busy)
    err_raisef(L, ERR_VALIDATION, "blob", "%s: another task is writing to it at this moment", call);
  return self;
}

/* Pushes a job on the writer at index, which stays alive with it and the value at `data`. */
static stream_job *push_stream_job(lua_State *L, const lua_work_class *class, stream *self,
                                   int writer, int data) {
  stream_job *job = lua_work_new(L, sizeof *job, class);
  job->stream = self;
  lua_createtable(L, 2, 0);
  lua_pushvalue(L, writer);
  lua_rawseti(L, -2, 1);
  lua_pushvalue(L, data);
  lua_rawseti(L, -2, 2);
  lua_work_anchor(L, -2);
  return job;
}

/* Raises what went wrong; the writer has aborted itself. `store` is the store's place or 0. */
static void check_stream(lua_State *L, stream *self, const char *call) {
  if (self->error == 0) return;
  self->ended = true;
  blob_raise(L, call, &self->key, NULL, self->error);
}

/* Replaces the writer at index 1 by its store, whose methods expect it there. */
static void put_store_first(lua_State *L) {
  lua_getiuservalue(L, 1, 1);
  lua_replace(L, 1);
}

static const lua_work_class WRITE = {
    .call = "writer:write", .run = write_run, .begun = job_begun, .ended = job_ended};
static const lua_work_class FINISH = {
    .call = "writer:finish", .run = finish_run, .begun = job_begun, .ended = finish_ended};

static int write_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  stream_job *job = (stream_job *)context;
  if (job->stream->error != 0) put_store_first(L);
  check_stream(L, job->stream, WRITE.call);
  lua_work_release(&job->base);
  lua_settop(L, 1);
  return 1;
}

static int writer_write(lua_State *L) {
  stream *self = check_writer(L, 1, WRITE.call);
  for (int i = 2; i <= lua_gettop(L); i++) {
    if (!lua_isstring(L, i))
      err_raisef(L, ERR_VALIDATION, "blob", "%s: argument %d must be a string, got %s", WRITE.call,
                 i - 1, luaL_typename(L, i));
  }
  lua_concat(L, lua_gettop(L) - 1); // stack: writer, data
  stream_job *job = push_stream_job(L, &WRITE, self, 1, 2);
  job->data = lua_tolstring(L, 2, &job->length);
  return lua_work_wait(L, -1, write_done);
}

static int finish_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  stream_job *job = (stream_job *)context;
  put_store_first(L);
  check_stream(L, job->stream, FINISH.call);
  job->stream->ended = true;
  blob_push_stored(L, &job->stream->key, &job->info);
  return 1;
}

static int writer_finish(lua_State *L) {
  stream *self = check_writer(L, 1, FINISH.call);
  lua_settop(L, 1);
  (void)push_stream_job(L, &FINISH, self, 1, 1);
  return lua_work_wait(L, -1, finish_done);
}

static int store_writer(lua_State *L) {
  static const char CALL[] = "store:writer";
  lua_settop(L, 3);
  opt_check(L, 3, CALL, WRITER_NAMES);
  stream *self = push_writer(L, 3, CALL);
  self->compress = lua_compress_open(L, 3, CALL, "blob");
  return 1;
}

/* ---- put of a reader: its pieces, one after the other, into a writer ---- */

enum { WRITER = 5, PIECE, PROBLEM, PIECE_SIZE = 256 * 1024 }; /* places on put's stack; a size */

static int piece_read(lua_State *L, int status, lua_KContext context);

/* Asks the reader, a function or an object with a method `read`, for its next piece. */
static int read_piece(lua_State *L) {
  lua_settop(L, WRITER);
  if (lua_isfunction(L, DATA)) {
    lua_pushvalue(L, DATA);
    lua_callk(L, 0, 2, 0, piece_read);
  } else {
    lua_getfield(L, DATA, "read");
    lua_pushvalue(L, DATA);
    lua_pushinteger(L, PIECE_SIZE); // without it, Lua's own files would give lines
    lua_callk(L, 2, 2, 0, piece_read);
  }
  return piece_read(L, LUA_OK, 0);
}

static int piece_told(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  return read_piece(L);
}

static int piece_written(lua_State *L, int status, lua_KContext context) {
  (void)status;
  stream_job *job = (stream_job *)context;
  check_stream(L, job->stream, "store:put");
  uint64_t size = job->stream->writer.size;
  lua_work_release(&job->base);
  if (!blob_push_progress(L, OPTIONS, "store:put")) return read_piece(L);
  lua_pushinteger(L, (lua_Integer)size);
  lua_callk(L, 1, 0, 0, piece_told);
  return read_piece(L);
}

static int put_finished(lua_State *L, int status, lua_KContext context) {
  (void)status;
  stream_job *job = (stream_job *)context;
  check_stream(L, job->stream, "store:put");
  job->stream->ended = true;
  blob_push_stored(L, &job->stream->key, &job->info);
  return 1;
}

static int piece_read(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  stream *self = check_writer(L, WRITER, "store:put");
  if (lua_isnil(L, PIECE) && !lua_isnil(L, PROBLEM)) { // io's way to fail: nil and a message
    err_raisef(L, ERR_IO, "blob", "store:put: the reader failed: %s",
               luaL_tolstring(L, PROBLEM, NULL));
  }
  if (lua_isnil(L, PIECE)) {
    (void)push_stream_job(L, &FINISH, self, WRITER, WRITER);
    return lua_work_wait(L, -1, put_finished);
  }
  if (lua_type(L, PIECE) != LUA_TSTRING) {
    err_raisef(L, ERR_VALIDATION, "blob",
               "store:put: the reader must return strings, then nil at its end; it returned %s",
               luaL_typename(L, PIECE));
  }
  stream_job *job = push_stream_job(L, &WRITE, self, WRITER, PIECE);
  job->data = lua_tolstring(L, PIECE, &job->length);
  return lua_work_wait(L, -1, piece_written);
}

static bool is_reader(lua_State *L) {
  if (lua_isfunction(L, DATA)) return true;
  if (!lua_istable(L, DATA) && luaL_getmetafield(L, DATA, "__index") == LUA_TNIL) return false;
  lua_settop(L, OPTIONS);
  bool found = lua_getfield(L, DATA, "read") == LUA_TFUNCTION;
  lua_settop(L, OPTIONS);
  return found;
}

static bool is_file(lua_State *L) {
  bool found = lua_istable(L, DATA) && lua_getfield(L, DATA, "file") != LUA_TNIL;
  lua_settop(L, OPTIONS);
  return found;
}

/* store:put(key, data, options) */
static int store_put(lua_State *L) {
  static const char CALL[] = "store:put";
  lua_settop(L, OPTIONS);
  (void)blob_check_store(L, CALL);
  opt_check(L, OPTIONS, CALL, NAMES);
  (void)blob_push_progress(L, OPTIONS, CALL); // refused before anything is stored
  lua_settop(L, OPTIONS);
  if (lua_type(L, DATA) == LUA_TSTRING || is_file(L)) return put_at_once(L);
  if (!is_reader(L)) {
    err_raisef(L, ERR_VALIDATION, "blob",
               "%s: the data must be a string, { file = path }, or a reader (a function, or an "
               "object with a method read), got %s",
               CALL, luaL_typename(L, DATA));
  }
  (void)push_writer(L, OPTIONS, CALL);
  lua_toclose(L, WRITER); // a reader's error aborts
  return read_piece(L);
}

void blob_add_put_methods(lua_State *L) {
  static const luaL_Reg METHODS[] = {{"put", store_put}, {"writer", store_writer}, {NULL, NULL}};
  static const luaL_Reg WRITER_METHODS[] = {
      {"write", writer_write},
      {"finish", writer_finish},
      {"abort", writer_abort},
      {"close", writer_abort},
      {"__close", writer_abort},
      {"__gc", writer_collect},
      {NULL, NULL},
  };
  luaL_newmetatable(L, WRITER_TYPE);
  luaL_setfuncs(L, WRITER_METHODS, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  luaL_setfuncs(L, METHODS, 0);
}
