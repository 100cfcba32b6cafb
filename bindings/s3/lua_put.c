/* lua_put.c: bucket:put. */
#include <lauxlib.h>
#include <string.h>
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "s3/lua_call.h"

enum { BUCKET = 1, KEY, DATA, OPTIONS, CALL };

static int put_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  lua_s3_call *self = lua_touserdata(L, (int)context);
  lua_s3_call_check(L, self);
  lua_s3_push_stored(L, lua_s3_client(L, BUCKET), lua_tostring(L, KEY), lua_rawlen(L, KEY),
                     s3_call_header(self->call, "etag"),
                     s3_call_header(self->call, "x-amz-version-id"), lua_rawlen(L, DATA));
  lua_s3_call_clear(self);
  return 1;
}

static int bucket_put(lua_State *L) {
  static const char *const NAMES[] = {S3_OBJECT_OPTIONS, S3_CONDITION_OPTIONS, "deadline", NULL};
  static const char WHAT[] = "bucket:put";
  s3_client *client = lua_s3_client(L, BUCKET);
  s3_call_request request = {.what = "put", .method = "PUT"};
  request.key = lua_s3_key(L, KEY, WHAT, &request.key_length);
  lua_settop(L, OPTIONS);
  if (lua_type(L, DATA) != LUA_TSTRING)
    err_raisef(L, ERR_VALIDATION, "s3", "%s: the data must be a string, got %s", WHAT,
               luaL_typename(L, DATA));
  lua_s3_call *self = lua_s3_call_new(L); // stack: bucket, key, data, options, call
  opt_check(L, OPTIONS, WHAT, NAMES);
  lua_s3_read_object_options(L, OPTIONS, WHAT, &self->headers);
  size_t before = self->headers.count;
  lua_s3_read_put_conditions(L, OPTIONS, WHAT, &self->headers);
  request.once = self->headers.count > before;
  opt_duration(L, OPTIONS, WHAT, "deadline", &request.deadline);
  request.body = lua_tolstring(L, DATA, &request.body_length);
  return lua_s3_call_wait(L, self, client, &request, CALL, put_done);
}

void lua_s3_add_put_methods(lua_State *L) {
  static const luaL_Reg METHODS[] = {{"put", bucket_put}, {NULL, NULL}};
  luaL_setfuncs(L, METHODS, 0);
}
