/* lua_object.c: a Bucket's methods for one object: get, head, exists, delete. */
#include <lauxlib.h>
#include <stdio.h>
#include <string.h>
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "http/lua_client.h"
#include "s3/lua_call.h"

#define GET_BYTES_DEFAULT (256 << 20)

/* Places on the stack of each method. */
enum { BUCKET = 1, KEY, OPTIONS, CALL };

static lua_s3_call *begin(lua_State *L) {
  lua_settop(L, OPTIONS);
  return lua_s3_call_new(L); // stack: bucket, key, options, call
}

static void read_version(lua_State *L, const char *call, lua_s3_call *self) {
  const char *version = NULL;
  if (opt_string(L, OPTIONS, call, "version", &version, NULL))
    lua_s3_add(L, &self->query, "versionId", version);
}

static double read_deadline(lua_State *L, const char *call) {
  double seconds = 0;
  opt_duration(L, OPTIONS, call, "deadline", &seconds);
  return seconds;
}

/* ---- get ---- */

/* { first, last }: bytes counted from 0, both included; without last, to the end; a negative first
 * alone: that many bytes at the end. */
static void read_range(lua_State *L, const char *call, lua_s3_call *self) {
  if (lua_isnil(L, OPTIONS) || lua_getfield(L, OPTIONS, "range") == LUA_TNIL) {
    lua_settop(L, CALL);
    return;
  }
  bool well = lua_istable(L, -1);
  if (well) {
    lua_rawgeti(L, -1, 1);
    lua_rawgeti(L, -2, 2); // stack: ..., range, first, last
    well = lua_isinteger(L, -2) && (lua_isnil(L, -1) || lua_isinteger(L, -1));
  }
  lua_Integer first = well ? lua_tointeger(L, -2) : 0, last = well ? lua_tointeger(L, -1) : 0;
  bool open = well && lua_isnil(L, -1);
  if (!well || (first < 0 && !open) || (!open && last < first)) {
    err_raisef(L, ERR_VALIDATION, "s3",
               "%s: range must be { first, last } with bytes counted from 0, { first } to the end, "
               "or { -n } for the last n bytes",
               call);
  }
  char text[64];
  if (first < 0) {
    snprintf(text, sizeof text, "bytes=%lld", (long long)first);
  } else if (open) {
    snprintf(text, sizeof text, "bytes=%lld-", (long long)first);
  } else {
    snprintf(text, sizeof text, "bytes=%lld-%lld", (long long)first, (long long)last);
  }
  lua_s3_add(L, &self->headers, "Range", text);
  lua_settop(L, CALL);
}

static int get_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  lua_s3_call *self = lua_touserdata(L, (int)context);
  if (lua_s3_call_absent(L, self)) {
    lua_s3_call_clear(self);
    lua_pushnil(L);
    return 1;
  }
  const bytes *body = s3_call_body(self->call);
  lua_pushlstring(L, bytes_text(body), body->length);
  size_t length;
  const char *key = lua_tolstring(L, KEY, &length);
  lua_s3_push_info(L, s3_call_headers(self->call), key, length);
  lua_s3_call_clear(self);
  return 2;
}

static int bucket_get(lua_State *L) {
  static const char *const NAMES[] = {"range",     S3_CONDITION_OPTIONS, "version",
                                      "max_bytes", "deadline",           NULL};
  static const char WHAT[] = "bucket:get";
  s3_client *client = lua_s3_client(L, BUCKET);
  s3_call_request request = {.what = "get", .method = "GET", .verify = true};
  request.key = lua_s3_key(L, KEY, WHAT, &request.key_length);
  lua_s3_call *self = begin(L);
  opt_check(L, OPTIONS, WHAT, NAMES);
  lua_s3_read_conditions(L, OPTIONS, WHAT, &self->headers);
  read_range(L, WHAT, self);
  read_version(L, WHAT, self);
  lua_Integer most = GET_BYTES_DEFAULT;
  opt_integer(L, OPTIONS, WHAT, "max_bytes", 1, LUA_MAXINTEGER, &most);
  request.max_bytes = (size_t)most;
  request.deadline = read_deadline(L, WHAT);
  return lua_s3_call_wait(L, self, client, &request, CALL, get_done);
}

/* ---- head and exists ---- */

static int head_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  lua_s3_call *self = lua_touserdata(L, (int)context);
  if (lua_s3_call_absent(L, self)) {
    lua_pushnil(L);
  } else {
    size_t length;
    const char *key = lua_tolstring(L, KEY, &length);
    lua_s3_push_info(L, s3_call_headers(self->call), key, length);
  }
  lua_s3_call_clear(self);
  return 1;
}

static int exists_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  lua_s3_call *self = lua_touserdata(L, (int)context);
  lua_pushboolean(L, !lua_s3_call_absent(L, self));
  lua_s3_call_clear(self);
  return 1;
}

static int head(lua_State *L, const char *what, lua_KFunction done) {
  static const char *const NAMES[] = {S3_CONDITION_OPTIONS, "version", "deadline", NULL};
  s3_client *client = lua_s3_client(L, BUCKET);
  s3_call_request request = {.what = "head", .method = "HEAD"};
  request.key = lua_s3_key(L, KEY, what, &request.key_length);
  lua_s3_call *self = begin(L);
  opt_check(L, OPTIONS, what, NAMES);
  lua_s3_read_conditions(L, OPTIONS, what, &self->headers);
  read_version(L, what, self);
  request.deadline = read_deadline(L, what);
  return lua_s3_call_wait(L, self, client, &request, CALL, done);
}

static int bucket_head(lua_State *L) {
  return head(L, "bucket:head", head_done);
}

static int bucket_exists(lua_State *L) {
  return head(L, "bucket:exists", exists_done);
}

/* ---- delete ---- */

static const char DELETE[] = "bucket:delete";

static int delete_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  lua_s3_call *self = lua_touserdata(L, (int)context);
  lua_s3_call_absent(L, self); /* what was gone before is as well as deleted */
  lua_s3_call_clear(self);
  return 0;
}

static int delete_now(lua_State *L, lua_s3_call *self, s3_call_request *request,
                      lua_KFunction done) {
  s3_client *client = lua_s3_client(L, BUCKET);
  request->key = lua_tolstring(L, KEY, &request->key_length);
  read_version(L, DELETE, self);
  request->deadline = read_deadline(L, DELETE);
  return lua_s3_call_wait(L, self, client, request, CALL, done);
}

static int delete_seen(lua_State *L, int status, lua_KContext context) {
  (void)status;
  lua_s3_call *self = lua_touserdata(L, (int)context);
  s3_call_request request = {.what = "delete", .method = "DELETE"};
  lua_s3_call_hold_condition(L, self, DELETE, KEY, OPTIONS);
  lua_s3_read_conditions(L, OPTIONS, DELETE, &self->headers);
  return delete_now(L, self, &request, delete_done);
}

static int bucket_delete(lua_State *L) {
  static const char *const NAMES[] = {"if_match", "version", "deadline", NULL};
  s3_call_request request = {.what = "delete", .method = "DELETE"};
  lua_s3_client(L, BUCKET);
  lua_s3_key(L, KEY, DELETE, &request.key_length);
  lua_s3_call *self = begin(L);
  opt_check(L, OPTIONS, DELETE, NAMES);
  lua_s3_read_conditions(L, OPTIONS, DELETE, &self->headers);
  if (self->headers.count == 0) return delete_now(L, self, &request, delete_done);
  /* Not every server looks at it when it deletes: it is looked at before as well. */
  lua_s3_call_clear(self);
  request.method = "HEAD";
  return delete_now(L, self, &request, delete_seen);
}

void lua_s3_add_object_methods(lua_State *L) {
  static const luaL_Reg METHODS[] = {
      {"get", bucket_get},       {"head", bucket_head}, {"exists", bucket_exists},
      {"delete", bucket_delete}, {NULL, NULL},
  };
  luaL_setfuncs(L, METHODS, 0);
}
