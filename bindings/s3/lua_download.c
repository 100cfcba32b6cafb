/* lua_download.c: bucket:download: an object into a file. */
#include <lauxlib.h>
#include <string.h>
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "s3/download.h"
#include "s3/lua_call.h"
#include "s3/upload.h"

#define CALL "bucket:download"
#define PART_SIZE (4 << 20)

enum { BUCKET = 1, KEY, OPTIONS, DOWNLOAD, PROGRESS };
enum { CONCURRENCY = 4 };

static const char DOWNLOAD_TYPE[] = "nebula.s3.download";

typedef struct lua_download {
  s3_download *download;
  task_ticket ticket;
  http_headers headers, query;
  uint64_t told;
} lua_download;

static int download_gc(lua_State *L) {
  lua_download *self = lua_touserdata(L, 1);
  s3_download_free(self->download);
  self->download = NULL;
  http_headers_free(&self->headers);
  http_headers_free(&self->query);
  return 0;
}

static void on_event(void *data) {
  lua_download *self = data;
  task_wake(self->ticket);
}

static void abandon(void *data) {
  lua_download *self = data;
  s3_download_free(self->download);
  self->download = NULL;
}

static lua_download *download_new(lua_State *L) {
  lua_download *self = lua_newuserdatauv(L, sizeof *self, 0);
  memset(self, 0, sizeof *self);
  if (luaL_newmetatable(L, DOWNLOAD_TYPE)) {
    lua_pushcfunction(L, download_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  return self;
}

static int download_step(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  lua_download *self = lua_touserdata(L, DOWNLOAD);
  for (;;) {
    lua_settop(L, PROGRESS);
    uint64_t written = s3_download_written(self->download);
    if (written == self->told || lua_isnil(L, PROGRESS)) break;
    self->told = written;
    lua_pushvalue(L, PROGRESS);
    lua_pushinteger(L, (lua_Integer)written);
    lua_callk(L, 1, 0, 0, download_step);
  }
  if (!s3_download_has_ended(self->download)) {
    self->ticket = task_wait_begin(L, CALL);
    return task_wait(L, self->ticket, abandon, self, 0, download_step);
  }
  const s3_failure *failure = s3_download_failure(self->download);
  if (failure->kind == S3_ABSENT) {
    lua_pushnil(L);
    return 1;
  }
  if (failure->kind != S3_WELL) lua_s3_raise(L, failure);
  size_t length;
  const char *key = lua_tolstring(L, KEY, &length);
  lua_s3_push_info(L, s3_download_headers(self->download), key, length);
  abandon(self);
  return 1;
}

static void read_options(lua_State *L, lua_download *self, s3_download_options *out) {
  lua_Integer part_size = PART_SIZE, concurrency = CONCURRENCY;
  const char *version = NULL;
  size_t length = 0;
  if (!opt_string(L, OPTIONS, CALL, "file", &out->path, &length) || length == 0 ||
      strlen(out->path) != length)
    err_raisef(L, ERR_VALIDATION, "s3", CALL ": file is missing: the path to write to");
  opt_integer(L, OPTIONS, CALL, "part_size", 64 << 10, 1 << 30, &part_size);
  opt_integer(L, OPTIONS, CALL, "concurrency", 1, S3_CONCURRENCY_MOST, &concurrency);
  opt_duration(L, OPTIONS, CALL, "deadline", &out->deadline);
  lua_s3_read_conditions(L, OPTIONS, CALL, &self->headers);
  if (opt_string(L, OPTIONS, CALL, "version", &version, NULL))
    lua_s3_add(L, &self->query, "versionId", version);
  out->part_size = (size_t)part_size;
  out->concurrency = (int)concurrency;
}

/* bucket:download(key, { file= }) -> info, or nil where there is no such object */
static int bucket_download(lua_State *L) {
  static const char *const NAMES[] = {"file",        S3_CONDITION_OPTIONS, "version",  "part_size",
                                      "concurrency", "deadline",           "progress", NULL};
  s3_client *client = lua_s3_client(L, BUCKET);
  s3_download_options options = {.on_event = on_event};
  options.key = lua_s3_key(L, KEY, CALL, &options.key_length);
  lua_settop(L, OPTIONS);
  opt_check(L, OPTIONS, CALL, NAMES);
  lua_download *self = download_new(L);
  read_options(L, self, &options);
  if (lua_getfield(L, OPTIONS, "progress") != LUA_TNIL && !lua_isfunction(L, PROGRESS))
    err_raisef(L, ERR_VALIDATION, "s3", CALL ": progress must be a function(bytes)");
  options.headers = &self->headers;
  options.query = &self->query;
  options.data = self;
  self->download = s3_download_start(client, &options);
  if (self->download == NULL) return luaL_error(L, "not enough memory");
  return download_step(L, LUA_OK, 0);
}

void lua_s3_add_download_methods(lua_State *L) {
  static const luaL_Reg METHODS[] = {{"download", bucket_download}, {NULL, NULL}};
  luaL_setfuncs(L, METHODS, 0);
}
