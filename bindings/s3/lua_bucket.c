/* lua_bucket.c: nebula.s3.connect, the Bucket, and what concerns a bucket as a whole. */
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/lua_bytes.h"
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "http/lua_client.h"
#include "nebula.h"
#include "s3/lua_call.h"

#define CONNECT "s3.connect"

enum { ATTEMPTS = 4 };
#define CONNECT_SECONDS 10.0
#define FIRST_BYTE_SECONDS 60.0
#define STALL_SECONDS 30.0

/* ---- connect ---- */

static int bucket_gc(lua_State *L) {
  s3_client **box = luaL_checkudata(L, 1, S3_BUCKET_TYPE);
  s3_client_release(*box);
  *box = NULL;
  return 0;
}

static void read_text(lua_State *L, const char *name, const char **out) {
  size_t length = 0;
  if (!opt_string(L, 1, CONNECT, name, out, &length)) return;
  if (strlen(*out) != length || strpbrk(*out, "\r\n") != NULL)
    err_raisef(L, ERR_VALIDATION, "s3", CONNECT ": %s holds a control character", name);
  if (length == 0) *out = NULL;
}

static void read_config(lua_State *L, s3_config *config) {
  read_text(L, "endpoint", &config->endpoint);
  read_text(L, "region", &config->region);
  read_text(L, "bucket", &config->bucket);
  read_text(L, "access_key_id", &config->access_key_id);
  read_text(L, "secret_access_key", &config->secret_access_key);
  read_text(L, "session_token", &config->session_token);
  read_text(L, "profile", &config->profile);
  read_text(L, "ca_file", &config->ca_file);
  if (config->ca_file == NULL) config->ca_file = getenv("AWS_CA_BUNDLE");
  if (config->ca_file != NULL && config->ca_file[0] == '\0') config->ca_file = NULL;
  opt_string(L, 1, CONNECT, "proxy", &config->proxy, NULL); /* "" means: none */
  config->path_style = config->endpoint != NULL;
  opt_boolean(L, 1, CONNECT, "path_style", &config->path_style);
  opt_boolean(L, 1, CONNECT, "unsigned_payload", &config->unsigned_payload);
  opt_boolean(L, 1, CONNECT, "trust_etag", &config->trust_etag);
  const char *checksum = NULL;
  if (opt_string(L, 1, CONNECT, "checksum", &checksum, NULL)) {
    config->crc32c = strcmp(checksum, "crc32c") == 0;
    if (!config->crc32c && strcmp(checksum, "none") != 0)
      err_raisef(L, ERR_CONFIG, "s3",
                 CONNECT ": checksum must be \"crc32c\" or \"none\", got \"%s\"", checksum);
  }
  lua_Integer attempts = ATTEMPTS;
  opt_integer(L, 1, CONNECT, "attempts", 1, 100, &attempts);
  config->attempts = (int)attempts;
  lua_Integer low_speed = 1;
  opt_integer(L, 1, CONNECT, "low_speed", 1, INT32_MAX, &low_speed);
  config->low_speed = low_speed;
  config->connect_timeout = CONNECT_SECONDS;
  config->first_byte_timeout = FIRST_BYTE_SECONDS;
  config->stall_timeout = STALL_SECONDS;
  opt_duration(L, 1, CONNECT, "connect_timeout", &config->connect_timeout);
  opt_duration(L, 1, CONNECT, "first_byte_timeout", &config->first_byte_timeout);
  opt_duration(L, 1, CONNECT, "stall_timeout", &config->stall_timeout);
  opt_duration(L, 1, CONNECT, "deadline", &config->deadline);
  char buffer[256];
  const char *problem = s3_config_problem(config, buffer, sizeof buffer);
  if (problem != NULL) err_raisef(L, ERR_CONFIG, "s3", CONNECT ": %s", problem);
}

static int lua_s3_connect(lua_State *L) {
  static const char *const NAMES[] = {
      "endpoint",           "region",        "bucket",     "access_key_id", "secret_access_key",
      "session_token",      "profile",       "ca_file",    "proxy",         "path_style",
      "unsigned_payload",   "checksum",      "trust_etag", "attempts",      "connect_timeout",
      "first_byte_timeout", "stall_timeout", "low_speed",  "deadline",      NULL};
  lua_settop(L, 1);
  luaL_checktype(L, 1, LUA_TTABLE);
  opt_check(L, 1, CONNECT, NAMES);
  s3_config config = {0};
  read_config(L, &config);
  s3_client **box = lua_newuserdatauv(L, sizeof(s3_client *), 0);
  *box = NULL;
  luaL_setmetatable(L, S3_BUCKET_TYPE);
  *box = s3_client_new(lua_http_client(L), &config);
  if (*box == NULL) return luaL_error(L, "not enough memory");
  return 1;
}

/* ---- the bucket as a whole ---- */

static int whole_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  lua_s3_call *self = lua_touserdata(L, (int)context);
  lua_s3_call_check(L, self);
  lua_s3_call_clear(self);
  return 0;
}

static int bucket_exists_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  lua_s3_call *self = lua_touserdata(L, (int)context);
  bool exists = s3_call_status(self->call) != 404;
  if (exists) lua_s3_call_check(L, self);
  lua_s3_call_clear(self);
  lua_pushboolean(L, exists);
  return 1;
}

/* AWS makes a bucket in the region that the body names; other servers know their own. Anchors the
 * body on the stack. */
static void add_location(lua_State *L, const s3_client *client, s3_call_request *request) {
  bool names = strstr(client->config.endpoint, ".amazonaws.com") != NULL &&
               strcmp(client->config.region, "us-east-1") != 0;
  request->body = "";
  if (!names) return;
  request->body = lua_pushfstring(L,
                                  "<CreateBucketConfiguration><LocationConstraint>%s"
                                  "</LocationConstraint></CreateBucketConfiguration>",
                                  client->config.region);
  request->body_length = strlen(request->body);
}

static int whole(lua_State *L, const char *what, const char *method, lua_KFunction done) {
  static const char *const NAMES[] = {"deadline", NULL};
  char call[64];
  snprintf(call, sizeof call, "bucket:%s", what);
  s3_client *client = lua_s3_client(L, 1);
  lua_settop(L, 2);
  opt_check(L, 2, call, NAMES);
  s3_call_request request = {.what = what, .method = method};
  opt_duration(L, 2, call, "deadline", &request.deadline);
  lua_s3_call *self = lua_s3_call_new(L); // stack: bucket, options, call
  if (strcmp(method, "PUT") == 0) add_location(L, client, &request);
  return lua_s3_call_wait(L, self, client, &request, 3, done);
}

static int bucket_create_bucket(lua_State *L) {
  return whole(L, "create_bucket", "PUT", whole_done);
}

static int bucket_delete_bucket(lua_State *L) {
  return whole(L, "delete_bucket", "DELETE", whole_done);
}

static int bucket_bucket_exists(lua_State *L) {
  return whole(L, "bucket_exists", "HEAD", bucket_exists_done);
}

static int push_url(lua_State *L, const s3_client *client, const char *key, size_t length) {
  bytes text = {0};
  s3_url_append(&text, client, NULL, key, length);
  lua_push_bytes(L, &text);
  return 1;
}

static int bucket_url(lua_State *L) {
  s3_client *client = lua_s3_client(L, 1);
  size_t length = 0;
  const char *key = lua_isnoneornil(L, 2) ? NULL : lua_s3_key(L, 2, "bucket:url", &length);
  return push_url(L, client, key, length);
}

static int bucket_tostring(lua_State *L) {
  const s3_client *client = lua_s3_client(L, 1);
  lua_pushfstring(L, "bucket %s at %s", client->config.bucket, client->config.endpoint);
  return 1;
}

void lua_s3_push_stored(lua_State *L, const s3_client *client, const char *key, size_t length,
                        const char *etag, const char *version, int64_t size) {
  lua_createtable(L, 0, 4);
  lua_s3_set_etag(L, etag);
  lua_s3_set(L, "version", version);
  if (size >= 0) {
    lua_pushinteger(L, size);
    lua_setfield(L, -2, "size");
  }
  push_url(L, client, key, length);
  lua_setfield(L, -2, "url");
}

void lua_s3_add_bucket_methods(lua_State *L) {
  static const luaL_Reg METHODS[] = {{"create_bucket", bucket_create_bucket},
                                     {"close", bucket_gc},
                                     {"delete_bucket", bucket_delete_bucket},
                                     {"bucket_exists", bucket_bucket_exists},
                                     {"url", bucket_url},
                                     {NULL, NULL}};
  luaL_setfuncs(L, METHODS, 0);
}

int lua_open_s3(lua_State *L) {
  static const luaL_Reg FUNCTIONS[] = {
      {"connect", lua_s3_connect}, {"sign", lua_s3_sign}, {NULL, NULL}};
  luaL_newmetatable(L, S3_BUCKET_TYPE);
  lua_pushcfunction(L, bucket_gc);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, bucket_gc);
  lua_setfield(L, -2, "__close");
  lua_pushcfunction(L, bucket_tostring);
  lua_setfield(L, -2, "__tostring");
  lua_pushliteral(L, "nebula.s3.Bucket");
  lua_setfield(L, -2, "__name");
  lua_newtable(L);
  lua_s3_add_bucket_methods(L);
  lua_s3_add_object_methods(L);
  lua_s3_add_copy_methods(L);
  lua_s3_add_list_methods(L);
  lua_s3_add_put_methods(L);
  lua_s3_add_download_methods(L);
  lua_s3_add_many_methods(L);
  lua_s3_add_uploads_methods(L);
  lua_s3_add_reader_methods(L);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  luaL_newlib(L, FUNCTIONS);
  return 1;
}
