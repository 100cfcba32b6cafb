/* lua_statements.c: pool:statements(): what the pool's statements have cost. */
#include <math.h>
#include <stdlib.h>
#include <lauxlib.h>
#include "base/lua_options.h"
#include "pg/lua_pg.h"

enum { TEXT_MOST = 2000 };

static void set_number(lua_State *L, const char *name, double value) {
  lua_pushnumber(L, value);
  lua_setfield(L, -2, name);
}

static void set_count(lua_State *L, const char *name, uint64_t value) {
  lua_pushinteger(L, (lua_Integer)value);
  lua_setfield(L, -2, name);
}

/* The buckets that are not empty, as {within=, count=}. */
static void push_histogram(lua_State *L, const pg_tally *tally) {
  lua_newtable(L);
  lua_Integer n = 0;
  for (size_t i = 0; i < PG_TALLY_BUCKETS; i++) {
    if (tally->buckets[i] == 0) continue;
    lua_createtable(L, 0, 2);
    set_number(L, "within", pg_tally_bound(i));
    set_count(L, "count", tally->buckets[i]);
    lua_rawseti(L, -2, ++n);
  }
}

static void push_statement(lua_State *L, const pg_statement *s) {
  const pg_tally *t = &s->tally;
  char text[TEXT_MOST];
  pg_scan_redact(s->text, s->length, text, sizeof text);
  lua_createtable(L, 0, 11);
  lua_pushstring(L, text);
  lua_setfield(L, -2, "statement");
  set_count(L, "calls", t->runs);
  set_count(L, "errors", t->errors);
  set_count(L, "rows", t->rows);
  set_number(L, "seconds", t->seconds);
  set_number(L, "mean", t->seconds / (double)t->runs);
  set_number(L, "max", t->longest);
  set_number(L, "p50", pg_tally_quantile(t, 0.50));
  set_number(L, "p95", pg_tally_quantile(t, 0.95));
  set_number(L, "p99", pg_tally_quantile(t, 0.99));
  push_histogram(L, t);
  lua_setfield(L, -2, "histogram");
}

static int by_seconds(const void *a, const void *b) {
  double x = (*(const pg_statement *const *)a)->tally.seconds,
         y = (*(const pg_statement *const *)b)->tally.seconds;
  return x < y ? 1 : x > y ? -1 : 0;
}

int lua_pg_pool_statements(lua_State *L) {
  lua_pg_pool *self = lua_pg_check_pool(L, 1, "pool:statements");
  lua_Integer most = luaL_optinteger(L, 2, 100);
  luaL_argcheck(L, most >= 1, 2, "how many statements: at least 1");
  size_t count = 0;
  const pg_statement *newest = pg_pool_newest_statement(self->pool);
  for (const pg_statement *s = newest; s != NULL; s = s->older)
    count += s->tally.runs > 0;
  const pg_statement **list = lua_newuserdatauv(L, (count + 1) * sizeof *list, 0);
  size_t n = 0;
  for (const pg_statement *s = newest; s != NULL; s = s->older)
    if (s->tally.runs > 0) list[n++] = s;
  qsort(list, n, sizeof *list, by_seconds);
  lua_newtable(L);
  for (size_t i = 0; i < n && (lua_Integer)i < most; i++) {
    push_statement(L, list[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}
