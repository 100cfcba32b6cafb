/* lua_heartbeat.c: nebula.pg.heartbeat: keeps leases alive while a script computes. */
#include "pg/lua_pg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "pg/heartbeat.h"

#define METATABLE "nebula.pg.Heartbeat"

typedef struct lua_heartbeat {
  pg_heartbeat *heartbeat; /* NULL once closed */
  int columns;
} lua_heartbeat;

static lua_heartbeat *check(lua_State *L) {
  lua_heartbeat *self = luaL_checkudata(L, 1, METATABLE);
  if (self->heartbeat == NULL) {
    err_raisef(L, ERR_SCRIPT, NULL, "the heartbeat is closed");
  }
  return self;
}

/* heartbeat:set(values, seconds): values[1] is the key */
static int heartbeat_set(lua_State *L) {
  lua_heartbeat *self = check(L);
  luaL_checktype(L, 2, LUA_TTABLE);
  uint64_t until = 0;
  if (!lua_isnoneornil(L, 3)) {
    double seconds = opt_to_duration(L, 3, "heartbeat:set", "how long it is kept");
    until = uv_hrtime() + (uint64_t)fmin(seconds * 1e9, 9e18);
  }
  const char *values[PG_HEARTBEAT_COLUMNS] = {NULL};
  luaL_checkstack(L, self->columns + 2, "heartbeat:set");
  for (int i = 0; i < self->columns; i++) {
    int type = lua_geti(L, 2, i + 1); /* stays on the stack: anchors the text */
    size_t length = 0;
    if (type == LUA_TSTRING || type == LUA_TNUMBER) values[i] = lua_tolstring(L, -1, &length);
    if ((values[i] == NULL && (i == 0 || type != LUA_TNIL)) ||
        (values[i] != NULL && strlen(values[i]) != length)) {
      err_raisef(L, ERR_VALIDATION, NULL, "heartbeat:set: value %d must be text without NUL%s",
                 i + 1, i == 0 ? "" : ", a number or nil");
    }
  }
  if (!pg_heartbeat_set(self->heartbeat, values, until)) lua_pg_no_memory(L);
  return 0;
}

static int heartbeat_remove(lua_State *L) {
  pg_heartbeat_remove(check(L)->heartbeat, luaL_checkstring(L, 2));
  return 0;
}

static int heartbeat_lost(lua_State *L) {
  lua_heartbeat *self = check(L);
  lua_newtable(L);
  char *key;
  for (lua_Integer i = 1; (key = pg_heartbeat_next_lost(self->heartbeat)) != NULL; i++) {
    lua_pushstring(L, key);
    free(key);
    lua_rawseti(L, -2, i);
  }
  return 1;
}

static int heartbeat_stats(lua_State *L) {
  pg_heartbeat_stats stats;
  pg_heartbeat_stats_get(check(L)->heartbeat, &stats);
  lua_createtable(L, 0, 4);
  lua_pushinteger(L, (lua_Integer)stats.entries);
  lua_setfield(L, -2, "entries");
  lua_pushinteger(L, (lua_Integer)stats.rounds);
  lua_setfield(L, -2, "rounds");
  lua_pushinteger(L, (lua_Integer)stats.failures);
  lua_setfield(L, -2, "failures");
  if (stats.error[0] != '\0') {
    lua_pushstring(L, stats.error);
    lua_setfield(L, -2, "error");
  }
  return 1;
}

static int heartbeat_close(lua_State *L) {
  lua_heartbeat *self = luaL_checkudata(L, 1, METATABLE);
  pg_heartbeat *old = self->heartbeat;
  self->heartbeat = NULL;
  pg_heartbeat_stop(old);
  return 0;
}

/* pg.heartbeat{url=, sql=, columns=, interval=} */
static int heartbeat_new(lua_State *L) {
  static const char *const NAMES[] = {"url", "sql", "columns", "interval", NULL};
  const char *call = "pg.heartbeat";
  const char *url = NULL, *sql = NULL;
  lua_Integer columns = 1;
  double interval = 10;
  opt_check(L, 1, call, NAMES);
  opt_string(L, 1, call, "url", &url, NULL);
  opt_integer(L, 1, call, "columns", 1, PG_HEARTBEAT_COLUMNS, &columns);
  opt_duration(L, 1, call, "interval", &interval);
  if (!opt_string(L, 1, call, "sql", &sql, NULL)) {
    err_raisef(L, ERR_VALIDATION, NULL, "pg.heartbeat: sql is missing: the statement to repeat");
  }
  lua_heartbeat *self = lua_newuserdatauv(L, sizeof *self, 0);
  *self = (lua_heartbeat){.columns = (int)columns};
  luaL_setmetatable(L, METATABLE);
  char message[PG_CONFIG_MESSAGE];
  pg_config *config = pg_config_parse(url, true, false, message);
  if (config == NULL) err_raisef(L, ERR_CONFIG, NULL, "pg.heartbeat: %s", message);
  self->heartbeat = pg_heartbeat_start(config, sql, (int)columns, fmax(interval, 0.001));
  if (self->heartbeat == NULL) lua_pg_no_memory(L);
  return 1;
}

void lua_pg_open_heartbeat(lua_State *L) {
  static const luaL_Reg METHODS[] = {{"set", heartbeat_set},     {"remove", heartbeat_remove},
                                     {"lost", heartbeat_lost},   {"stats", heartbeat_stats},
                                     {"close", heartbeat_close}, {NULL, NULL}};
  luaL_newmetatable(L, METATABLE);
  lua_pushcfunction(L, heartbeat_close);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, heartbeat_close);
  lua_setfield(L, -2, "__close");
  luaL_newlib(L, METHODS);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  lua_pushcfunction(L, heartbeat_new);
  lua_setfield(L, -2, "heartbeat");
}
