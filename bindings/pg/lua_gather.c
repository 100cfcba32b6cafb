/* lua_gather.c: large results of query, decoded while the server still sends.
 *
 * A statement that has given many rows before is read row by row, each made a table as soon as it
 * is there: so client and server work at once, and no copy of the whole result stands beside its
 * tables. For a few rows the one result at the end costs less. */
#include <lauxlib.h>
#include "pg/lua_pg.h"
#include "pg/lua_values.h"

enum { MANY_ROWS = 256, LIST = 2, NAMES = 3 }; /* the list and the columns' names on the stack */

bool lua_pg_gathers(const pg_statement *statement) {
  return statement->mean_rows >= MANY_ROWS;
}

void lua_pg_gather_prepare(lua_State *L, pg_request *request) {
  if (!pg_request_keep(request)) lua_pg_no_memory(L);
  request->alone = request->streaming = request->gathered = request->wanted = true;
  lua_settop(L, 1);
  lua_createtable(L, (int)request->statement->mean_rows, 0);
}

/* An error leaves the row where it is, to be freed with the request. */
static void take_rows(lua_State *L, const lua_pg_pool *pool, pg_request *r) {
  lua_Integer count = (lua_Integer)(r->rows_seen - r->rows_count);
  const PGresult *row;
  while ((row = pg_request_peek_row(r)) != NULL) {
    if (count == 0) lua_pg_push_names(L, row);
    lua_pg_push_row(L, pool, row, 0, NAMES);
    lua_rawseti(L, LIST, ++count);
    PQclear(pg_request_next_row(r));
    if (r->rows_count == 0 && r->conn != NULL) pg_conn_resume(r->conn);
  }
}

int lua_pg_gathered(lua_State *L, int status, lua_KContext context) {
  (void)status;
  pg_request *r = (pg_request *)context;
  lua_pg_pool *pool = lua_pg_pool_of_call(L);
  lua_pg_keep_decoding(pool, r);
  take_rows(L, pool, r);
  if (!r->finished) {
    /* Raises in a task that was cancelled after it was woken: the request stays kept until then. */
    task_ticket ticket = lua_pg_ticket(L, r, lua_tostring(L, lua_upvalueindex(2)));
    pool->decoding = NULL;
    r->wanted = true;
    return task_wait(L, ticket, lua_pg_abandon, r, context, lua_pg_gathered);
  }
  pool->decoding = NULL;
  if (r->outcome != PG_OUTCOME_OK) lua_pg_fail(L, pool, r);
  lua_settop(L, LIST);
  lua_pg_keep_decoding(pool, r);
  lua_pg_describe_rows(L, r->result);
  bool unfinished = lua_pg_push_plan(L, pool, r->result, LUA_PG_QUERY);
  pool->decoding = NULL;
  pg_request_release(r);
  if (unfinished) lua_pg_run_plan(L, LUA_PG_QUERY);
  return 1;
}
