/* lua_sign.c: nebula.s3.sign: SigV4 for any request. What scripts see is in meta/s3.lua. */
#include <lauxlib.h>
#include <math.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "http/lua_client.h"
#include "s3/lua_call.h"
#include "s3/sign.h"
#include "time/time_calendar.h"

#define CALL "s3.sign"

static const char RESULT_TYPE[] = "nebula.s3.signature";
static const char HEADERS_TYPE[] = "nebula.s3.signed_headers";

enum { OPTIONS = 1, HEADERS, RESULT };

static int result_gc(lua_State *L) {
  sign_result_free(lua_touserdata(L, 1));
  return 0;
}

/* The list answers to names as well, whatever their case: headers["authorization"]. */
static int headers_index(lua_State *L) {
  const char *wanted = lua_tostring(L, 2);
  if (lua_type(L, 2) != LUA_TSTRING) return 0;
  for (lua_Integer i = 1; lua_rawgeti(L, 1, i) == LUA_TTABLE; i++) {
    lua_rawgeti(L, -1, 1);
    if (strcasecmp(lua_tostring(L, -1), wanted) == 0) return lua_rawgeti(L, -2, 2), 1;
    lua_pop(L, 2);
  }
  return 0;
}

static void push_headers(lua_State *L, const http_headers *own, const http_headers *added) {
  lua_newtable(L);
  lua_Integer n = 0;
  const http_headers *lists[] = {own, added};
  for (int list = 0; list < 2; list++) {
    for (size_t i = 0; i < lists[list]->count; i++) {
      lua_createtable(L, 2, 0);
      lua_pushstring(L, lists[list]->items[i].name);
      lua_rawseti(L, -2, 1);
      lua_pushstring(L, lists[list]->items[i].value);
      lua_rawseti(L, -2, 2);
      lua_rawseti(L, -2, ++n);
    }
  }
  if (luaL_newmetatable(L, HEADERS_TYPE)) {
    lua_pushcfunction(L, headers_index);
    lua_setfield(L, -2, "__index");
  }
  lua_setmetatable(L, -2);
}

/* A value of several lines, each but the first beginning with a blank, becomes one that can be
 * sent: each line is one more value of a list, as in AWS's vector get-header-value-multiline.
 * Stack: ..., value; the joined one replaces it. */
static void unfold(lua_State *L) {
  size_t length;
  const char *value = lua_tolstring(L, -1, &length), *end = value + length;
  if (memchr(value, '\n', length) == NULL) return;
  luaL_Buffer out;
  luaL_buffinit(L, &out);
  while (value < end) {
    const char *stop = memchr(value, '\n', (size_t)(end - value));
    const char *next = stop == NULL ? end : stop + 1;
    bool folds = stop != NULL && next < end && (*next == ' ' || *next == '\t');
    if (folds && stop > value && stop[-1] == '\r') stop--;
    luaL_addlstring(&out, value, (size_t)((folds ? stop : next) - value));
    if (folds) luaL_addchar(&out, ',');
    value = next + (folds ? strspn(next, " \t") : 0);
  }
  luaL_pushresult(&out);
  lua_remove(L, -2);
}

/* The same list with each value in one line, so that what http reads is what can be sent. Stack:
 * ..., headers; a copy replaces them. */
static void unfold_headers(lua_State *L) {
  int list = lua_gettop(L);
  if (!lua_istable(L, list)) return;
  lua_newtable(L); // stack: ..., list, copy
  for (lua_pushnil(L); lua_next(L, list) != 0;) {
    if (lua_type(L, -1) == LUA_TSTRING) {
      unfold(L);
    } else if (lua_istable(L, -1)) {
      lua_Integer count = luaL_len(L, -1);
      lua_createtable(L, (int)count, 0); // stack: ..., list, copy, name, pair, new
      for (lua_Integer i = 1; i <= count; i++) {
        if (lua_rawgeti(L, -2, i) == LUA_TSTRING) unfold(L);
        lua_rawseti(L, -2, i);
      }
      lua_remove(L, -2);
    }
    lua_pushvalue(L, -2);
    lua_insert(L, -2); // stack: ..., list, copy, name, name, value
    lua_rawset(L, list + 1);
  }
  lua_replace(L, list);
}

/* "2015-08-30T12:36:00Z", or "20150830T123600Z", or seconds since 1970. */
static int64_t read_time(lua_State *L) {
  int64_t seconds = (int64_t)time(NULL);
  int type = lua_getfield(L, OPTIONS, "time");
  struct tm utc = {0};
  if (type == LUA_TNUMBER) {
    lua_Number number = floor(lua_tonumber(L, -1));
    if (!(number >= 0 && number < 253402300800.0)) type = LUA_TNONE;
    seconds = type == LUA_TNUMBER ? (int64_t)number : 0;
  } else if (type == LUA_TSTRING) {
    size_t length, bad;
    const char *text = lua_tolstring(L, -1, &length), *expected;
    const char *end = strptime(text, "%Y%m%dT%H%M%SZ", &utc);
    int64_t microseconds = 0;
    if (end != NULL && *end == '\0') {
      seconds = (int64_t)timegm(&utc);
    } else if (time_parse(text, length, &microseconds, &bad, &expected) && microseconds >= 0) {
      seconds = microseconds / 1000000;
    } else {
      type = LUA_TNONE;
    }
  }
  if (type != LUA_TNIL && type != LUA_TNUMBER && type != LUA_TSTRING)
    err_raisef(L, ERR_VALIDATION, "s3",
               CALL ": time must be seconds since 1970, or text such as 2015-08-30T12:36:00Z");
  lua_pop(L, 1);
  return seconds;
}

static void require_text(lua_State *L, const char *name, const char **out) {
  size_t length = 0;
  if (!opt_string(L, OPTIONS, CALL, name, out, &length))
    err_raisef(L, ERR_VALIDATION, "s3", CALL ": %s is missing", name);
  if (strlen(*out) != length) err_raisef(L, ERR_VALIDATION, "s3", CALL ": %s holds a NUL", name);
}

static void read_request(lua_State *L, sign_request *request) {
  require_text(L, "url", &request->url);
  require_text(L, "access_key_id", &request->access_key_id);
  require_text(L, "secret_access_key", &request->secret_access_key);
  request->method = "GET";
  request->region = "us-east-1";
  request->service = "s3";
  opt_string(L, OPTIONS, CALL, "method", &request->method, NULL);
  opt_string(L, OPTIONS, CALL, "region", &request->region, NULL);
  opt_string(L, OPTIONS, CALL, "service", &request->service, NULL);
  opt_string(L, OPTIONS, CALL, "session_token", &request->session_token, NULL);
  opt_string(L, OPTIONS, CALL, "body", &request->body, &request->body_length);
  opt_boolean(L, OPTIONS, CALL, "query", &request->in_query);
  opt_boolean(L, OPTIONS, CALL, "omit_session_token", &request->omit_session_token);
  bool for_s3 = strcmp(request->service, "s3") == 0, unsigned_payload = false;
  request->encode_once = for_s3;
  request->normalize_path = !for_s3;
  request->sign_body = for_s3 && !request->in_query;
  unsigned_payload = for_s3 && request->in_query;
  opt_boolean(L, OPTIONS, CALL, "normalize_path", &request->normalize_path);
  opt_boolean(L, OPTIONS, CALL, "sign_body", &request->sign_body);
  opt_boolean(L, OPTIONS, CALL, "unsigned_payload", &unsigned_payload);
  if (unsigned_payload) request->payload_hash = SIGN_UNSIGNED_PAYLOAD;
  double expires = for_s3 && request->in_query ? 3600 : 0;
  opt_duration(L, OPTIONS, CALL, "expires", &expires);
  if (for_s3 && expires > 604800)
    err_raisef(L, ERR_VALIDATION, "s3", CALL ": expires is at most 7 days");
  request->expires = (int64_t)expires;
  request->time = read_time(L);
}

static void set_bytes(lua_State *L, const char *name, const bytes *value) {
  lua_pushlstring(L, bytes_text(value), value->length);
  lua_setfield(L, -2, name);
}

int lua_s3_sign(lua_State *L) {
  static const char *const NAMES[] = {"method",
                                      "url",
                                      "headers",
                                      "body",
                                      "region",
                                      "service",
                                      "time",
                                      "access_key_id",
                                      "secret_access_key",
                                      "session_token",
                                      "query",
                                      "expires",
                                      "normalize_path",
                                      "sign_body",
                                      "unsigned_payload",
                                      "omit_session_token",
                                      NULL};
  lua_settop(L, OPTIONS);
  luaL_checktype(L, OPTIONS, LUA_TTABLE);
  opt_check(L, OPTIONS, CALL, NAMES);
  http_headers *headers = lua_http_headers_new(L);
  sign_result *result = lua_newuserdatauv(L, sizeof *result, 0);
  *result = (sign_result){0};
  if (luaL_newmetatable(L, RESULT_TYPE)) {
    lua_pushcfunction(L, result_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2); // stack: options, headers, result
  sign_request request = {.headers = headers};
  read_request(L, &request);
  if (lua_getfield(L, OPTIONS, "headers") != LUA_TNIL) {
    unfold_headers(L);
    lua_http_headers_read(L, -1, CALL, "headers", headers);
  }
  lua_pop(L, 1);
  switch (sign_make(&request, result)) {
  case SIGN_OK: break;
  case SIGN_BAD_URL:
    err_raisef(L, ERR_VALIDATION, "s3", CALL ": url must be http://host/... or https://host/...");
  case SIGN_BAD_TIME: err_raisef(L, ERR_VALIDATION, "s3", CALL ": time is out of range");
  case SIGN_NO_MEMORY: return luaL_error(L, "not enough memory");
  }
  lua_createtable(L, 0, 5);
  set_bytes(L, "canonical_request", &result->canonical_request);
  set_bytes(L, "string_to_sign", &result->string_to_sign);
  lua_pushstring(L, result->signature);
  lua_setfield(L, -2, "signature");
  push_headers(L, headers, &result->added);
  lua_setfield(L, -2, "headers");
  set_bytes(L, "url", &result->url);
  return 1;
}
