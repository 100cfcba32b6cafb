/* lua_call.c: see lua_call.h. */
#include "s3/lua_call.h"

#include <curl/curl.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/lua_error.h"

static const char CALL_TYPE[] = "nebula.s3.call";

void lua_s3_call_clear(lua_s3_call *self) {
  s3_call_free(self->call);
  xml_free(self->document);
  http_headers_free(&self->query);
  http_headers_free(&self->headers);
  self->call = NULL;
  self->document = NULL;
}

static int call_gc(lua_State *L) {
  lua_s3_call_clear(lua_touserdata(L, 1));
  return 0;
}

lua_s3_call *lua_s3_call_new(lua_State *L) {
  lua_s3_call *self = lua_newuserdatauv(L, sizeof *self, 0);
  memset(self, 0, sizeof *self);
  if (luaL_newmetatable(L, CALL_TYPE)) {
    lua_pushcfunction(L, call_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  return self;
}

static void on_done(s3_call *call, void *data) {
  (void)call;
  lua_s3_call *self = data;
  task_wake(self->ticket);
}

static void abandon(void *data) {
  lua_s3_call_clear(data);
}

int lua_s3_call_wait(lua_State *L, lua_s3_call *self, s3_client *client, s3_call_request *request,
                     int index, lua_KFunction done) {
  char what[64];
  snprintf(what, sizeof what, "bucket:%s", request->what);
  request->query = &self->query;
  request->headers = &self->headers;
  request->on_done = on_done;
  request->data = self;
  self->ticket = task_wait_begin(L, what);
  self->call = s3_call_start(client, request);
  if (self->call == NULL) return luaL_error(L, "not enough memory");
  return task_wait(L, self->ticket, abandon, self, index, done);
}

bool lua_s3_call_absent(lua_State *L, const lua_s3_call *self) {
  const s3_failure *failure = s3_call_failure(self->call);
  if (failure->kind != S3_WELL && failure->kind != S3_ABSENT) lua_s3_raise(L, failure);
  return failure->kind == S3_ABSENT;
}

void lua_s3_call_check(lua_State *L, const lua_s3_call *self) {
  const s3_failure *failure = s3_call_failure(self->call);
  if (failure->kind != S3_WELL) lua_s3_raise(L, failure);
}

const xml_node *lua_s3_call_xml(lua_State *L, lua_s3_call *self, const char *root) {
  const bytes *body = s3_call_body(self->call);
  self->document = xml_parse(bytes_text(body), body->length);
  const xml_node *node = xml_root(self->document);
  if (xml_is(node, root)) return node;
  err_info info = {.kind = ERR_S3, .source = "s3", .code = "MalformedAnswer", .retryable = true};
  info.message = lua_pushfstring(L,
                                 "S3 answered with something else than a <%s> document: is the "
                                 "endpoint an S3 service?",
                                 root);
  err_raise(L, &info);
}

void lua_s3_add(lua_State *L, http_headers *list, const char *name, const char *value) {
  if (!http_headers_add(list, name, value)) luaL_error(L, "not enough memory");
}

static const char *kind_name(s3_kind kind) {
  switch (kind) {
  case S3_ABSENT: return ERR_NOT_FOUND;
  case S3_INVALID: return ERR_VALIDATION;
  case S3_CONFLICT: return ERR_CONFLICT;
  case S3_TIMEOUT: return ERR_TIMEOUT;
  case S3_LIMIT: return ERR_LIMIT;
  case S3_IO: return ERR_IO;
  case S3_UNKNOWN: return ERR_UNKNOWN_OUTCOME;
  case S3_CONFIG: return ERR_CONFIG;
  default: return ERR_S3;
  }
}

_Noreturn void lua_s3_raise(lua_State *L, const s3_failure *failure) {
  if (failure->kind == S3_NO_MEMORY) luaL_error(L, "not enough memory");
  err_info info = {.kind = kind_name(failure->kind),
                   .source = "s3",
                   .message = failure->message,
                   .code = failure->code[0] == '\0' ? NULL : failure->code,
                   .retryable = failure->retryable,
                   .retry_after = failure->retry_after};
  err_raise(L, &info);
}

/* ---- arguments ---- */

s3_client *lua_s3_client(lua_State *L, int index) {
  s3_client **box = luaL_testudata(L, index, S3_BUCKET_TYPE);
  if (box == NULL) err_raisef(L, ERR_VALIDATION, "s3", "call it with a colon, bucket:method(...)");
  if (*box == NULL) err_raisef(L, ERR_VALIDATION, "s3", "the bucket is closed");
  return *box;
}

const char *lua_s3_key(lua_State *L, int index, const char *call, size_t *length) {
  if (lua_type(L, index) != LUA_TSTRING)
    err_raisef(L, ERR_VALIDATION, "s3", "%s: the key must be a string, got %s", call,
               luaL_typename(L, index));
  const char *key = lua_tolstring(L, index, length);
  const char *problem = s3_key_problem(key, *length);
  if (problem != NULL) err_raisef(L, ERR_VALIDATION, "s3", "%s: %s", call, problem);
  return key;
}

/* ---- what came back ---- */

void lua_s3_set(lua_State *L, const char *name, const char *value) {
  if (value == NULL) return;
  lua_pushstring(L, value);
  lua_setfield(L, -2, name);
}

void lua_s3_set_etag(lua_State *L, const char *value) {
  if (value == NULL) return;
  size_t length = strlen(value);
  if (length >= 2 && value[0] == '"' && value[length - 1] == '"') value++, length -= 2;
  lua_pushlstring(L, value, length);
  lua_setfield(L, -2, "etag");
}

/* "Sun, 22 Nov 2026 17:58:03 GMT" as "2026-11-22T17:58:03Z" */
static void set_time(lua_State *L, const char *name, const char *value) {
  time_t seconds = value == NULL ? -1 : curl_getdate(value, NULL);
  struct tm utc;
  char text[32];
  if (seconds < 0 || gmtime_r(&seconds, &utc) == NULL) return;
  strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  lua_s3_set(L, name, text);
}

/* Of the whole object, also where a range of it was asked for. */
static void set_size(lua_State *L, const http_headers *headers) {
  const char *range = http_headers_get(headers, "content-range");
  const char *size = range == NULL ? NULL : strchr(range, '/');
  size = size == NULL ? http_headers_get(headers, "content-length") : size + 1;
  if (size == NULL) return;
  lua_pushinteger(L, strtoll(size, NULL, 10));
  lua_setfield(L, -2, "size");
}

void lua_s3_push_info(lua_State *L, const http_headers *headers, const char *key, size_t length) {
  static const char *const SAME[][2] = {
      {"content-type", "content_type"},
      {"content-encoding", "content_encoding"},
      {"content-disposition", "content_disposition"},
      {"content-language", "content_language"},
      {"cache-control", "cache_control"},
      {"x-amz-version-id", "version"},
      {"x-amz-storage-class", "storage_class"},
      {"x-amz-server-side-encryption", "sse"},
  };
  static const char META[] = "x-amz-meta-";
  lua_createtable(L, 0, 8);
  lua_pushlstring(L, key, length);
  lua_setfield(L, -2, "key");
  set_size(L, headers);
  lua_s3_set_etag(L, http_headers_get(headers, "etag"));
  set_time(L, "last_modified", http_headers_get(headers, "last-modified"));
  for (size_t i = 0; i < sizeof SAME / sizeof SAME[0]; i++)
    lua_s3_set(L, SAME[i][1], http_headers_get(headers, SAME[i][0]));
  lua_newtable(L); // stack: info, metadata
  for (size_t i = 0; i < headers->count; i++) {
    const char *name = headers->items[i].name;
    if (strncmp(name, META, sizeof META - 1) == 0)
      lua_s3_set(L, name + sizeof META - 1, headers->items[i].value);
  }
  lua_setfield(L, -2, "metadata");
}
