/* lua_http.c: nebula.http: one request to any URL, its answer in memory. What scripts see is in
 * meta/http.lua. */
#include <ctype.h>
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <curl/curl.h>
#include "async/task.h"
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "http/lua_client.h"
#include "http/transfer.h"
#include "http/uri.h"
#include "json/lua_json.h"
#include "log/log_redact.h"
#include "nebula.h"

#define CALL "http.request"
#define CONNECT_SECONDS 10.0
#define STALL_SECONDS 60.0
#define MAX_BYTES_DEFAULT (64 << 20)

enum { BODY_SHOWN = 200 }; /* of an unexpected answer's body, in its error */

static const char REQUEST_TYPE[] = "nebula.http.request";

/* What one call holds while it waits; anchored on its stack. */
typedef struct exchange {
  http_transfer *transfer;
  json_buffer json;
  task_ticket ticket;
} exchange;

enum { OPTIONS = 1, EXCHANGE, HEADERS }; /* places on the call's stack */

static int exchange_gc(lua_State *L) {
  exchange *self = lua_touserdata(L, 1);
  http_transfer_free(self->transfer);
  self->transfer = NULL;
  json_buffer_free(&self->json);
  return 0;
}

static exchange *exchange_new(lua_State *L) {
  exchange *self = lua_newuserdatauv(L, sizeof *self, 0);
  memset(self, 0, sizeof *self);
  if (luaL_newmetatable(L, REQUEST_TYPE)) {
    lua_pushcfunction(L, exchange_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  return self;
}

static void on_done(http_transfer *transfer, void *data) {
  (void)transfer;
  exchange *self = data;
  task_wake(self->ticket);
}

static void abandon(void *data) {
  exchange *self = data;
  http_transfer_free(self->transfer);
  self->transfer = NULL;
}

static const char *kind_of(http_outcome outcome) {
  switch (outcome) {
  case HTTP_TIMED_OUT: return ERR_TIMEOUT;
  case HTTP_TOO_LARGE: return ERR_LIMIT;
  case HTTP_REFUSED: return ERR_VALIDATION;
  default: return ERR_IO;
  }
}

static _Noreturn void raise_outcome(lua_State *L, const http_response *response) {
  http_outcome outcome = response->outcome;
  err_info info = {.kind = kind_of(outcome), .message = response->message};
  info.retryable =
      outcome == HTTP_FAILED || outcome == HTTP_NOT_CONNECTED || outcome == HTTP_TIMED_OUT;
  if (outcome == HTTP_NO_MEMORY) luaL_error(L, "not enough memory");
  err_raise(L, &info);
}

static bool is_expected(lua_State *L, int status) {
  int type = lua_getfield(L, OPTIONS, "expect");
  bool expected = type == LUA_TNIL || lua_tointeger(L, -1) == status;
  for (lua_Integer i = 1; type == LUA_TTABLE && !expected; i++) {
    if (lua_rawgeti(L, -1, i) == LUA_TNIL) {
      lua_pop(L, 1);
      break;
    }
    expected = lua_tointeger(L, -1) == status;
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  return expected;
}

/* Seconds from now, by either form of Retry-After (RFC 9110, section 10.2.3); 0 where it is
 * neither. */
static double retry_after(const char *text) {
  if (*text >= '0' && *text <= '9') return strtod(text, NULL);
  time_t at = curl_getdate(text, NULL);
  return at < 0 ? 0 : difftime(at, time(NULL));
}

/* How the body begins: servers tell in it what is wrong, some by what they were sent. */
static const char *body_start(exchange *self, const http_response *response) {
  size_t shown = response->body.length < BODY_SHOWN ? response->body.length : BODY_SHOWN;
  json_buffer *text = &self->json; /* its own content has been sent */
  json_buffer_reset(text, 0);
  if (!log_append_redacted(text, bytes_text(&response->body), shown) || !json_buffer_byte(text, 0))
    return "";
  for (char *c = text->data; *c != '\0'; c++) {
    if (iscntrl((unsigned char)*c)) *c = ' ';
  }
  return text->data;
}

static _Noreturn void raise_unexpected(lua_State *L, exchange *self) {
  const http_response *response = http_transfer_response(self->transfer);
  const char *start = body_start(self, response);
  char code[16];
  const char *after = http_headers_get(&response->headers, "retry-after");
  lua_pushfstring(L, "%s answered %d%s%s", http_transfer_where(self->transfer), response->status,
                  *start != '\0' ? ": " : "", start);
  lua_pushfstring(L, "%d", response->status);
  strncpy(code, lua_tostring(L, -1), sizeof code - 1);
  code[sizeof code - 1] = '\0';
  err_info info = {.kind = ERR_IO, .code = code, .message = lua_tostring(L, -2)};
  info.retryable = response->status >= 500 || response->status == 429 || response->status == 408 ||
                   response->status == 425;
  info.retry_after = after == NULL ? 0 : retry_after(after);
  err_raise(L, &info);
}

static int request_done(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  exchange *self = lua_touserdata(L, EXCHANGE);
  const http_response *response = http_transfer_response(self->transfer);
  if (response->outcome != HTTP_DONE) raise_outcome(L, response);
  if (!is_expected(L, response->status)) raise_unexpected(L, self);
  lua_createtable(L, 0, 3);
  lua_pushinteger(L, response->status);
  lua_setfield(L, -2, "status");
  lua_http_headers_push(L, &response->headers);
  lua_setfield(L, -2, "headers");
  lua_pushlstring(L, bytes_text(&response->body), response->body.length);
  lua_setfield(L, -2, "body");
  abandon(self);
  return 1;
}

static void check_url(lua_State *L, const char *url, size_t length) {
  uri_parts parts;
  bool well = strlen(url) == length && uri_split(url, &parts);
  for (const char *c = url; well && *c != '\0'; c++)
    well = (unsigned char)*c > ' ' && *c != 0x7f;
  if (!well) {
    err_raisef(L, ERR_VALIDATION, NULL,
               CALL ": url must be http://... or https://..., with blanks and controls as %%XX");
  }
}

static void read_body(lua_State *L, exchange *self, const http_headers *headers,
                      http_request *request) {
  opt_string(L, OPTIONS, CALL, "body", &request->body, &request->body_length);
  if (lua_getfield(L, OPTIONS, "json") != LUA_TNIL) {
    if (request->body != NULL)
      err_raisef(L, ERR_VALIDATION, NULL, CALL ": give body or json, not both");
    json_encode_value(L, -1, &self->json, NULL, CALL);
    request->body = self->json.data;
    request->body_length = self->json.length;
    if (http_headers_get(headers, "content-type") == NULL)
      lua_http_headers_add(L, CALL, (http_headers *)headers, "Content-Type", "application/json",
                           16);
  }
  lua_pop(L, 1);
  bool empty = strcmp(request->method, "GET") == 0 || strcmp(request->method, "HEAD") == 0 ||
               strcmp(request->method, "DELETE") == 0 || strcmp(request->method, "OPTIONS") == 0;
  if (request->body == NULL && !empty) request->body = ""; /* "Content-Length: 0" */
}

static void read_limits(lua_State *L, http_request *request) {
  lua_Integer most = MAX_BYTES_DEFAULT;
  opt_integer(L, OPTIONS, CALL, "max_bytes", 1, LUA_MAXINTEGER, &most);
  request->max_bytes = (size_t)most;
  request->connect_timeout = CONNECT_SECONDS;
  request->stall_timeout = STALL_SECONDS;
  opt_duration(L, OPTIONS, CALL, "connect_timeout", &request->connect_timeout);
  opt_duration(L, OPTIONS, CALL, "stall_timeout", &request->stall_timeout);
  opt_duration(L, OPTIONS, CALL, "deadline", &request->total_timeout);
  opt_string(L, OPTIONS, CALL, "proxy", &request->proxy, NULL);
  opt_string(L, OPTIONS, CALL, "ca_file", &request->ca_file, NULL);
  opt_boolean(L, OPTIONS, CALL, "follow_redirects", &request->follow_redirects);
}

static void check_expect(lua_State *L) {
  int type = lua_getfield(L, OPTIONS, "expect");
  if (type != LUA_TNIL && type != LUA_TTABLE && !lua_isinteger(L, -1))
    err_raisef(L, ERR_VALIDATION, NULL, CALL ": expect must be a status or a list of them");
  lua_pop(L, 1);
}

static int lua_http_request(lua_State *L) {
  static const char *const NAMES[] = {
      "method",           "url",    "headers",         "body",          "json",  "deadline",
      "max_bytes",        "expect", "connect_timeout", "stall_timeout", "proxy", "ca_file",
      "follow_redirects", NULL};
  lua_settop(L, 1);
  luaL_checktype(L, OPTIONS, LUA_TTABLE);
  opt_check(L, OPTIONS, CALL, NAMES);
  exchange *self = exchange_new(L);
  http_headers *headers = lua_http_headers_new(L); // stack: options, exchange, headers
  http_request request = {.headers = headers, .on_done = on_done, .data = self};
  size_t length = 0;
  if (!opt_string(L, OPTIONS, CALL, "url", &request.url, &length))
    err_raisef(L, ERR_VALIDATION, NULL, CALL ": url is missing");
  check_url(L, request.url, length);
  bool has_method = opt_string(L, OPTIONS, CALL, "method", &request.method, &length);
  if (has_method && !http_header_is_valid(request.method, length, "", 0))
    err_raisef(L, ERR_VALIDATION, NULL, CALL ": method must be one word such as POST");
  if (lua_getfield(L, OPTIONS, "headers") != LUA_TNIL)
    lua_http_headers_read(L, -1, CALL, "headers", headers);
  lua_pop(L, 1);
  bool sends =
      lua_getfield(L, OPTIONS, "body") != LUA_TNIL || lua_getfield(L, OPTIONS, "json") != LUA_TNIL;
  lua_settop(L, HEADERS);
  if (!has_method) request.method = sends ? "POST" : "GET";
  read_body(L, self, headers, &request);
  read_limits(L, &request);
  check_expect(L);
  http_client *client = lua_http_client(L);
  self->ticket = task_wait_begin(L, CALL);
  self->transfer = http_transfer_start(client, &request);
  if (self->transfer == NULL) return luaL_error(L, "not enough memory");
  return task_wait(L, self->ticket, abandon, self, 0, request_done);
}

int lua_open_http(lua_State *L) {
  static const luaL_Reg FUNCTIONS[] = {{"request", lua_http_request}, {NULL, NULL}};
  luaL_newlib(L, FUNCTIONS);
  return 1;
}
