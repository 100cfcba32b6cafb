/* lua_options.c: the options of object methods as the headers they stand for. */
#include <lauxlib.h>
#include <string.h>
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "http/lua_client.h"
#include "http/uri.h"
#include "s3/check.h"
#include "s3/lua_call.h"

enum { METADATA_BYTES_MOST = 2048, TAGS_MOST = 10 };

static void add_condition(lua_State *L, int index, const char *call, const char *option,
                          const char *header, const char *format, http_headers *out) {
  const char *etag = NULL;
  size_t length = 0;
  if (!opt_string(L, index, call, option, &etag, &length)) return;
  bool quoted = length >= 2 && etag[0] == '"' && etag[length - 1] == '"';
  if (quoted) etag = lua_pushlstring(L, etag + 1, length - 2);
  const char *value =
      strcmp(etag, "*") == 0 ? lua_pushstring(L, etag) : lua_pushfstring(L, format, etag);
  lua_http_headers_add(L, call, out, header, value, strlen(value));
  lua_pop(L, quoted ? 2 : 1);
}

void lua_s3_read_conditions(lua_State *L, int index, const char *call, http_headers *out) {
  add_condition(L, index, call, "if_match", "If-Match", "\"%s\"", out);
  add_condition(L, index, call, "if_none_match", "If-None-Match", "\"%s\"", out);
}

/* Without quotes: AWS takes both, Ceph compares the header byte for byte with its ETag. */
void lua_s3_read_put_conditions(lua_State *L, int index, const char *call, http_headers *out) {
  const char *other = "*";
  add_condition(L, index, call, "if_match", "If-Match", "%s", out);
  add_condition(L, index, call, "if_none_match", "If-None-Match", "%s", out);
  opt_string(L, index, call, "if_none_match", &other, NULL);
  if (strcmp(other, "*") != 0)
    err_raisef(L, ERR_VALIDATION, "s3",
               "%s: if_none_match must be \"*\": only where there is no object", call);
}

void lua_s3_call_hold_condition(lua_State *L, lua_s3_call *self, const char *call, int key,
                                int options) {
  bool absent = lua_s3_call_absent(L, self);
  http_headers *conditions = lua_http_headers_new(L);
  lua_s3_read_put_conditions(L, options, call, conditions);
  if (!s3_condition_holds(conditions, absent ? NULL : s3_call_header(self->call, "etag"))) {
    s3_failure failure = {0};
    const char *bucket = lua_s3_client(L, 1)->config.bucket;
    s3_failure_set_unmet(&failure, strchr(call, ':') + 1, lua_tostring(L, key), bucket);
    lua_s3_raise(L, &failure);
  }
  lua_pop(L, 1);
  lua_s3_call_clear(self);
}

static void add_plain(lua_State *L, int index, const char *call, http_headers *out) {
  static const char *const HEADERS[][2] = {
      {"content_type", "Content-Type"},
      {"content_encoding", "Content-Encoding"},
      {"content_disposition", "Content-Disposition"},
      {"content_language", "Content-Language"},
      {"cache_control", "Cache-Control"},
      {"storage_class", "x-amz-storage-class"},
      {"sse", S3_SSE_HEADER},
      {"sse_kms_key_id", "x-amz-server-side-encryption-aws-kms-key-id"},
  };
  for (size_t i = 0; i < sizeof HEADERS / sizeof HEADERS[0]; i++) {
    const char *value = NULL;
    size_t length = 0;
    if (opt_string(L, index, call, HEADERS[i][0], &value, &length))
      lua_http_headers_add(L, call, out, HEADERS[i][1], value, length);
  }
}

static _Noreturn void refuse_pairs(lua_State *L, const char *call, const char *option) {
  err_raisef(L, ERR_VALIDATION, "s3", "%s: %s must be a table of strings by name", call, option);
}

static void add_metadata(lua_State *L, int index, const char *call, http_headers *out) {
  int type = lua_getfield(L, index, "metadata");
  if (type == LUA_TNIL) {
    lua_pop(L, 1);
    return;
  }
  if (type != LUA_TTABLE) refuse_pairs(L, call, "metadata");
  size_t before = out->bytes;
  for (lua_pushnil(L); lua_next(L, -2) != 0; lua_pop(L, 1)) {
    // stack: metadata, name, value
    if (lua_type(L, -2) != LUA_TSTRING || !lua_isstring(L, -1)) refuse_pairs(L, call, "metadata");
    const char *name = lua_pushfstring(L, "x-amz-meta-%s", lua_tostring(L, -2));
    size_t length;
    const char *value = lua_tolstring(L, -2, &length);
    lua_http_headers_add(L, call, out, name, value, length);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  if (out->bytes - before > METADATA_BYTES_MOST)
    err_raisef(L, ERR_VALIDATION, "s3", "%s: metadata is %d bytes long, S3 takes %d", call,
               (int)(out->bytes - before), METADATA_BYTES_MOST);
}

static size_t characters(const char *text) {
  size_t count = 0;
  for (; *text != '\0'; text++)
    count += ((unsigned char)*text & 0xc0) != 0x80;
  return count;
}

void lua_s3_check_tag(lua_State *L, const char *call, size_t nth, const char *name,
                      const char *value) {
  size_t length = characters(name);
  if (nth > TAGS_MOST || length == 0 || length > 128 || characters(value) > 256)
    err_raisef(L, ERR_VALIDATION, "s3",
               "%s: an object has at most %d tags: names of 1 to 128 characters, values of up to "
               "256",
               call, TAGS_MOST);
}

/* "name=value&name=value", percent-encoded. */
static void add_tags(lua_State *L, int index, const char *call, http_headers *out) {
  int type = lua_getfield(L, index, "tags");
  if (type == LUA_TNIL) {
    lua_pop(L, 1);
    return;
  }
  if (type != LUA_TTABLE) refuse_pairs(L, call, "tags");
  http_headers *pairs = lua_http_headers_new(L); // stack: tags, anchor
  for (lua_pushnil(L); lua_next(L, -3) != 0; lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING || !lua_isstring(L, -1)) refuse_pairs(L, call, "tags");
    lua_s3_add(L, pairs, lua_tostring(L, -2), lua_tostring(L, -1));
    lua_s3_check_tag(L, call, pairs->count, lua_tostring(L, -2), lua_tostring(L, -1));
  }
  bytes text = {0};
  for (size_t i = 0; i < pairs->count; i++) {
    if (i > 0) bytes_append_char(&text, '&');
    uri_encode(&text, pairs->items[i].name, strlen(pairs->items[i].name), false);
    bytes_append_char(&text, '=');
    uri_encode(&text, pairs->items[i].value, strlen(pairs->items[i].value), false);
  }
  bool well = !text.failed && http_headers_add(out, "x-amz-tagging", bytes_text(&text));
  bytes_free(&text);
  if (!well) luaL_error(L, "not enough memory");
  lua_pop(L, 2);
}

void lua_s3_read_object_options(lua_State *L, int index, const char *call, http_headers *out) {
  if (lua_isnoneornil(L, index)) return;
  index = lua_absindex(L, index);
  add_plain(L, index, call, out);
  add_metadata(L, index, call, out);
  add_tags(L, index, call, out);
}
