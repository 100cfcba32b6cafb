/* lua_upload.c: see lua_upload.h. */
#include "s3/lua_upload.h"

#include <lauxlib.h>
#include <string.h>
#include "base/lua_compress.h"
#include "base/lua_error.h"
#include "base/lua_options.h"

enum { CONCURRENCY = 4, UPVALUE_KEY = 1, UPVALUE_BUCKET = 2 };

static void on_event(void *data) {
  lua_s3_upload *self = data;
  task_wake(self->ticket);
}

static void read_options(lua_State *L, const char *call, int options, s3_upload_options *out) {
  lua_Integer part_size = 0, concurrency = CONCURRENCY;
  opt_integer(L, options, call, "part_size", S3_PART_LEAST, S3_PART_MOST, &part_size);
  opt_integer(L, options, call, "concurrency", 1, S3_CONCURRENCY_MOST, &concurrency);
  opt_duration(L, options, call, "deadline", &out->deadline);
  out->part_size = (size_t)part_size;
  out->concurrency = (int)concurrency;
}

lua_s3_upload *lua_s3_upload_new(lua_State *L, const char *call, int bucket, int key, int options) {
  s3_client *client = lua_s3_client(L, bucket);
  s3_upload_options out = {0};
  out.key = lua_s3_key(L, key, call, &out.key_length);
  lua_s3_upload *self = lua_newuserdatauv(L, sizeof *self, 2);
  memset(self, 0, sizeof *self);
  self->call = call;
  luaL_setmetatable(L, S3_WRITER_TYPE);
  lua_pushvalue(L, key);
  lua_setiuservalue(L, -2, UPVALUE_KEY);
  lua_pushvalue(L, bucket);
  lua_setiuservalue(L, -2, UPVALUE_BUCKET);
  lua_s3_read_object_options(L, options, call, &self->headers);
  lua_s3_read_put_conditions(L, options, call, &self->conditions);
  read_options(L, call, options, &out);
  out.headers = &self->headers;
  out.conditions = &self->conditions;
  out.on_event = on_event;
  out.data = self;
  self->upload = s3_upload_new(client, &out);
  if (self->upload == NULL) luaL_error(L, "not enough memory");
  return self;
}

int lua_s3_upload_wait(lua_State *L, lua_s3_upload *self, lua_KContext context,
                       lua_KFunction step) {
  self->ticket = task_wait_begin(L, self->call);
  return task_wait(L, self->ticket, NULL, NULL, context, step);
}

bool lua_s3_upload_failing(lua_State *L, const lua_s3_upload *self) {
  if (!s3_upload_has_failed(self->upload)) return false;
  if (s3_upload_get_state(self->upload) == S3_UPLOAD_ENDED)
    lua_s3_raise(L, s3_upload_failure(self->upload));
  return true;
}

int lua_s3_upload_push(lua_State *L, const lua_s3_upload *self, int index) {
  lua_getiuservalue(L, index, UPVALUE_KEY);
  lua_getiuservalue(L, index, UPVALUE_BUCKET); // stack: ..., key, bucket
  size_t length;
  const char *key = lua_tolstring(L, -2, &length);
  lua_s3_push_stored(L, lua_s3_client(L, -1), key, length, s3_upload_etag(self->upload),
                     s3_upload_version(self->upload), (int64_t)s3_upload_taken(self->upload));
  return 1;
}

/* ---- the end ---- */

static int upload_gc(lua_State *L) {
  lua_s3_upload *self = lua_touserdata(L, 1);
  s3_upload_free(self->upload);
  self->upload = NULL;
  compress_free(self->compress);
  self->compress = NULL;
  bytes_free(&self->pending);
  http_headers_free(&self->headers);
  http_headers_free(&self->conditions);
  return 0;
}

static int close_step(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  lua_s3_upload *self = lua_touserdata(L, 1);
  if (self->upload != NULL && s3_upload_get_state(self->upload) == S3_UPLOAD_OPEN)
    return lua_s3_upload_wait(L, self, 0, close_step);
  return upload_gc(L);
}

static int upload_close(lua_State *L) {
  lua_s3_upload *self = luaL_checkudata(L, 1, S3_WRITER_TYPE);
  lua_settop(L, 1);
  if (self->upload != NULL) s3_upload_abort(self->upload);
  return close_step(L, LUA_OK, 0);
}

/* ---- the writer ---- */

static lua_s3_upload *check_writer(lua_State *L, const char *call) {
  lua_s3_upload *self = luaL_checkudata(L, 1, S3_WRITER_TYPE);
  self->call = call;
  if (self->upload == NULL || self->finished)
    err_raisef(L, ERR_VALIDATION, "s3", "%s: the writer is %s already", call,
               self->finished ? "finished" : "closed");
  /* A wait that was cancelled leaves `busy` behind: nothing can be said about what it wrote. */
  if (self->busy)
    err_raisef(L, ERR_VALIDATION, "s3",
               "%s: another task writes, or a write was cancelled: close it", call);
  return self;
}

/* True where all that is pending has been taken. */
static bool drain(lua_s3_upload *self) {
  bytes *pending = &self->pending;
  self->drained += s3_upload_write(self->upload, bytes_text(pending) + self->drained,
                                   pending->length - self->drained);
  if (self->drained < pending->length) return false;
  bytes_clear(pending);
  self->drained = 0;
  return true;
}

/* Hands on some of the bytes; false where it must wait first. */
static bool write_some(lua_State *L, lua_s3_upload *self, const char *text, size_t length) {
  if (self->compress == NULL) {
    self->offset += s3_upload_write(self->upload, text + self->offset, length - self->offset);
    return self->offset == length;
  }
  if (!drain(self)) return false;
  size_t piece = length - self->offset;
  if (piece > COMPRESS_AT_ONCE) piece = COMPRESS_AT_ONCE;
  if (!compress_feed(self->compress, text + self->offset, piece, false, &self->pending))
    luaL_error(L, "not enough memory");
  self->offset += piece;
  return drain(self);
}

static int write_step(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  lua_s3_upload *self = lua_touserdata(L, 1);
  int top = lua_gettop(L);
  while (self->argument <= top) {
    size_t length;
    const char *text = lua_tolstring(L, self->argument, &length);
    bool wait = lua_s3_upload_failing(L, self);
    while (!wait && self->offset < length)
      wait = !write_some(L, self, text, length);
    if (wait) return lua_s3_upload_wait(L, self, 0, write_step);
    self->argument++;
    self->offset = 0;
  }
  self->busy = false;
  lua_settop(L, 1);
  return 1;
}

static int writer_write(lua_State *L) {
  lua_s3_upload *self = check_writer(L, "writer:write");
  for (int i = 2; i <= lua_gettop(L); i++) {
    if (lua_type(L, i) != LUA_TSTRING && lua_type(L, i) != LUA_TNUMBER)
      err_raisef(L, ERR_VALIDATION, "s3", "writer:write: argument %d must be a string, got %s",
                 i - 1, luaL_typename(L, i));
    lua_tolstring(L, i, NULL);
  }
  self->busy = true;
  self->argument = 2;
  self->offset = 0;
  return write_step(L, LUA_OK, 0);
}

static int finish_step(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  lua_s3_upload *self = lua_touserdata(L, 1);
  if (s3_upload_get_state(self->upload) == S3_UPLOAD_DONE) {
    self->busy = false;
    self->finished = true;
    return lua_s3_upload_push(L, self, 1);
  }
  if (!lua_s3_upload_failing(L, self) && drain(self)) s3_upload_finish(self->upload);
  return lua_s3_upload_wait(L, self, 0, finish_step);
}

static int writer_finish(lua_State *L) {
  lua_s3_upload *self = check_writer(L, "writer:finish");
  lua_settop(L, 1);
  if (self->compress != NULL && !compress_feed(self->compress, "", 0, true, &self->pending))
    return luaL_error(L, "not enough memory");
  self->busy = true;
  return finish_step(L, LUA_OK, 0);
}

int lua_s3_bucket_writer(lua_State *L) {
  static const char *const NAMES[] = {S3_UPLOAD_OPTIONS, COMPRESS_OPTIONS, NULL};
  static const char WHAT[] = "bucket:writer";
  lua_settop(L, 3);
  opt_check(L, 3, WHAT, NAMES);
  lua_s3_upload *self = lua_s3_upload_new(L, WHAT, 1, 2, 3);
  self->compress = lua_compress_open(L, 3, WHAT, "s3");
  return 1;
}

void lua_s3_writer_open(lua_State *L) {
  static const luaL_Reg METHODS[] = {
      {"write", writer_write}, {"finish", writer_finish}, {"close", upload_close}, {NULL, NULL}};
  luaL_newmetatable(L, S3_WRITER_TYPE);
  luaL_newlib(L, METHODS);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, upload_gc);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, upload_close);
  lua_setfield(L, -2, "__close");
  lua_pop(L, 1);
}
