/* lua_statement_log.c: the statement log and the slow-query log of a pool.
 *
 * Every statement of a script is told to on_statement when it has ended, in a callback of the loop
 * or inside a call, so the record is written on a Lua thread of the pool's own, under a protected
 * call; nothing in it can run a script's code. Values of parameters are shown only where the pool
 * was told to; then strings in the SQL are too. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "log/lua_log.h"
#include "pg/lua_pg.h"
#include "pg/types.h"

enum { TEXT_MOST = 2000, VALUE_MOST = 100, SHOWN_MOST = 16 };

typedef struct record {
  const lua_pg_pool *pool;
  const pg_request *request;
  double seconds;
  bool slow;
} record;

void lua_pg_read_logging(lua_State *L, lua_pg_pool *self, const char *call) {
  if (lua_getfield(L, 1, "statement_logging") == LUA_TSTRING) {
    if (strcmp(lua_tostring(L, -1), "parameters") != 0)
      err_raisef(L, ERR_VALIDATION, NULL,
                 "%s: statement_logging is true, false, or \"parameters\" to log their values too",
                 call);
    self->log_statements = self->log_values = true;
  } else {
    opt_boolean(L, 1, call, "statement_logging", &self->log_statements);
  }
  lua_pop(L, 1);
  opt_duration(L, 1, call, "slow_query", &self->slow_query);
  opt_duration(L, 1, call, "leak_after", &self->leak_after);
}

static void set_text(lua_State *L, const char *name, const char *text) {
  lua_pushstring(L, text);
  lua_setfield(L, -2, name);
}

static void set_statement(lua_State *L, const record *self) {
  const pg_statement *s = self->request->statement;
  char text[TEXT_MOST];
  if (self->pool->log_values)
    snprintf(text, sizeof text, "%.*s", TEXT_MOST - 1, s->text);
  else
    pg_scan_redact(s->text, s->length, text, sizeof text);
  set_text(L, "statement", text);
}

/* The bytes of a caller that has turned away may be gone. */
static void add_value(luaL_Buffer *b, const pg_request *r, int i) {
  char text[VALUE_MOST];
  if (r->values[i] == NULL)
    luaL_addstring(b, "NULL");
  else if (r->formats[i] != 0)
    luaL_addstring(b, (snprintf(text, sizeof text, "<%d bytes>", r->lengths[i]), text));
  else
    luaL_addstring(b, (snprintf(text, sizeof text, "%.*s%s", VALUE_MOST - 4, r->values[i],
                                strlen(r->values[i]) > VALUE_MOST - 4 ? "..." : ""),
                       text));
}

static void add_type(luaL_Buffer *b, const pg_statement *s, int i) {
  Oid type = s->described && i < s->nparams ? s->params[i] : 0, element = pg_type_element(type);
  const char *name = pg_type_name(element != 0 ? element : type);
  luaL_addstring(b, name != NULL ? name : "?");
  if (element != 0) luaL_addstring(b, "[]");
}

static void set_parameters(lua_State *L, const record *self) {
  const pg_request *r = self->request;
  if (r->nparams == 0) return;
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  bool values = self->pool->log_values && !r->abandoned;
  for (int i = 0; i < r->nparams && i < SHOWN_MOST; i++) {
    if (i > 0) luaL_addstring(&b, ", ");
    if (values)
      add_value(&b, r, i);
    else
      add_type(&b, r->statement, i);
  }
  if (r->nparams > SHOWN_MOST) luaL_addstring(&b, ", ...");
  luaL_pushresult(&b);
  lua_setfield(L, -2, values ? "values" : "types");
  lua_pushinteger(L, r->nparams);
  lua_setfield(L, -2, "parameters");
}

/* What went wrong, or NULL. */
static const char *error_of(const pg_request *r) {
  if (r->abandoned) return "cancelled";
  switch (r->outcome) {
  case PG_OUTCOME_OK: return NULL;
  case PG_OUTCOME_ERROR: break;
  case PG_OUTCOME_LOST: return "connection lost";
  case PG_OUTCOME_UNKNOWN: return "unknown outcome";
  case PG_OUTCOME_CONNECT: return "no connection";
  case PG_OUTCOME_WAITED: return "no free connection";
  case PG_OUTCOME_TIMEOUT: return "deadline";
  case PG_OUTCOME_UNFIT: return "unfit";
  case PG_OUTCOME_LIMIT: return "max_bytes";
  case PG_OUTCOME_CLOSED: return "closed";
  case PG_OUTCOME_MEMORY: return "out of memory";
  }
  const char *code = r->result != NULL ? PQresultErrorField(r->result, PG_DIAG_SQLSTATE) : NULL;
  return code != NULL ? code : "error";
}

static void set_rows(lua_State *L, const pg_request *r) {
  if (r->result == NULL) return;
  const char *count = PQcmdTuples(r->result);
  if (*count == '\0' || lua_stringtonumber(L, count) == 0) return;
  lua_setfield(L, -2, "rows");
}

static double milliseconds(uint64_t ns) {
  return (double)(int64_t)(ns / 1000) / 1000;
}

/* What a span says besides: whose it is, and how the time before the statement was sent was spent.
 */
static void set_span(lua_State *L, const pg_request *r) {
  uint64_t now = uv_hrtime(), sent = r->sent_ns != 0 ? r->sent_ns : now;
  lua_pushinteger(L, (lua_Integer)r->task);
  lua_setfield(L, -2, "task");
  if (r->serial != 0) {
    lua_pushinteger(L, (lua_Integer)r->serial);
    lua_setfield(L, -2, "connection");
  }
  if (r->asked_ns == 0) return;
  lua_pushnumber(L, milliseconds(sent > r->asked_ns ? sent - r->asked_ns : 0));
  lua_setfield(L, -2, "waited_ms");
  lua_pushnumber(L, milliseconds(now - r->asked_ns));
  lua_setfield(L, -2, "total_ms");
}

static int write_record(lua_State *L) {
  const record *self = lua_touserdata(L, 1);
  const pg_request *r = self->request;
  const char *error = error_of(r);
  lua_createtable(L, 0, 12);
  set_statement(L, self);
  set_parameters(L, self);
  set_rows(L, r);
  set_text(L, "where", r->where);
  if (error != NULL) set_text(L, "error", error);
  lua_pushnumber(L, (lua_Number)(int64_t)(self->seconds * 1e6) / 1000);
  lua_setfield(L, -2, "duration_ms");
  if (self->pool->trace) set_span(L, r);
  const char *what = self->slow ? "slow statement" : self->pool->trace ? "span" : "statement";
  log_write(L, self->slow ? LOG_WARN : LOG_INFO, what, lua_gettop(L));
  return 0;
}

static void on_statement(void *data, const pg_request *request, double seconds) {
  lua_pg_pool *pool = data;
  record r = {pool, request, seconds, pool->slow_query > 0 && seconds >= pool->slow_query};
  lua_State *L = pool->aside;
  if ((!r.slow && !pool->log_statements && !pool->trace) || !lua_checkstack(L, 4)) return;
  if (!log_enabled(L, r.slow ? LOG_WARN : LOG_INFO)) return;
  int top = lua_gettop(L);
  lua_pushcfunction(L, write_record);
  lua_pushlightuserdata(L, &r);
  lua_pcall(L, 1, 0, 0); /* a lack of memory costs the record alone */
  lua_settop(L, top);
}

typedef struct leak {
  const char *where;
  double seconds;
} leak;

static int write_leak(lua_State *L) {
  const leak *self = lua_touserdata(L, 1);
  lua_createtable(L, 0, 2);
  set_text(L, "where", self->where);
  lua_pushnumber(L, (lua_Number)(int64_t)(self->seconds * 1000) / 1000);
  lua_setfield(L, -2, "held_seconds");
  log_write(L, LOG_WARN, "a connection is held for long", lua_gettop(L));
  return 0;
}

static void on_leak(void *data, const char *where, double seconds) {
  lua_State *L = ((lua_pg_pool *)data)->aside;
  leak l = {where, seconds};
  if (!lua_checkstack(L, 4)) return;
  int top = lua_gettop(L);
  lua_pushcfunction(L, write_leak);
  lua_pushlightuserdata(L, &l);
  lua_pcall(L, 1, 0, 0);
  lua_settop(L, top);
}

static int write_warning(lua_State *L) {
  log_write(L, LOG_WARN, lua_touserdata(L, 1), 0);
  return 0;
}

static void on_warning(void *data, const char *text) {
  lua_State *L = ((lua_pg_pool *)data)->aside;
  if (!lua_checkstack(L, 4)) return;
  int top = lua_gettop(L);
  lua_pushcfunction(L, write_warning);
  lua_pushlightuserdata(L, (void *)(uintptr_t)text);
  lua_pcall(L, 1, 0, 0);
  lua_settop(L, top);
}

/* Everybody's spans, whatever the pool was told: NEBULA_TRACE=1. */
static bool is_traced(void) {
  const char *value = getenv("NEBULA_TRACE");
  return value != NULL && strcmp(value, "1") == 0;
}

void lua_pg_start_logging(lua_pg_pool *self) {
  self->trace = is_traced();
  pg_pool_warn(self->pool, on_warning, self);
  if (self->log_statements || self->trace || self->slow_query > 0)
    pg_pool_observe(self->pool, on_statement, self);
  if (self->leak_after > 0) pg_pool_report_leaks(self->pool, self->leak_after, on_leak, self);
}
