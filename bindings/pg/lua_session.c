/* lua_session.c: a connection held by a script. */
#include "pg/lua_pg.h"
#include <stdio.h>
#include <string.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "base/lua_options.h"

lua_pg_session *lua_pg_push_session(lua_State *L, int pool) {
  pool = lua_absindex(L, pool);
  lua_pg_session *self = lua_newuserdatauv(L, sizeof *self, 3);
  memset(self, 0, sizeof *self);
  self->pool = lua_touserdata(L, pool);
  lua_pushvalue(L, pool);
  lua_setiuservalue(L, -2, 1);
  luaL_setmetatable(L, LUA_PG_SESSION);
  return self;
}

pg_conn *lua_pg_session_conn(const lua_pg_session *session) {
  while (session->outer != NULL)
    session = session->outer;
  return session->conn;
}

pg_conn *lua_pg_check_conn(lua_State *L, const lua_pg_session *session, const char *call) {
  pg_conn *conn = lua_pg_session_conn(session);
  if (conn == NULL)
    err_raise(L,
              &(err_info){.kind = ERR_DATABASE,
                          .source = "database",
                          .code = "08003",
                          .retryable = true,
                          .message = lua_pushfstring(
                              L, "%s: the connection was lost; begin again on another one", call)});
  return conn;
}

void lua_pg_check_session_alive(lua_State *L, const lua_pg_session *session, const char *call) {
  if (session->ended)
    err_raisef(L, ERR_VALIDATION, "database",
               session->transaction
                   ? "%s: this transaction has ended; its handle is good only inside "
                     "the function that was given it"
                   : "%s: this connection was given back to the pool",
               call);
  lua_pg_check_conn(L, session, call);
}

lua_pg_session *lua_pg_check_session(lua_State *L, int index, const char *call) {
  lua_pg_session *self = luaL_checkudata(L, index, LUA_PG_SESSION);
  lua_pg_check_session_alive(L, self, call);
  return self;
}

bool lua_pg_in_transaction(const lua_pg_session *session) {
  return session->transaction || session->in_transaction;
}

void lua_pg_session_return(lua_pg_session *self) {
  self->ended = true;
  if (self->outer != NULL) {
    self->outer->in_transaction = false;
    self->outer = NULL;
    return;
  }
  pg_conn *conn = self->conn;
  self->conn = NULL;
  if (conn != NULL) pg_pool_give_back(self->pool->pool, conn);
}

char *lua_pg_unsent_begin(pg_conn *conn) {
  return strstr(conn->begin, "BEGIN");
}

void lua_pg_undo(lua_pg_session *self) {
  pg_conn *conn = lua_pg_session_conn(self);
  if (self->outer == NULL || !self->open || conn == NULL) return;
  self->open = false;
  char *begin = lua_pg_unsent_begin(conn);
  if (self->depth > 0) /* released too, or failures in a loop would nest ever deeper */
    snprintf(conn->begin, sizeof conn->begin,
             "ROLLBACK TO SAVEPOINT nebula_%d;RELEASE SAVEPOINT nebula_%d", self->depth,
             self->depth);
  else if (begin != NULL)
    *begin = '\0';
  else
    snprintf(conn->begin, sizeof conn->begin, "ROLLBACK");
}

int lua_pg_session_close(lua_State *L) {
  lua_pg_session *self = luaL_checkudata(L, 1, LUA_PG_SESSION);
  lua_pg_undo(self);
  lua_pg_session_return(self);
  return 0;
}

void lua_pg_check_room(lua_State *L, const lua_pg_pool *pool, const char *call) {
  if (!pg_pool_is_full(pool->pool)) return;
  err_raise(L, &(err_info){.kind = ERR_POOL,
                           .source = "database",
                           .retryable = true,
                           .message = lua_pushfstring(
                               L, "%s: %d callers wait for a connection already (max_waiting)",
                               call, (int)pg_pool_options_get(pool->pool)->max_waiting)});
}

int lua_pg_acquire(lua_State *L, int index, const char *what, lua_KContext context,
                   lua_KFunction done) {
  lua_pg_session *session = lua_touserdata(L, index);
  lua_pg_pool *box = session->pool;
  lua_pg_check_room(L, box, what);
  pg_request *r = lua_pg_build(L, box, PG_REQUEST_ACQUIRE, NULL, 0);
  r->alone = true;
  lua_pg_note_where(L, r);
  r->task = task_current_id(L);
  if (pg_pool_would_deadlock(box->pool, r->task))
    err_raisef(L, ERR_POOL, "database",
               "%s at %s: this task already holds all %d connections of the pool, so it would wait "
               "for itself: use the handle it has, nest tx:transaction, or raise max_connections",
               what, r->where, (int)pg_pool_options_get(box->pool)->max_connections);
  task_ticket ticket = lua_pg_ticket(L, r, what);
  box->building = NULL;
  session->command = r;
  pg_pool_submit(box->pool, r);
  return task_wait(L, ticket, lua_pg_abandon, r, context, done);
}

void lua_pg_acquired(lua_State *L, lua_pg_session *session) {
  pg_request *r = session->command;
  session->command = NULL;
  if (r->outcome != PG_OUTCOME_OK) lua_pg_fail(L, session->pool, r);
  pg_conn *conn = pg_pool_take(r, &session->conn);
  pg_request_release(r);
  if (conn == NULL)
    err_raise(L, &(err_info){.kind = ERR_DATABASE,
                             .source = "database",
                             .code = "08006",
                             .retryable = true,
                             .message = "the connection was lost before it could be used"});
}

void lua_pg_read_name(lua_State *L, int index, const char *call, const lua_pg_pool *pool,
                      const char *scope, char out[LUA_PG_NAMING]) {
  const char *name = NULL;
  char plain[64];
  size_t length;
  out[0] = '\0';
  if (!lua_istable(L, index) || !opt_string(L, index, call, "name", &name, &length)) return;
  snprintf(plain, sizeof plain, "%.30s: %.*s", pg_pool_application(pool->pool),
           (int)(length < 60 ? length : 60), name);
  for (char *p = plain; *p != '\0'; p++)
    if (*p == '\'' || *p == '\\' || *p == ';' || *p < ' ' || *p > '~') *p = '?';
  snprintf(out, LUA_PG_NAMING, "SET %sapplication_name = '%s'", scope, plain);
}

static int acquired(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  lua_pg_session *session = lua_touserdata(L, -1);
  lua_pg_acquired(L, session);
  if (session->begin[0] == '\0') return 1;
  /* Goes in front of what is sent first, and is undone when the connection is given back. */
  snprintf(session->conn->begin, sizeof session->conn->begin, "%s", session->begin);
  session->conn->dirty = true;
  return 1;
}

static int pool_acquire(lua_State *L) {
  static const char *const NAMES[] = {"name", NULL};
  char naming[LUA_PG_NAMING];
  lua_pg_pool *pool = lua_pg_check_pool(L, 1, "pool:acquire");
  opt_check(L, 2, "pool:acquire", NAMES);
  lua_pg_read_name(L, 2, "pool:acquire", pool, "", naming);
  lua_settop(L, 1);
  lua_pg_session *session = lua_pg_push_session(L, 1);
  snprintf(session->begin, sizeof session->begin, "%s", naming);
  return lua_pg_acquire(L, 2, "pool:acquire", 0, acquired);
}

static int notified(lua_State *L, int status, lua_KContext context) {
  (void)L;
  (void)status;
  (void)context;
  return 0;
}

/* notify(channel, payload): SELECT pg_notify($1, $2). */
static int session_notify(lua_State *L) {
  luaL_checkstring(L, 2);
  luaL_optstring(L, 3, NULL);
  lua_settop(L, 3);
  lua_getfield(L, 1, "exec");
  lua_insert(L, 1); // stack: exec, self, channel, payload
  lua_pushliteral(L, "SELECT pg_notify($1, $2)");
  lua_insert(L, 3);
  lua_callk(L, 4, 0, 0, notified);
  return 0;
}

static void add_query(lua_State *L, const char *owner, const char *name, int shape, bool session) {
  lua_pushinteger(L, shape);
  lua_pushfstring(L, "%s:%s", owner, name);
  lua_pushboolean(L, session);
  lua_pushcclosure(L, session ? lua_pg_session_query : lua_pg_pool_query, 3);
  lua_setfield(L, -2, name);
}

void lua_pg_add_queries(lua_State *L, bool session) { // stack: methods
  static const char *const NAMES[] = {"query", "one", "value", "exec", "rows"};
  for (int shape = LUA_PG_QUERY; shape <= LUA_PG_ROWS; shape++)
    add_query(L, session ? "connection" : "pool", NAMES[shape], shape, session);
  lua_pushcfunction(L, session_notify);
  lua_setfield(L, -2, "notify");
  if (session) return;
  lua_pushcfunction(L, pool_acquire);
  lua_setfield(L, -2, "acquire");
}

static int session_tostring(lua_State *L) {
  const lua_pg_session *self = luaL_checkudata(L, 1, LUA_PG_SESSION);
  lua_pushfstring(L, "%s of %s%s", self->transaction ? "transaction" : "connection",
                  pg_pool_place(self->pool->pool), self->ended ? " (ended)" : "");
  return 1;
}

void lua_pg_open_session(lua_State *L) {
  luaL_newmetatable(L, LUA_PG_SESSION);
  static const luaL_Reg META[] = {{"__gc", lua_pg_session_close},
                                  {"__close", lua_pg_session_close},
                                  {"__tostring", session_tostring},
                                  {NULL, NULL}};
  luaL_setfuncs(L, META, 0);
  lua_createtable(L, 0, 16);
  lua_pg_add_queries(L, true);
  static const luaL_Reg METHODS[] = {{"transaction", lua_pg_session_transaction},
                                     {"on_commit", lua_pg_on_commit},
                                     {"batch", lua_pg_session_batch},
                                     {"copy_in", lua_pg_session_copy_in},
                                     {"copy_out", lua_pg_session_copy_out},
                                     {"close", lua_pg_session_close},
                                     {NULL, NULL}};
  luaL_setfuncs(L, METHODS, 0);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}
