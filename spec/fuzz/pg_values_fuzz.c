/* pg_values_fuzz.c: bytes as what a server sends of a value: any type, as text and in binary. The
 * first byte chooses the type. Whatever it is, there is one value or one error. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <lauxlib.h>
#include <lualib.h>
#include "pg/binary.h"
#include "pg/lua_values.h"
#include "pg/types.h"

int luaopen_nebula(lua_State *L);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INT4_ARRAY = 1007, TEXT_ARRAY = 1009, BYTEA_ARRAY = 1001, JSONB_ARRAY = 3807 };

static const Oid TYPES[] = {
    PG_BOOL,      PG_BYTEA,       PG_INT8,    PG_INT2, PG_INT4,    PG_TEXT,     PG_OID,
    PG_JSON,      PG_FLOAT4,      PG_FLOAT8,  PG_DATE, PG_NUMERIC, PG_UUID,     PG_JSONB,
    PG_TIMESTAMP, PG_TIMESTAMPTZ, INT4_ARRAY, PG_NAME, TEXT_ARRAY, BYTEA_ARRAY, JSONB_ARRAY,
};

typedef struct value {
  Oid type;
  const char *data;
  size_t length;
  void (*push)(lua_State *L, Oid type, const char *data, size_t length);
} value;

static int push(lua_State *L) {
  const value *v = lua_touserdata(L, 1);
  v->push(L, v->type, v->data, v->length);
  if (lua_gettop(L) != 2) abort();
  return 1;
}

static void try(lua_State *L, value v) {
  lua_pushcfunction(L, push);
  lua_pushlightuserdata(L, &v);
  (void)lua_pcall(L, 1, 1, 0);
  lua_settop(L, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static lua_State *L;
  if (L == NULL) {
    L = luaL_newstate();
    luaL_requiref(L, "nebula", luaopen_nebula, 0);
    lua_settop(L, 0);
  }
  if (size == 0) return 0;
  Oid type = TYPES[data[0] % (sizeof TYPES / sizeof *TYPES)];
  char *copy = malloc(size); /* exactly as long, with libpq's NUL byte behind it */
  memcpy(copy, data + 1, size - 1);
  copy[size - 1] = '\0';
  try(L, (value){type, copy, size - 1, lua_pg_push_text});
  try(L, (value){type, copy, size - 1, lua_pg_push_binary});
  free(copy);
  return 0;
}
