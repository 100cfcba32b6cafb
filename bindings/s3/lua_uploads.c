/* lua_uploads.c: a Bucket's methods for multipart uploads that nobody has finished. */
#include <lauxlib.h>
#include <math.h>
#include <string.h>
#include <time.h>
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "s3/lua_call.h"
#include "time/time_calendar.h"

/* stack of uploads and abort_uploads: bucket, options, call, list */
enum { BUCKET = 1, OPTIONS, CALL, LIST };

static const char UPLOADS[] = "bucket:uploads", ABORT_UPLOADS[] = "bucket:abort_uploads";

/* What abort_uploads passes on: how many are aborted, or that it only lists. */
enum { ONLY_LIST = -1 };

static int uploads_page(lua_State *L, const char *key_marker, const char *id_marker, int aborts);

/* By the server's clock. What has no time that can be read is young. */
static bool is_older(const xml_node *node, int64_t skew, double seconds) {
  const char *text = xml_value(node, "Initiated"), *expected;
  int64_t began;
  size_t bad;
  if (text == NULL || !time_parse(text, strlen(text), &began, &bad, &expected)) return false;
  return (double)((int64_t)time(NULL) + skew - began / 1000000) >= seconds;
}

static void push_upload(lua_State *L, const xml_node *node) {
  lua_createtable(L, 0, 3);
  lua_s3_set(L, "key", xml_value(node, "Key"));
  lua_s3_set(L, "id", xml_value(node, "UploadId"));
  lua_s3_set(L, "initiated", xml_value(node, "Initiated"));
}

static int abort_next(lua_State *L, int aborted);

static int aborted_one(lua_State *L, int status, lua_KContext aborted) {
  (void)status;
  lua_s3_call_absent(L, lua_touserdata(L, CALL)); /* somebody else was faster */
  return abort_next(L, (int)aborted + 1);
}

static int abort_next(lua_State *L, int aborted) {
  lua_s3_call *self = lua_touserdata(L, CALL);
  lua_s3_call_clear(self);
  lua_settop(L, LIST);
  if (lua_rawgeti(L, LIST, aborted + 1) == LUA_TNIL) {
    lua_pushinteger(L, aborted);
    return 1;
  }
  s3_call_request request = {.what = "abort_uploads", .method = "DELETE"};
  lua_getfield(L, -1, "id");
  lua_getfield(L, -2, "key"); // stack: ..., upload, id, key
  lua_s3_add(L, &self->query, "uploadId", lua_tostring(L, -2));
  request.key = lua_tolstring(L, -1, &request.key_length);
  return lua_s3_call_wait(L, self, lua_s3_client(L, BUCKET), &request, aborted, aborted_one);
}

static int uploads_done(lua_State *L, int status, lua_KContext aborts) {
  (void)status;
  lua_s3_call *self = lua_touserdata(L, CALL);
  double older_than = -HUGE_VAL;
  int64_t skew = lua_s3_client(L, BUCKET)->skew;
  opt_duration(L, OPTIONS, UPLOADS, "older_than", &older_than);
  lua_s3_call_check(L, self);
  const xml_node *root = lua_s3_call_xml(L, self, "ListMultipartUploadsResult");
  for (const xml_node *node = xml_child(root, "Upload"); node != NULL; node = xml_again(node)) {
    if (older_than >= 0 && !is_older(node, skew, older_than)) continue;
    push_upload(L, node);
    lua_rawseti(L, LIST, (lua_Integer)lua_rawlen(L, LIST) + 1);
  }
  const char *more = xml_value(root, "IsTruncated");
  const char *key = xml_value(root, "NextKeyMarker"), *id = xml_value(root, "NextUploadIdMarker");
  if (more != NULL && strcmp(more, "true") == 0 && key != NULL && key[0] != '\0') {
    lua_pushstring(L, key);
    lua_pushstring(L, id == NULL ? "" : id); // stack: ..., key, id: they outlive the document
    return uploads_page(L, lua_tostring(L, -2), lua_tostring(L, -1), (int)aborts);
  }
  lua_s3_call_clear(self);
  lua_settop(L, LIST);
  return aborts == ONLY_LIST ? 1 : abort_next(L, 0);
}

static int uploads_page(lua_State *L, const char *key_marker, const char *id_marker, int aborts) {
  lua_s3_call *self = lua_touserdata(L, CALL);
  const char *prefix = NULL;
  lua_s3_call_clear(self);
  lua_s3_add(L, &self->query, "uploads", "");
  if (opt_string(L, OPTIONS, UPLOADS, "prefix", &prefix, NULL))
    lua_s3_add(L, &self->query, "prefix", prefix);
  if (key_marker != NULL) lua_s3_add(L, &self->query, "key-marker", key_marker);
  if (id_marker != NULL) lua_s3_add(L, &self->query, "upload-id-marker", id_marker);
  lua_settop(L, LIST);
  s3_call_request request = {.what = "uploads", .method = "GET"};
  return lua_s3_call_wait(L, self, lua_s3_client(L, BUCKET), &request, aborts, uploads_done);
}

static int begin(lua_State *L, const char *call, int aborts) {
  static const char *const NAMES[] = {"prefix", "older_than", NULL};
  double older_than = -1;
  lua_s3_client(L, BUCKET);
  lua_settop(L, OPTIONS);
  opt_check(L, OPTIONS, call, NAMES);
  opt_duration(L, OPTIONS, call, "older_than", &older_than);
  if (aborts != ONLY_LIST && older_than < 0)
    err_raisef(L, ERR_VALIDATION, "s3",
               "%s: older_than is missing: younger uploads may still be going on", call);
  lua_s3_call_new(L);
  lua_newtable(L);
  return uploads_page(L, NULL, NULL, aborts);
}

/* bucket:uploads{prefix=, older_than=} -> list of { key=, id=, initiated= } */
static int bucket_uploads(lua_State *L) {
  return begin(L, UPLOADS, ONLY_LIST);
}

/* bucket:abort_uploads{prefix=, older_than=} -> how many */
static int bucket_abort_uploads(lua_State *L) {
  return begin(L, ABORT_UPLOADS, 0);
}

static int abort_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  lua_s3_call *self = lua_touserdata(L, (int)context);
  lua_s3_call_absent(L, self);
  lua_s3_call_clear(self);
  return 0;
}

/* bucket:abort(key, id), or the table that uploads gave. What is gone already is aborted. */
static int bucket_abort(lua_State *L) {
  static const char WHAT[] = "bucket:abort";
  s3_client *client = lua_s3_client(L, BUCKET);
  if (lua_istable(L, 2)) {
    lua_settop(L, 2);
    lua_getfield(L, 2, "id");
    lua_getfield(L, 2, "key");
    lua_replace(L, 2); // stack: bucket, key, id
  }
  lua_settop(L, 3);
  s3_call_request request = {.what = "abort", .method = "DELETE"};
  request.key = lua_s3_key(L, 2, WHAT, &request.key_length);
  if (lua_type(L, 3) != LUA_TSTRING)
    err_raisef(L, ERR_VALIDATION, "s3", "%s wants a key and an upload's id, or one of uploads()",
               WHAT);
  lua_s3_call *self = lua_s3_call_new(L);
  lua_s3_add(L, &self->query, "uploadId", lua_tostring(L, 3));
  return lua_s3_call_wait(L, self, client, &request, 4, abort_done);
}

void lua_s3_add_uploads_methods(lua_State *L) {
  static const luaL_Reg METHODS[] = {{"uploads", bucket_uploads},
                                     {"abort", bucket_abort},
                                     {"abort_uploads", bucket_abort_uploads},
                                     {NULL, NULL}};
  luaL_setfuncs(L, METHODS, 0);
}
