/* lua_many.c: a Bucket's methods for many objects at once, for tags and presigned URLs. */
#include <lauxlib.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "s3/lua_call.h"
#include "s3/sign.h"

enum {
  DELETE_AT_ONCE = 1000,
  TOLD_MOST = 100,
  PRESIGN_SECONDS = 3600,
  PRESIGN_SECONDS_MOST = 604800
};

#define PRESIGN "bucket:presign"

/* A buffer that its userdata frees. */
static int text_gc(lua_State *L) {
  bytes_free(lua_touserdata(L, 1));
  return 0;
}

static bytes *text_new(lua_State *L) {
  bytes *self = lua_newuserdatauv(L, sizeof *self, 0);
  *self = (bytes){0};
  if (luaL_newmetatable(L, "nebula.s3.text")) {
    lua_pushcfunction(L, text_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  return self;
}

/* Text as XML may hold it; what XML cannot hold at all is left to the server to refuse. */
static void append_escaped(bytes *out, const char *text, size_t length) {
  for (size_t i = 0; i < length; i++) {
    unsigned char c = (unsigned char)text[i];
    if (c < ' ' || c == '&' || c == '<' || c == '>' || c == '"') {
      bytes_format(out, "&#%d;", c);
    } else {
      bytes_append_char(out, (char)c);
    }
  }
}

/* S3 wants the body's MD5 with requests that delete or describe. */
static void add_md5(lua_State *L, http_headers *headers, const bytes *body) {
  unsigned char digest[EVP_MAX_MD_SIZE], text[64];
  unsigned int size = 0;
  if (body->failed || EVP_Digest(body->data, body->length, digest, &size, EVP_md5(), NULL) != 1)
    luaL_error(L, "not enough memory");
  EVP_EncodeBlock(text, digest, (int)size);
  lua_s3_add(L, headers, "Content-MD5", (const char *)text);
  lua_s3_add(L, headers, "Content-Type", "application/xml");
}

/* ---- delete_many ---- */

/* stack of delete_many: bucket, keys, options, call, text, errors */
enum { BUCKET = 1, KEYS, OPTIONS, CALL, TEXT, ERRORS };

static int delete_page(lua_State *L, lua_Integer first);

static void collect_errors(lua_State *L, const xml_node *root) {
  const xml_node *node = xml_child(root, "Error");
  for (; node != NULL; node = xml_again(node)) {
    const char *code = xml_value(node, "Code");
    if (code != NULL && strcmp(code, "NoSuchKey") == 0) continue;
    lua_createtable(L, 0, 3);
    lua_s3_set(L, "key", xml_value(node, "Key"));
    lua_s3_set(L, "code", code);
    lua_s3_set(L, "message", xml_value(node, "Message"));
    lua_rawseti(L, ERRORS, (lua_Integer)lua_rawlen(L, ERRORS) + 1);
  }
}

static int page_deleted(lua_State *L, int status, lua_KContext next) {
  (void)status;
  lua_s3_call *self = lua_touserdata(L, CALL);
  lua_s3_call_check(L, self);
  collect_errors(L, lua_s3_call_xml(L, self, "DeleteResult"));
  return delete_page(L, (lua_Integer)next);
}

/* "key: code", a line each. */
static const char *undeleted(lua_State *L, lua_Integer failed) {
  bytes *lines = lua_touserdata(L, TEXT); /* what was asked for is done with */
  bytes_clear(lines);
  for (lua_Integer i = 1; i <= failed && i <= TOLD_MOST; i++) {
    lua_rawgeti(L, ERRORS, i);
    lua_getfield(L, -1, "key");
    lua_getfield(L, -2, "code"); // stack: ..., error, key, code
    const char *key = lua_tostring(L, -2), *code = lua_tostring(L, -1);
    bytes_format(lines, "%s%s: %s", i == 1 ? "" : "\n", key == NULL ? "?" : key,
                 code == NULL ? "no reason given" : code);
    lua_pop(L, 3);
  }
  if (failed > TOLD_MOST) bytes_append_text(lines, "\n...");
  return bytes_text(lines);
}

static int many_done(lua_State *L) {
  lua_Integer failed = (lua_Integer)lua_rawlen(L, ERRORS);
  if (failed == 0) {
    lua_pushinteger(L, (lua_Integer)lua_rawlen(L, KEYS));
    return 1;
  }
  lua_rawgeti(L, ERRORS, 1);
  lua_getfield(L, -1, "key");
  lua_getfield(L, -2, "code"); // stack: ..., first, key, code
  const char *key = lua_tostring(L, -2), *code = lua_tostring(L, -1);
  err_info info = {.kind = ERR_S3, .source = "s3", .code = code};
  info.detail = undeleted(L, failed);
  info.message = lua_pushfstring(
      L, "bucket:delete_many: %I of %I objects could not be deleted, first \"%s\": %s",
      (LUAI_UACINT)failed, (LUAI_UACINT)lua_rawlen(L, KEYS), key == NULL ? "?" : key,
      code == NULL ? "no reason given" : code);
  err_raise(L, &info);
}

static int delete_page(lua_State *L, lua_Integer first) {
  lua_s3_call *self = lua_touserdata(L, CALL);
  bytes *body = lua_touserdata(L, TEXT);
  lua_Integer count = (lua_Integer)lua_rawlen(L, KEYS), i = first;
  if (first > count) return many_done(L);
  lua_s3_call_clear(self);
  bytes_clear(body);
  bytes_append_text(body, "<Delete><Quiet>true</Quiet>");
  for (; i <= count && i < first + DELETE_AT_ONCE; i++) {
    lua_rawgeti(L, KEYS, i);
    size_t length;
    const char *key = lua_s3_key(L, -1, "bucket:delete_many", &length);
    bytes_append_text(body, "<Object><Key>");
    append_escaped(body, key, length);
    bytes_append_text(body, "</Key></Object>");
    lua_pop(L, 1);
  }
  bytes_append_text(body, "</Delete>");
  lua_s3_add(L, &self->query, "delete", "");
  add_md5(L, &self->headers, body);
  s3_call_request request = {.what = "delete_many",
                             .method = "POST",
                             .body = body->data,
                             .body_length = body->length,
                             .check_body = true};
  opt_duration(L, OPTIONS, "bucket:delete_many", "deadline", &request.deadline);
  return lua_s3_call_wait(L, self, lua_s3_client(L, BUCKET), &request, (int)i, page_deleted);
}

/* bucket:delete_many(keys) -> how many */
static int bucket_delete_many(lua_State *L) {
  static const char *const NAMES[] = {"deadline", NULL};
  lua_s3_client(L, BUCKET);
  lua_settop(L, OPTIONS);
  if (!lua_istable(L, KEYS))
    err_raisef(L, ERR_VALIDATION, "s3", "bucket:delete_many: the keys must be a list, got %s",
               luaL_typename(L, KEYS));
  opt_check(L, OPTIONS, "bucket:delete_many", NAMES);
  for (lua_Integer i = 1; lua_rawgeti(L, KEYS, i) != LUA_TNIL; i++, lua_pop(L, 1)) {
    size_t length;
    lua_s3_key(L, -1, "bucket:delete_many", &length);
  }
  lua_settop(L, OPTIONS);
  lua_s3_call_new(L);
  text_new(L);
  lua_newtable(L);
  return delete_page(L, 1);
}

/* ---- tags ---- */

static int tags_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  lua_s3_call *self = lua_touserdata(L, (int)context);
  if (lua_s3_call_absent(L, self)) {
    lua_pushnil(L);
    return 1;
  }
  const xml_node *root = lua_s3_call_xml(L, self, "Tagging");
  const xml_node *tag = xml_child(xml_child(root, "TagSet"), "Tag");
  lua_newtable(L);
  for (; tag != NULL; tag = xml_again(tag)) {
    const char *name = xml_value(tag, "Key");
    if (name != NULL) lua_s3_set(L, name, xml_value(tag, "Value"));
  }
  lua_s3_call_clear(self);
  return 1;
}

static int tagged(lua_State *L, int status, lua_KContext context) {
  (void)status;
  lua_s3_call *self = lua_touserdata(L, (int)context);
  lua_s3_call_check(L, self);
  lua_s3_call_clear(self);
  return 0;
}

/* bucket:tag(key) -> tags; bucket:tag(key, tags): these, and no others. */
static int bucket_tag(lua_State *L) {
  static const char WHAT[] = "bucket:tag",
                    REFUSAL[] = "%s: tags must be a table of strings by name";
  enum { KEY = 2, TAGS = 3 };
  s3_client *client = lua_s3_client(L, BUCKET);
  s3_call_request request = {.what = "tag", .method = "GET"};
  request.key = lua_s3_key(L, KEY, WHAT, &request.key_length);
  lua_settop(L, TAGS);
  lua_s3_call *self = lua_s3_call_new(L); // stack: bucket, key, tags, call
  lua_s3_add(L, &self->query, "tagging", "");
  if (lua_isnil(L, TAGS)) return lua_s3_call_wait(L, self, client, &request, 4, tags_done);
  if (!lua_istable(L, TAGS)) err_raisef(L, ERR_VALIDATION, "s3", REFUSAL, WHAT);
  bytes *body = text_new(L);
  bytes_append_text(body, "<Tagging><TagSet>");
  size_t nth = 0;
  for (lua_pushnil(L); lua_next(L, TAGS) != 0; lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING || !lua_isstring(L, -1))
      err_raisef(L, ERR_VALIDATION, "s3", REFUSAL, WHAT);
    size_t name_length, value_length;
    const char *name = lua_tolstring(L, -2, &name_length);
    const char *value = lua_tolstring(L, -1, &value_length);
    lua_s3_check_tag(L, WHAT, ++nth, name, value);
    bytes_append_text(body, "<Tag><Key>");
    append_escaped(body, name, name_length);
    bytes_append_text(body, "</Key><Value>");
    append_escaped(body, value, value_length);
    bytes_append_text(body, "</Value></Tag>");
  }
  bytes_append_text(body, "</TagSet></Tagging>");
  add_md5(L, &self->headers, body);
  request.method = "PUT";
  request.body = body->data;
  request.body_length = body->length;
  return lua_s3_call_wait(L, self, client, &request, 4, tagged);
}

/* ---- presign ---- */

/* bucket:presign(key, { method=, expires= }) -> url. Asks S3 nothing. */
static int presign_done(lua_State *L, s3_client *client, const s3_identity *identity,
                        const char *method, double expires) {
  bytes *url = text_new(L);
  size_t length;
  const char *key = lua_tolstring(L, 2, &length);
  http_headers none = {0};
  sign_result result = {0};
  s3_url_append(url, client, NULL, key, length);
  sign_request request = {.method = method,
                          .url = bytes_text(url),
                          .headers = &none,
                          .payload_hash = SIGN_UNSIGNED_PAYLOAD,
                          .region = client->config.region,
                          .service = "s3",
                          .access_key_id = identity->access_key_id,
                          .secret_access_key = identity->secret_access_key,
                          .session_token = identity->session_token,
                          .time = (int64_t)time(NULL) + client->skew,
                          .in_query = true,
                          .expires = (int64_t)expires,
                          .encode_once = true};
  bool well = !url->failed && sign_make(&request, &result) == SIGN_OK;
  if (well) {
    bytes_clear(url);
    well = bytes_append(url, result.url.data, result.url.length);
  }
  sign_result_free(&result);
  if (!well) return luaL_error(L, "not enough memory");
  lua_pushlstring(L, url->data, url->length);
  return 1;
}

/* The first use may have to look for the keys. */
typedef struct presign_wait {
  s3_client *client;
  s3_credentials_wait wait;
  task_ticket ticket;
} presign_wait;

static int presign_gc(lua_State *L) {
  presign_wait *self = lua_touserdata(L, 1);
  if (self->client == NULL) return 0;
  s3_credentials_leave(self->client->credentials, &self->wait);
  s3_client_release(self->client);
  self->client = NULL;
  return 0;
}

static void presign_ready(void *data) {
  presign_wait *self = data;
  task_wake(self->ticket);
}

static void presign_abandon(void *data) {
  presign_wait *self = data;
  s3_credentials_leave(self->client->credentials, &self->wait);
}

static int presign_step(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  presign_wait *self = lua_touserdata(L, 4);
  const s3_identity *identity = s3_credentials_get(self->client->credentials, &self->wait);
  const char *problem = s3_credentials_problem(self->client->credentials);
  if (identity == NULL && problem != NULL) err_raisef(L, ERR_CONFIG, "s3", PRESIGN ": %s", problem);
  if (identity == NULL) {
    self->ticket = task_wait_begin(L, PRESIGN);
    return task_wait(L, self->ticket, presign_abandon, self, 0, presign_step);
  }
  const char *method = "GET";
  double expires = PRESIGN_SECONDS;
  opt_string(L, 3, PRESIGN, "method", &method, NULL);
  opt_duration(L, 3, PRESIGN, "expires", &expires);
  return presign_done(L, self->client, identity, method, expires);
}

static int bucket_presign(lua_State *L) {
  static const char *const NAMES[] = {"method", "expires", NULL};
  s3_client *client = lua_s3_client(L, BUCKET);
  size_t length;
  lua_s3_key(L, 2, PRESIGN, &length);
  lua_settop(L, 3);
  opt_check(L, 3, PRESIGN, NAMES);
  double expires = PRESIGN_SECONDS;
  opt_duration(L, 3, PRESIGN, "expires", &expires);
  if (expires < 1 || expires > PRESIGN_SECONDS_MOST)
    err_raisef(L, ERR_VALIDATION, "s3", PRESIGN ": expires must be 1 second to 7 days");
  presign_wait *self = lua_newuserdatauv(L, sizeof *self, 0);
  *self = (presign_wait){0};
  if (luaL_newmetatable(L, "nebula.s3.presign")) {
    lua_pushcfunction(L, presign_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2); // stack: bucket, key, options, wait
  self->client = s3_client_hold(client);
  self->wait = (s3_credentials_wait){.ready = presign_ready, .data = self};
  return presign_step(L, LUA_OK, 0);
}

void lua_s3_add_many_methods(lua_State *L) {
  static const luaL_Reg METHODS[] = {{"delete_many", bucket_delete_many},
                                     {"tag", bucket_tag},
                                     {"presign", bucket_presign},
                                     {NULL, NULL}};
  luaL_setfuncs(L, METHODS, 0);
}
