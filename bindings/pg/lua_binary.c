/* lua_binary.c: the server's binary format, as the Lua values that its text would give. */
#include <math.h>
#include <string.h>
#include "pg/lua_pg.h"
#include "json/lua_json.h"
#include "pg/binary.h"
#include "pg/lua_values.h"
#include "pg/types.h"

static void push_double(lua_State *L, const char *data, size_t length) {
  int64_t bits = pg_binary_integer(data, length);
  double value;
  memcpy(&value, &bits, sizeof value);
  lua_pushnumber(L, isnan(value) ? (lua_Number)NAN : value); /* text knows one NaN */
}

static void push_uuid(lua_State *L, const char *data, size_t length) {
  static const char DIGITS[] = "0123456789abcdef";
  char out[36], *end = out;
  for (size_t i = 0; i < length; i++) {
    if (i == 4 || i == 6 || i == 8 || i == 10) *end++ = '-';
    *end++ = DIGITS[(unsigned char)data[i] >> 4];
    *end++ = DIGITS[(unsigned char)data[i] & 15];
  }
  lua_pushlstring(L, out, (size_t)(end - out));
}

static void push_timestamp(lua_State *L, int64_t microseconds, bool zone) {
  char out[PG_TIMESTAMP_MOST];
  lua_pushlstring(L, out, pg_binary_timestamp(microseconds, zone, out));
}

/* The length that a type's values always have; 0: any. */
static size_t width(Oid type) {
  switch (type) {
  case PG_BOOL: return 1;
  case PG_INT2: return 2;
  case PG_INT4:
  case PG_OID: return 4;
  case PG_INT8:
  case PG_FLOAT8:
  case PG_TIMESTAMP:
  case PG_TIMESTAMPTZ: return 8;
  case PG_UUID: return 16;
  default: return 0;
  }
}

void lua_pg_push_binary(lua_State *L, Oid type, const char *data, size_t length) {
  if (width(type) != 0 && length != width(type)) { /* no such server; nothing is read beyond it */
    lua_pushlstring(L, data, length);
    return;
  }
  switch (type) {
  case PG_BOOL: lua_pushboolean(L, *data != 0); return;
  case PG_INT2:
  case PG_INT4:
  case PG_INT8: lua_pushinteger(L, pg_binary_integer(data, length)); return;
  case PG_OID: lua_pushinteger(L, pg_binary_integer(data, length) & UINT32_MAX); return;
  case PG_FLOAT8: push_double(L, data, length); return;
  case PG_TIMESTAMP:
  case PG_TIMESTAMPTZ:
    push_timestamp(L, pg_binary_integer(data, length), type == PG_TIMESTAMPTZ);
    return;
  case PG_UUID: push_uuid(L, data, length); return;
  case PG_JSON: json_decode_push(L, data, length, JSON_DEPTH_MOST, "a json column"); return;
  case PG_JSONB: { /* behind the version of the format, 1 */
    size_t version = length > 0;
    json_decode_push(L, data + version, length - version, JSON_DEPTH_MOST, "a json column");
    return;
  }
  default: lua_pushlstring(L, data, length);
  }
}
