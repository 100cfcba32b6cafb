/* lua_copy.c: bucket:copy: on the server, in one request where it fits, else in parts. */
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>
#include "base/lua_bytes.h"
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "http/uri.h"
#include "s3/lua_upload.h"

#define WHAT "bucket:copy"
#define ONE_REQUEST_MOST (5LL << 30)
#define PART_SIZE (256LL << 20)

/* stack: bucket, from, to, options, call, the refusal of one request (or nil), and then the upload
 */
enum { BUCKET = 1, FROM, TO, OPTIONS, CALL, REFUSAL, UPLOAD };

static int copy_parts(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  lua_s3_upload *self = lua_touserdata(L, UPLOAD);
  if (s3_upload_get_state(self->upload) == S3_UPLOAD_DONE)
    return lua_s3_upload_push(L, self, UPLOAD);
  lua_s3_upload_failing(L, self);
  return lua_s3_upload_wait(L, self, 0, copy_parts);
}

/* "/bucket/key", percent-encoded; pushed. */
static const char *push_source(lua_State *L) {
  size_t length;
  const char *key = lua_tolstring(L, FROM, &length);
  const char *bucket = lua_s3_client(L, BUCKET)->config.bucket;
  bytes text = {0};
  opt_string(L, OPTIONS, WHAT, "from_bucket", &bucket, NULL);
  bytes_append_char(&text, '/');
  uri_encode(&text, bucket, strlen(bucket), false);
  bytes_append_char(&text, '/');
  uri_encode(&text, key, length, true);
  lua_push_bytes(L, &text);
  return lua_tostring(L, -1);
}

/* Whether the options say something about the copy, instead of what is said about the source. */
static bool describes(lua_State *L) {
  static const char *const NAMES[] = {"content_type",     "content_encoding", "content_disposition",
                                      "content_language", "cache_control",    "metadata"};
  bool any = false;
  for (size_t i = 0; lua_istable(L, OPTIONS) && i < sizeof NAMES / sizeof NAMES[0]; i++) {
    any |= lua_getfield(L, OPTIONS, NAMES[i]) != LUA_TNIL;
    lua_pop(L, 1);
  }
  return any;
}

static int begin_parts(lua_State *L, uint64_t size) {
  lua_s3_call *head = lua_touserdata(L, CALL);
  const http_headers *answer = s3_call_headers(head->call);
  lua_s3_upload *self = lua_s3_upload_new(L, WHAT, BUCKET, TO, OPTIONS);
  lua_toclose(L, UPLOAD);
  if (!describes(L) && !s3_upload_describe(self->upload, answer))
    return luaL_error(L, "not enough memory");
  const char *source = push_source(L);
  s3_upload_from_object(self->upload, source, http_headers_get(answer, "etag"), size);
  lua_settop(L, UPLOAD);
  lua_s3_call_clear(head);
  return copy_parts(L, LUA_OK, 0);
}

/* Raises what is wrong with a request: of the source, where that is what is missing. Which of two
 * buckets it is the server does not say: not ours, where we have seen that. */
static void check_answer(lua_State *L, const lua_s3_call *self) {
  const s3_failure *failure = s3_call_failure(self->call);
  const char *bucket = lua_s3_client(L, BUCKET)->config.bucket;
  bool other = opt_string(L, OPTIONS, WHAT, "from_bucket", &bucket, NULL);
  bool seen = lua_s3_client(L, BUCKET)->bucket_seen;
  bool no_bucket = other && seen && strcmp(failure->code, "NoSuchBucket") == 0;
  if (failure->kind == S3_ABSENT || no_bucket) {
    s3_failure absent = {0};
    s3_failure_set(&absent, failure->kind, failure->code,
                   "S3 copy of \"%.160s\" in bucket \"%.64s\": there is no such %s",
                   lua_tostring(L, FROM), bucket, no_bucket ? "bucket" : "object");
    lua_s3_raise(L, &absent);
  }
  lua_s3_call_check(L, self);
}

static int begin_one_request(lua_State *L);

static int source_seen(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  lua_s3_call *self = lua_touserdata(L, CALL);
  check_answer(L, self);
  const char *text = s3_call_header(self->call, "content-length");
  uint64_t size = text == NULL ? 0 : strtoull(text, NULL, 10);
  const s3_failure *refusal = lua_touserdata(L, REFUSAL);
  if (refusal != NULL && size <= ONE_REQUEST_MOST) lua_s3_raise(L, refusal);
  lua_Integer part_size = PART_SIZE;
  opt_integer(L, OPTIONS, WHAT, "part_size", S3_PART_LEAST, S3_PART_MOST, &part_size);
  if (refusal != NULL || size > (uint64_t)part_size) return begin_parts(L, size);
  lua_s3_call_clear(self);
  return begin_one_request(L);
}

static int look_at_source(lua_State *L) {
  lua_s3_call *self = lua_touserdata(L, CALL);
  s3_call_request request = {.what = "copy", .method = "HEAD"};
  lua_s3_call_clear(self);
  request.key = lua_tolstring(L, FROM, &request.key_length);
  opt_string(L, OPTIONS, WHAT, "from_bucket", &request.bucket, NULL);
  opt_duration(L, OPTIONS, WHAT, "deadline", &request.deadline);
  return lua_s3_call_wait(L, self, lua_s3_client(L, BUCKET), &request, 0, source_seen);
}

/* True where the server may have found the source too large for one request. */
static bool may_be_too_large(const s3_failure *failure) {
  return strcmp(failure->code, "EntityTooLarge") == 0 ||
         strcmp(failure->code, "InvalidRequest") == 0;
}

static int copied(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  lua_s3_call *self = lua_touserdata(L, CALL);
  const s3_failure *failure = s3_call_failure(self->call);
  if (may_be_too_large(failure)) {
    s3_failure *refusal = lua_newuserdatauv(L, sizeof *refusal, 0);
    *refusal = *failure;
    lua_replace(L, REFUSAL);
    return look_at_source(L);
  }
  check_answer(L, self);
  const xml_node *root = lua_s3_call_xml(L, self, "CopyObjectResult");
  const char *version = s3_call_header(self->call, "x-amz-version-id");
  lua_s3_push_stored(L, lua_s3_client(L, BUCKET), lua_tostring(L, TO), lua_rawlen(L, TO),
                     xml_value(root, "ETag"), version, -1);
  lua_s3_set(L, "last_modified", xml_value(root, "LastModified"));
  lua_s3_call_clear(self);
  return 1;
}

/* Adds what the options say about the object that is there already; false where that is nothing. */
static bool is_conditional(lua_State *L, lua_s3_call *self) {
  lua_s3_read_put_conditions(L, OPTIONS, WHAT, &self->headers);
  return self->headers.count > 0;
}

static int copy_at_once(lua_State *L) {
  lua_s3_call *self = lua_touserdata(L, CALL);
  s3_call_request request = {.what = "copy", .method = "PUT", .body = "", .check_body = true};
  request.once = is_conditional(L, self);
  request.key = lua_tolstring(L, TO, &request.key_length);
  lua_s3_add(L, &self->headers, "x-amz-copy-source", push_source(L));
  lua_s3_read_object_options(L, OPTIONS, WHAT, &self->headers);
  if (describes(L)) lua_s3_add(L, &self->headers, "x-amz-metadata-directive", "REPLACE");
  opt_duration(L, OPTIONS, WHAT, "deadline", &request.deadline);
  lua_settop(L, REFUSAL);
  return lua_s3_call_wait(L, self, lua_s3_client(L, BUCKET), &request, 0, copied);
}

static int destination_seen(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  lua_s3_call *self = lua_touserdata(L, CALL);
  lua_s3_call_hold_condition(L, self, WHAT, TO, OPTIONS);
  return copy_at_once(L);
}

/* Not every server looks at conditions when it copies: they are looked at before as well. */
static int look_at_destination(lua_State *L) {
  lua_s3_call *self = lua_touserdata(L, CALL);
  s3_call_request request = {.what = "copy", .method = "HEAD"};
  lua_s3_call_clear(self);
  request.key = lua_tolstring(L, TO, &request.key_length);
  opt_duration(L, OPTIONS, WHAT, "deadline", &request.deadline);
  return lua_s3_call_wait(L, self, lua_s3_client(L, BUCKET), &request, 0, destination_seen);
}

static int begin_one_request(lua_State *L) {
  return is_conditional(L, lua_touserdata(L, CALL)) ? look_at_destination(L) : copy_at_once(L);
}

/* bucket:copy(from, to, options) */
static int bucket_copy(lua_State *L) {
  static const char *const NAMES[] = {
      S3_COPY_OPTIONS, S3_CONDITION_OPTIONS, "part_size", "concurrency",
      "deadline",      "from_bucket",        NULL};
  lua_Integer part_size = 0;
  size_t length;
  lua_s3_client(L, BUCKET);
  lua_s3_key(L, FROM, WHAT, &length);
  lua_s3_key(L, TO, WHAT, &length);
  lua_settop(L, OPTIONS);
  opt_check(L, OPTIONS, WHAT, NAMES);
  lua_s3_call_new(L);
  lua_pushnil(L);
  bool parts = opt_integer(L, OPTIONS, WHAT, "part_size", S3_PART_LEAST, S3_PART_MOST, &part_size);
  return parts ? look_at_source(L) : begin_one_request(L);
}

void lua_s3_add_copy_methods(lua_State *L) {
  static const luaL_Reg METHODS[] = {{"copy", bucket_copy}, {NULL, NULL}};
  luaL_setfuncs(L, METHODS, 0);
}
