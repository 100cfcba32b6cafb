/* lua_pool.c: nebula.pg: opening a pool, and what a script asks of it as a whole. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "nebula.h"
#include "pg/lua_pg.h"

lua_pg_pool *lua_pg_check_pool(lua_State *L, int index, const char *call) {
  lua_pg_pool *self = luaL_checkudata(L, index, LUA_PG_POOL);
  if (self->pool == NULL || pg_pool_is_closed(self->pool))
    err_raisef(L, ERR_POOL, "database", "%s: the pool is closed", call);
  return self;
}

#define CALL "pg.connect"

static bool read_count(lua_State *L, const char *name, const char *synonym, lua_Integer least,
                       size_t *out) {
  lua_Integer value;
  if (!opt_integer(L, 1, CALL, name, least, 10000, &value) &&
      !opt_integer(L, 1, CALL, synonym, least, 10000, &value))
    return false;
  *out = (size_t)value;
  return true;
}

/* statement_cache is a number of statements, or false. */
static void read_cache(lua_State *L, pg_pool_options *options) {
  int type = lua_getfield(L, 1, "statement_cache");
  lua_pop(L, 1);
  lua_Integer count;
  if (type == LUA_TBOOLEAN) {
    bool wanted = true;
    opt_boolean(L, 1, CALL, "statement_cache", &wanted);
    if (!wanted) options->statement_cache = 0;
  } else if (opt_integer(L, 1, CALL, "statement_cache", 0, 100000, &count)) {
    options->statement_cache = (size_t)count;
  }
}

static void read_options(lua_State *L, lua_pg_pool *self, pg_pool_options *options) {
  read_count(L, "max_connections", "max_size", 1, &options->max_connections);
  read_count(L, "min_connections", "min_idle", 0, &options->min_connections);
  if (options->min_connections > options->max_connections)
    options->min_connections = options->max_connections;
  opt_duration(L, 1, CALL, "max_lifetime", &options->max_lifetime);
  opt_duration(L, 1, CALL, "idle_timeout", &options->idle_timeout);
  opt_duration(L, 1, CALL, "connection_timeout", &options->connection_timeout);
  opt_boolean(L, 1, CALL, "read_only", &options->read_only);
  opt_duration(L, 1, CALL, "statement_timeout", &self->timeout);
  opt_duration(L, 1, CALL, "ping_after", &options->ping_after);
  lua_Integer bytes, waiting;
  if (opt_integer(L, 1, CALL, "max_waiting", 1, 1000000, &waiting))
    options->max_waiting = (size_t)waiting;
  if (opt_integer(L, 1, CALL, "max_bytes", 1, LUA_MAXINTEGER, &bytes))
    self->max_bytes = (size_t)bytes;
  options->max_bytes = self->max_bytes;
  read_cache(L, options);
  lua_pg_read_logging(L, self, CALL);
}

static pg_config *make_config(lua_State *L, const pg_pool_options *options) {
  const char *url = NULL, *name = NULL;
  char message[PG_CONFIG_MESSAGE];
  opt_string(L, 1, CALL, "url", &url, NULL);
  opt_string(L, 1, CALL, "application_name", &name, NULL);
  pg_config *config =
      pg_config_parse(url, options->statement_cache > 0, options->read_only, message);
  if (config == NULL) err_raisef(L, ERR_CONFIG, "database", CALL ": %s", message);
  if (name != NULL && !pg_config_set(config, "application_name", name)) {
    pg_config_free(config);
    lua_pg_no_memory(L);
  }
  return config;
}

static int pg_connect(lua_State *L) {
  static const char *const NAMES[] = {"url",
                                      "max_connections",
                                      "min_connections",
                                      "max_size",
                                      "min_idle",
                                      "max_lifetime",
                                      "idle_timeout",
                                      "connection_timeout",
                                      "read_only",
                                      "statement_cache",
                                      "max_bytes",
                                      "statement_timeout",
                                      "application_name",
                                      "statement_logging",
                                      "slow_query",
                                      "leak_after",
                                      "ping_after",
                                      "max_waiting",
                                      NULL};
  if (lua_type(L, 1) == LUA_TSTRING) { /* pg.connect(url) */
    lua_settop(L, 1);
    lua_createtable(L, 0, 1);
    lua_insert(L, 1);
    lua_setfield(L, 1, "url");
  }
  lua_settop(L, 1);
  if (lua_isnil(L, 1)) {
    lua_newtable(L);
    lua_replace(L, 1);
  }
  opt_check(L, 1, CALL, NAMES);
  lua_pg_pool *self = lua_newuserdatauv(L, sizeof *self, 1);
  memset(self, 0, sizeof *self);
  self->max_bytes = (size_t)64 << 20;
  luaL_setmetatable(L, LUA_PG_POOL);
  self->aside = lua_newthread(L);
  lua_sethook(self->aside, NULL, 0, 0); /* a thread inherits its maker's */
  lua_newtable(L);
  lua_xmove(L, self->aside, 1);
  lua_setiuservalue(L, -2, 1);
  pg_pool_options options = {.max_connections = 100,
                             .statement_cache = 256,
                             .max_lifetime = 1800,
                             .idle_timeout = 600,
                             .connection_timeout = 30,
                             .ping_after = 30};
  read_options(L, self, &options);
  loop *on = task_loop(L);
  pg_config *config = make_config(L, &options);
  self->pool = pg_pool_new(on, config, &options);
  if (self->pool == NULL) lua_pg_no_memory(L);
  lua_pg_start_logging(self);
  return 1;
}

static void release(pg_request **slot) {
  if (*slot != NULL) pg_request_release(*slot);
  *slot = NULL;
}

static int pool_gc(lua_State *L) {
  lua_pg_pool *self = luaL_checkudata(L, 1, LUA_PG_POOL);
  if (self->pool == NULL) return 0;
  release(&self->building);
  release(&self->decoding);
  json_buffer_free(&self->buffer);
  pg_pool *pool = self->pool;
  self->pool = NULL;
  pg_pool_observe(pool, NULL, NULL);
  pg_pool_warn(pool, NULL, NULL);
  pg_pool_report_leaks(pool, 0, NULL, NULL);
  pg_pool_close(pool, true);
  pg_pool_release(pool);
  return 0;
}

static int pool_close(lua_State *L) {
  lua_pg_pool *self = luaL_checkudata(L, 1, LUA_PG_POOL);
  if (self->pool != NULL) pg_pool_close(self->pool, false);
  return 0;
}

static int pool_resize(lua_State *L) {
  lua_pg_pool *self = lua_pg_check_pool(L, 1, "pool:resize");
  lua_Integer count = luaL_checkinteger(L, 2);
  luaL_argcheck(L, count >= 1 && count <= 10000, 2, "a pool has 1 to 10000 connections");
  if (!pg_pool_resize(self->pool, (size_t)count)) lua_pg_no_memory(L);
  return 0;
}

static int pool_tostring(lua_State *L) {
  const lua_pg_pool *self = luaL_checkudata(L, 1, LUA_PG_POOL);
  lua_pushfstring(L, "pool of %s", self->pool != NULL ? pg_pool_place(self->pool) : "nothing");
  return 1;
}

static void set_count(lua_State *L, const char *name, uint64_t count) {
  lua_pushinteger(L, (lua_Integer)count);
  lua_setfield(L, -2, name);
}

static int pool_stats(lua_State *L) {
  lua_pg_pool *self = lua_pg_check_pool(L, 1, "pool:stats");
  pg_pool_stats stats;
  pg_pool_stats_get(self->pool, &stats);
  lua_createtable(L, 0, 14);
  set_count(L, "max_connections", pg_pool_options_get(self->pool)->max_connections);
  set_count(L, "connections", stats.connections);
  set_count(L, "idle", stats.idle);
  set_count(L, "busy", stats.busy);
  set_count(L, "held", stats.held);
  set_count(L, "connecting", stats.connecting);
  set_count(L, "waiting", stats.waiting);
  set_count(L, "opened", stats.opened);
  set_count(L, "closed", stats.closed);
  set_count(L, "failed", stats.failed);
  set_count(L, "requests", stats.requests);
  set_count(L, "waited", stats.waited);
  set_count(L, "timeouts", stats.timeouts);
  set_count(L, "pipelined", stats.pipelined);
  return 1;
}

int lua_open_pg(lua_State *L) {
  luaL_newmetatable(L, LUA_PG_POOL);
  static const luaL_Reg META[] = {
      {"__gc", pool_gc}, {"__close", pool_close}, {"__tostring", pool_tostring}, {NULL, NULL}};
  luaL_setfuncs(L, META, 0);
  lua_createtable(L, 0, 16);
  lua_pg_add_queries(L, false);
  static const luaL_Reg METHODS[] = {{"transaction", lua_pg_pool_transaction},
                                     {"copy_in", lua_pg_pool_copy_in},
                                     {"copy_out", lua_pg_pool_copy_out},
                                     {"listen", lua_pg_pool_listen},
                                     {"batch", lua_pg_pool_batch},
                                     {"decoder", lua_pg_pool_decoder},
                                     {"stats", pool_stats},
                                     {"statements", lua_pg_pool_statements},
                                     {"resize", pool_resize},
                                     {"close", pool_close},
                                     {NULL, NULL}};
  luaL_setfuncs(L, METHODS, 0);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  lua_pg_open_session(L);
  lua_pg_open_copy(L);
  lua_pg_open_rows(L);
  lua_pg_open_listen(L);
  lua_pg_open_batch(L);
  lua_createtable(L, 0, 8);
  lua_pushcfunction(L, pg_connect);
  lua_setfield(L, -2, "connect");
  lua_pg_open_wrappers(L);
  lua_pg_open_heartbeat(L);
  return 1;
}
