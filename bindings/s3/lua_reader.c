/* lua_reader.c: bucket:reader: an object as a stream of strings. */
#include <lauxlib.h>
#include <string.h>
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "base/lua_compress.h"
#include "s3/lua_call.h"
#include "s3/reader.h"

#define READER_TYPE "nebula.s3.Reader"

typedef struct lua_reader {
  s3_reader *reader; /* NULL once closed */
  task_ticket ticket;
  http_headers headers, query;
  decompress_stream *decompress; /* NULL: the bytes as they are stored */
  bytes plain;                   /* decompressed, not yet given */
  size_t given;
  const char *call;
  size_t wanted; /* by the read under way; 0: whatever is there */
  bool waiting;  /* a task */
} lua_reader;

static void on_event(void *data) {
  lua_reader *self = data;
  task_wake(self->ticket);
}

static int reader_close(lua_State *L) {
  lua_reader *self = luaL_checkudata(L, 1, READER_TYPE);
  s3_reader_free(self->reader);
  self->reader = NULL;
  decompress_free(self->decompress);
  self->decompress = NULL;
  bytes_free(&self->plain);
  http_headers_free(&self->headers);
  http_headers_free(&self->query);
  return 0;
}

static void abandon(void *data) {
  lua_reader *self = data;
  self->waiting = false;
}

static int wait_for_event(lua_State *L, lua_reader *self, lua_KFunction step) {
  self->ticket = task_wait_begin(L, self->call);
  self->waiting = true;
  return task_wait(L, self->ticket, abandon, self, 0, step);
}

/* ---- open ---- */

/* stack of open: bucket, key, options, reader */
static int open_step(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  lua_reader *self = lua_touserdata(L, 4);
  self->waiting = false;
  if (!s3_reader_is_open(self->reader) && !s3_reader_has_ended(self->reader))
    return wait_for_event(L, self, open_step);
  if (s3_reader_is_open(self->reader)) {
    size_t length;
    const char *key = lua_tolstring(L, 2, &length);
    lua_s3_push_info(L, s3_reader_headers(self->reader), key, length);
    lua_setiuservalue(L, 4, 1);
    return 1;
  }
  const s3_failure *failure = s3_reader_failure(self->reader);
  if (failure->kind != S3_ABSENT) lua_s3_raise(L, failure);
  lua_pushnil(L);
  return 1;
}

static int bucket_reader(lua_State *L) {
  static const char *const NAMES[] = {S3_CONDITION_OPTIONS, "version", "decompress", "deadline",
                                      NULL};
  static const char WHAT[] = "bucket:reader";
  s3_client *client = lua_s3_client(L, 1);
  s3_reader_options options = {.on_event = on_event};
  options.key = lua_s3_key(L, 2, WHAT, &options.key_length);
  lua_settop(L, 3);
  opt_check(L, 3, WHAT, NAMES);
  lua_reader *self = lua_newuserdatauv(L, sizeof *self, 1);
  memset(self, 0, sizeof *self);
  luaL_setmetatable(L, READER_TYPE);
  self->call = WHAT;
  lua_s3_read_conditions(L, 3, WHAT, &self->headers);
  const char *version = NULL;
  if (opt_string(L, 3, WHAT, "version", &version, NULL))
    lua_s3_add(L, &self->query, "versionId", version);
  opt_duration(L, 3, WHAT, "deadline", &options.deadline);
  self->decompress = lua_decompress_open(L, 3, self->call, "s3");
  options.headers = &self->headers;
  options.query = &self->query;
  options.data = self;
  self->reader = s3_reader_start(client, &options);
  if (self->reader == NULL) return luaL_error(L, "not enough memory");
  return open_step(L, LUA_OK, 0);
}

/* ---- read ---- */

/* Makes plain bytes of what has come. */
static void decompress_some(lua_State *L, lua_reader *self) {
  size_t length;
  const char *data = s3_reader_data(self->reader, &length);
  if (self->given == self->plain.length) bytes_clear(&self->plain), self->given = 0;
  if (length > COMPRESS_AT_ONCE) length = COMPRESS_AT_ONCE;
  size_t used = 0;
  bool end = length == 0 && s3_reader_has_ended(self->reader);
  if (!decompress_feed(self->decompress, data, length, end, &used, &self->plain)) {
    err_raisef(L, ERR_SERIALIZATION, "s3",
               "reader:read: the object is no %s stream, or is damaged or cut short",
               decompress_name(self->decompress));
  }
  s3_reader_take(self->reader, used);
}

static const char *available(lua_State *L, lua_reader *self, size_t *length) {
  if (self->decompress == NULL) return s3_reader_data(self->reader, length);
  if (self->plain.length == self->given) decompress_some(L, self);
  *length = self->plain.length - self->given;
  return bytes_text(&self->plain) + self->given;
}

static void take(lua_reader *self, size_t length) {
  if (self->decompress == NULL) {
    s3_reader_take(self->reader, length);
  } else {
    self->given += length;
  }
}

static int read_step(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  lua_reader *self = lua_touserdata(L, 1);
  size_t length, before;
  const char *data;
  self->waiting = false;
  if (self->reader == NULL) err_raisef(L, ERR_VALIDATION, "s3", "reader:read: it was closed");
  do { /* a piece of compressed bytes may give none yet */
    s3_reader_data(self->reader, &before);
    data = available(L, self, &length);
  } while (length == 0 && before > 0);
  if (length > 0) {
    if (self->wanted > 0 && length > self->wanted) length = self->wanted;
    lua_pushlstring(L, data, length);
    take(self, length);
    return 1;
  }
  if (!s3_reader_has_ended(self->reader)) return wait_for_event(L, self, read_step);
  if (s3_reader_failure(self->reader)->kind != S3_WELL)
    lua_s3_raise(L, s3_reader_failure(self->reader));
  lua_pushnil(L);
  return 1;
}

/* reader:read([at most]) -> string, or nil at the end */
static int reader_read(lua_State *L) {
  lua_reader *self = luaL_checkudata(L, 1, READER_TYPE);
  lua_Integer wanted = 0;
  if (lua_type(L, 2) == LUA_TNUMBER) wanted = lua_tointeger(L, 2);
  if (self->reader == NULL) err_raisef(L, ERR_VALIDATION, "s3", "reader:read: it is closed");
  if (self->waiting)
    err_raisef(L, ERR_VALIDATION, "s3", "reader:read: another task is reading already");
  lua_settop(L, 1);
  self->call = "reader:read";
  self->wanted = wanted > 0 ? (size_t)wanted : 0;
  return read_step(L, LUA_OK, 0);
}

static int reader_info(lua_State *L) {
  luaL_checkudata(L, 1, READER_TYPE);
  lua_getiuservalue(L, 1, 1);
  return 1;
}

/* `for piece in reader do`: the loop's own arguments are no sizes. */
static int reader_call(lua_State *L) {
  lua_settop(L, 1);
  return reader_read(L);
}

void lua_s3_add_reader_methods(lua_State *L) {
  static const luaL_Reg METHODS[] = {{"reader", bucket_reader}, {NULL, NULL}};
  static const luaL_Reg READER[] = {
      {"read", reader_read}, {"info", reader_info}, {"close", reader_close}, {NULL, NULL}};
  luaL_newmetatable(L, READER_TYPE);
  luaL_newlib(L, READER);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, reader_call);
  lua_setfield(L, -2, "__call");
  lua_pushcfunction(L, reader_close);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, reader_close);
  lua_setfield(L, -2, "__close");
  lua_pop(L, 1);
  luaL_setfuncs(L, METHODS, 0);
}
