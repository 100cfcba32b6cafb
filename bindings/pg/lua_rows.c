/* lua_rows.c: a result row by row, in bounded memory: `for row in db:rows(sql, ...) do`.
 *
 * Outside of a transaction the statement streams on a connection of its own: where the loop falls
 * behind, the socket is left alone; where it is left early, the statement is cancelled and the
 * connection goes back. Inside a transaction a cancel would abort the transaction, and the loop's
 * body wants to use it too: there the rows come through a cursor, some hundred at a time. */
#include <stdio.h>
#include <string.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "pg/lua_pg.h"
#include "pg/lua_values.h"

#define ROWS_TYPE "nebula.pg.Rows"

enum { FETCH = 256 };

typedef struct rows {
  lua_pg_pool *pool;       /* kept by user value 1: the pool, or the session that keeps it */
  lua_pg_session *session; /* of a cursor */
  pg_request *request;     /* that streams, or whose batch is being read */
  PGresult *row;           /* streaming: while it is decoded */
  int at;                  /* the next row of the batch */
  bool last;               /* no more batches */
  int attempt;             /* the session's, when the cursor was declared */
  char cursor[24];         /* its name, or empty */
} rows;

/* Nothing waits for the answer. A cursor ends with its transaction. */
static void close_cursor(const rows *self) {
  bool gone = self->session->ended || self->session->attempts != self->attempt;
  pg_conn *conn = gone ? NULL : lua_pg_session_conn(self->session);
  if (conn == NULL) return;
  char sql[40];
  snprintf(sql, sizeof sql, "CLOSE %s", self->cursor);
  pg_request *r = pg_pool_internal_request(self->pool->pool, PG_REQUEST_EXECUTE, sql);
  if (r == NULL) return;
  pg_conn_send(conn, r);
  pg_request_release(r);
}

static int rows_close(lua_State *L) {
  rows *self = luaL_checkudata(L, 1, ROWS_TYPE);
  PQclear(self->row);
  self->row = NULL;
  pg_request *r = self->request;
  self->request = NULL;
  if (r != NULL && r->finished)
    pg_request_release(r);
  else if (r != NULL)
    pg_request_abandon(r);
  if (self->cursor[0] != '\0' && !self->last) close_cursor(self);
  self->last = true;
  return 0;
}

/* Pushes the row, and its plan where that is true. */
static bool push_row(lua_State *L, const rows *self, const PGresult *result, int row) {
  lua_settop(L, 1);
  lua_pg_push_names(L, result);
  lua_pg_push_row(L, self->pool, result, row, 2);
  return lua_pg_push_plan(L, self->pool, result, LUA_PG_ONE);
}

static int end_rows(lua_State *L, rows *self) {
  pg_request *r = self->request;
  self->request = NULL;
  self->last = true;
  if (r->outcome != PG_OUTCOME_OK) lua_pg_fail(L, self->pool, r);
  pg_request_release(r);
  lua_pushnil(L);
  return 1;
}

static int next_streamed(lua_State *L, int status, lua_KContext context) {
  (void)status;
  rows *self = lua_touserdata(L, 1);
  pg_request *r = self->request;
  if (context != 0) pg_request_release(r); /* the wait's */
  self->row = pg_request_next_row(r);
  if (self->row == NULL && r->finished) return end_rows(L, self);
  if (self->row == NULL) {
    task_ticket ticket = lua_pg_ticket(L, r, "rows");
    r->wanted = true;
    r->refs++;
    return task_wait(L, ticket, lua_pg_abandon, r, 1, next_streamed);
  }
  if (r->rows_count == PG_REQUEST_ROWS / 2 && r->conn != NULL) pg_conn_resume(r->conn);
  bool unfinished = push_row(L, self, self->row, 0);
  PQclear(self->row);
  self->row = NULL;
  if (unfinished) lua_pg_run_plan(L, LUA_PG_ONE);
  return 1;
}

static int next_fetched(lua_State *L);

static int fetched(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  rows *self = lua_touserdata(L, 1);
  pg_request *r = self->request;
  pg_request_release(r); /* the wait's */
  if (r->outcome != PG_OUTCOME_OK) return end_rows(L, self);
  self->at = 0;
  return next_fetched(L);
}

static int next_fetched(lua_State *L) {
  rows *self = lua_touserdata(L, 1);
  pg_request *r = self->request;
  if (r->result != NULL && self->at < PQntuples(r->result)) {
    if (push_row(L, self, r->result, self->at++)) lua_pg_run_plan(L, LUA_PG_ONE);
    return 1;
  }
  bool whole = self->cursor[0] == '\0'; /* the statement itself, read at once */
  if (whole || (r->copied_rows && PQntuples(r->result) < FETCH)) {
    if (!whole) close_cursor(self);
    return end_rows(L, self);
  }
  lua_pg_check_session_alive(L, self->session, "rows");
  char sql[64];
  snprintf(sql, sizeof sql, "FETCH %d FROM %s", FETCH, self->cursor);
  pg_request *next = lua_pg_build(L, self->pool, PG_REQUEST_EXECUTE, sql, strlen(sql));
  next->unprepared = next->copied_rows = true;
  task_ticket ticket = lua_pg_ticket(L, next, "rows");
  self->pool->building = NULL;
  pg_request_release(r);
  self->request = next;
  next->refs++;
  pg_pool_submit_to(self->pool->pool, lua_pg_session_conn(self->session), next);
  return task_wait(L, ticket, lua_pg_abandon, next, 0, fetched);
}

static int rows_next(lua_State *L) {
  rows *self = luaL_checkudata(L, 1, ROWS_TYPE);
  PQclear(self->row); /* an error came between */
  self->row = NULL;
  if (self->request == NULL) return 0;
  return self->session != NULL ? next_fetched(L) : next_streamed(L, LUA_OK, 0);
}

static rows *push(lua_State *L, lua_pg_pool *pool) {
  lua_pushcfunction(L, rows_next);
  rows *self = lua_newuserdatauv(L, sizeof *self, 1);
  *self = (rows){.pool = pool};
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
  luaL_setmetatable(L, ROWS_TYPE);
  return self;
}

static int push_loop(lua_State *L) { // stack: next, rows
  lua_pushnil(L);
  lua_pushvalue(L, -2);
  return 4;
}

int lua_pg_stream_rows(lua_State *L, lua_pg_pool *pool, pg_request *request) {
  if (!pg_request_keep(request)) lua_pg_no_memory(L);
  rows *self = push(L, pool);
  self->request = request;
  request->alone = request->streaming = true;
  return push_loop(L);
}

/* The DECLARE, or the whole statement, has been answered. */
static int declared(lua_State *L, int status, lua_KContext context) {
  (void)status;
  pg_request *r = (pg_request *)context;
  lua_pg_session *session = lua_touserdata(L, 1);
  if (r->outcome != PG_OUTCOME_OK) lua_pg_fail(L, session->pool, r);
  lua_pg_keep_decoding(session->pool, r);
  rows *self = push(L, session->pool);
  self->session = session;
  self->attempt = session->attempts;
  self->request = r;
  session->pool->decoding = NULL;
  if (strncmp(r->statement->text, "DECLARE ", 8) == 0)
    snprintf(self->cursor, sizeof self->cursor, "nebula_rows_%d", r->shape);
  return push_loop(L);
}

int lua_pg_cursor_rows(lua_State *L, lua_pg_session *session, pg_request *plain) {
  const pg_statement *s = plain->statement;
  pg_conn *conn = lua_pg_session_conn(session);
  pg_request *r = plain;
  if (s->scan.kind == PG_CLASS_READ || !s->scan.modifies) {
    int number = ++session->cursors;
    lua_pushfstring(L, "DECLARE nebula_rows_%d NO SCROLL CURSOR FOR %s", number, s->text);
    size_t length;
    const char *sql = lua_tolstring(L, -1, &length);
    pg_statement *declare = pg_pool_intern(session->pool->pool, sql, length);
    lua_pop(L, 1);
    if (declare == NULL) lua_pg_no_memory(L);
    pg_statement_release(r->statement); /* it was encoded by its types already */
    r->statement = declare;
    r->unprepared = true;
    r->shape = number;
  }
  task_ticket ticket = lua_pg_ticket(L, r, "rows");
  session->pool->building = NULL;
  pg_pool_submit_to(session->pool->pool, conn, r);
  return task_wait(L, ticket, lua_pg_abandon, r, (lua_KContext)r, declared);
}

void lua_pg_open_rows(lua_State *L) {
  luaL_newmetatable(L, ROWS_TYPE);
  static const luaL_Reg META[] = {
      {"__gc", rows_close}, {"__close", rows_close}, {"__call", rows_next}, {NULL, NULL}};
  luaL_setfuncs(L, META, 0);
  lua_pop(L, 1);
}
