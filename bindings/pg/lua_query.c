/* lua_query.c: query, one, value and exec, on a pool or on a held connection. */
#include "pg/lua_pg.h"
#include <stdio.h>
#include <string.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "base/lua_options.h"

/* What the sql argument says: the text, or a table {text, deadline=, prepare=, max_bytes=}. */
typedef struct order {
  const char *sql;
  size_t length, max_bytes;
  double timeout;
  bool unprepared;
} order;

static void read_order(lua_State *L, const lua_pg_pool *pool, const char *call, order *out) {
  static const char *const NAMES[] = {"deadline", "prepare", "max_bytes", NULL};
  *out = (order){.max_bytes = pool->max_bytes, .timeout = pool->timeout};
  if (lua_type(L, 2) == LUA_TSTRING) {
    out->sql = lua_tolstring(L, 2, &out->length);
    return;
  }
  if (!lua_istable(L, 2) || lua_rawgeti(L, 2, 1) != LUA_TSTRING)
    err_raisef(L, ERR_VALIDATION, "database",
               "%s wants SQL as a string or {sql, deadline=, ...}, got %s", call,
               luaL_typename(L, 2));
  out->sql = lua_tolstring(L, -1, &out->length); /* the table keeps it */
  lua_pop(L, 1);
  for (lua_pushnil(L); lua_next(L, 2) != 0; lua_pop(L, 1)) {
    if (lua_type(L, -2) == LUA_TNUMBER && lua_tointeger(L, -2) == 1) continue;
    bool known = false;
    for (int i = 0; NAMES[i] != NULL && lua_type(L, -2) == LUA_TSTRING; i++)
      known = known || strcmp(lua_tostring(L, -2), NAMES[i]) == 0;
    if (!known)
      err_raisef(L, ERR_VALIDATION, "database",
                 "%s: the options of a statement are deadline, prepare and max_bytes; its "
                 "parameters follow as arguments",
                 call);
  }
  bool prepare = true;
  lua_Integer most = 0;
  opt_duration(L, 2, call, "deadline", &out->timeout);
  opt_boolean(L, 2, call, "prepare", &prepare);
  if (opt_integer(L, 2, call, "max_bytes", 1, LUA_MAXINTEGER, &most)) out->max_bytes = (size_t)most;
  out->unprepared = !prepare;
}

void lua_pg_abandon(void *request) {
  pg_request_abandon(request);
}

static void on_done(pg_request *request) {
  task_ticket ticket;
  memcpy(&ticket, request->tag, sizeof ticket);
  task_wake(ticket);
}

void lua_pg_note_where(lua_State *L, pg_request *request) {
  if (request->where[0] != '\0') return;
  task_push_where(L);
  snprintf(request->where, sizeof request->where, "%s", lua_tostring(L, -1));
  lua_pop(L, 1);
}

void lua_pg_note_caller(lua_State *L, pg_request *request) {
  if (!pg_pool_is_observed(request->pool)) return;
  lua_pg_note_where(L, request);
  if (request->asked_ns == 0) request->asked_ns = uv_hrtime();
  request->task = task_current_id(L);
}

task_ticket lua_pg_ticket(lua_State *L, pg_request *request, const char *what) {
  _Static_assert(sizeof(task_ticket) <= sizeof request->tag, "a ticket fits");
  task_ticket ticket = task_wait_begin(L, what);
  lua_pg_note_caller(L, request);
  memcpy(request->tag, &ticket, sizeof ticket);
  request->done = on_done;
  return ticket;
}

/* Takes over a request that an error left behind. */
static void sweep(pg_request **slot) {
  if (*slot == NULL) return;
  pg_request *left = *slot;
  *slot = NULL;
  if (left->conn != NULL && !left->finished)
    pg_request_abandon(left);
  else
    pg_request_release(left);
}

void lua_pg_keep_decoding(lua_pg_pool *pool, pg_request *request) {
  if (pool->decoding == request) return;
  sweep(&pool->decoding);
  pool->decoding = request;
}

pg_request *lua_pg_build(lua_State *L, lua_pg_pool *pool, pg_request_kind kind, const char *sql,
                         size_t length) {
  if (lua_gc(L, LUA_GCISRUNNING) < 0)
    err_raisef(L, ERR_SCRIPT, "database", "a finalizer (__gc) cannot use the database");
  sweep(&pool->building);
  sweep(&pool->decoding);
  pg_statement *statement = NULL;
  if (sql != NULL) {
    statement = pg_pool_intern(pool->pool, sql, length);
    if (statement == NULL) lua_pg_no_memory(L);
  }
  pg_request *r = pg_request_new(pool->pool, kind, statement);
  if (r == NULL) lua_pg_no_memory(L);
  pool->building = r;
  return r;
}

static void refuse(lua_State *L, const char *call, const pg_statement *s, const char *why) {
  err_raisef(L, ERR_VALIDATION, "database", "%s: %s %s", call, s->scan.word, why);
}

/* What may not be sent this way is refused by name. */
void lua_pg_check_statement(lua_State *L, const pg_statement *s, const lua_pg_session *session,
                            int nparams, const char *call) {
  if (s->scan.kind == PG_CLASS_EMPTY)
    err_raisef(L, ERR_VALIDATION, "database", "%s: the SQL is empty", call);
  if (s->scan.kind == PG_CLASS_COPY) refuse(L, call, s, "moves data: use copy_in or copy_out");
  if (s->scan.control && session == NULL)
    refuse(L, call, s,
           "would leave a shared connection in a transaction: use :transaction, or "
           ":acquire a connection");
  if (s->scan.control && lua_pg_in_transaction(session))
    refuse(L, call, s,
           "is done by :transaction itself: return to commit, raise an error to roll back, "
           "nest :transaction for a savepoint");
  if (s->scan.statements > 1 && nparams > 0)
    err_raisef(L, ERR_VALIDATION, "database",
               "%s: %u statements in one text take no parameters: send them one by one", call,
               s->scan.statements);
}

static bool needs_types(const pg_statement *s, int nparams) {
  return nparams > 0 && !s->described;
}

void lua_pg_check_own(lua_State *L, const lua_pg_pool *pool, const char *call) {
  if (!pg_pool_would_deadlock(pool->pool, task_current_id(L))) return;
  err_raisef(L, ERR_POOL, "database",
             "%s waits for a connection of the pool while this task holds all %d of them: use the "
             "transaction's own handle, or raise max_connections",
             call, (int)pg_pool_options_get(pool->pool)->max_connections);
}

static int query_done(lua_State *L, int status, lua_KContext context);

static void submit(lua_pg_pool *pool, lua_pg_session *session, pg_request *r) {
  if (session == NULL) {
    pg_pool_submit(pool->pool, r);
    return;
  }
  pg_pool_submit_to(pool->pool, lua_pg_session_conn(session), r);
}

/* A call that has asked for its statement's types, and goes on. */
typedef struct described {
  int shape;
  uint64_t asked_ns;
} described;

/* Sends what the arguments ask for: first, where its types are not known, to learn them. */
static int start(lua_State *L, lua_pg_pool *pool, lua_pg_session *session, int shape,
                 const char *call, const described *before) {
  bool resumed = before != NULL;
  order o;
  read_order(L, pool, call, &o);
  if (session != NULL && pg_conn_is_streaming(lua_pg_session_conn(session)))
    err_raisef(
        L, ERR_VALIDATION, "database",
        "%s: a rows loop is open on this connection: end it first, or open it in a :transaction",
        call);
  int nparams = lua_gettop(L) - 2;
  pg_request *r = lua_pg_build(L, pool, PG_REQUEST_EXECUTE, o.sql, o.length);
  const pg_statement *s = r->statement;
  lua_pg_check_statement(L, s, session, nparams, call);
  if (s->scan.statements > 1)
    r->kind = PG_REQUEST_SCRIPT;
  else if (needs_types(s, nparams))
    r->kind = PG_REQUEST_DESCRIBE;
  else
    lua_pg_encode(L, pool, r, 3, nparams);
  r->shape = shape;
  r->dirties = (s->scan.kind > PG_CLASS_WRITE || s->scan.session) && r->kind != PG_REQUEST_DESCRIBE;
  r->inside = session != NULL && lua_pg_in_transaction(session);
  r->alone = s->scan.kind > PG_CLASS_WRITE || s->scan.session || r->kind != PG_REQUEST_EXECUTE;
  r->unprepared = o.unprepared;
  r->resumed = resumed;
  r->asked_ns = resumed ? before->asked_ns : 0;
  r->max_bytes = o.max_bytes;
  r->timeout = o.timeout;
  r->task = task_current_id(L);
  if (session == NULL && !resumed) lua_pg_check_room(L, pool, call);
  if (session == NULL) lua_pg_check_own(L, pool, call);
  if (shape == LUA_PG_ROWS && r->kind == PG_REQUEST_EXECUTE) {
    if (session != NULL && lua_pg_in_transaction(session)) return lua_pg_cursor_rows(L, session, r);
    int results = lua_pg_stream_rows(L, pool, r);
    pool->building = NULL;
    lua_pg_note_caller(L, r);
    r->done = on_done;
    submit(pool, session, r);
    return results;
  }
  bool gathers = shape == LUA_PG_QUERY && r->kind == PG_REQUEST_EXECUTE && lua_pg_gathers(s);
  if (gathers) lua_pg_gather_prepare(L, r);
  task_ticket ticket = lua_pg_ticket(L, r, call);
  pool->building = NULL;
  submit(pool, session, r);
  return task_wait(L, ticket, lua_pg_abandon, r, (lua_KContext)r,
                   gathers ? lua_pg_gathered : query_done);
}

/* The pool and the session of the object at 1; every method has its shape and name as upvalues. */
static int again(lua_State *L, const described *before) {
  int shape = before->shape;
  const char *call = lua_tostring(L, lua_upvalueindex(2));
  if (lua_toboolean(L, lua_upvalueindex(3))) {
    lua_pg_session *session = lua_pg_check_session(L, 1, call);
    return start(L, session->pool, session, shape, call, before);
  }
  return start(L, lua_pg_check_pool(L, 1, call), NULL, shape, call, before);
}

lua_pg_pool *lua_pg_pool_of_call(lua_State *L) {
  bool session = lua_toboolean(L, lua_upvalueindex(3));
  return session ? ((lua_pg_session *)lua_touserdata(L, 1))->pool : lua_touserdata(L, 1);
}

static int query_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  pg_request *r = (pg_request *)context;
  lua_pg_pool *pool = lua_pg_pool_of_call(L);
  if (r->outcome != PG_OUTCOME_OK) lua_pg_fail(L, pool, r);
  int shape = r->shape;
  if (r->kind == PG_REQUEST_DESCRIBE) {
    described before = {shape, r->asked_ns};
    pg_request_release(r);
    return again(L, &before);
  }
  lua_pg_keep_decoding(pool, r);
  lua_pg_decode(L, pool, r->result, shape);
  bool unfinished = lua_pg_push_plan(L, pool, r->result, shape);
  pool->decoding = NULL;
  pg_request_release(r);
  if (unfinished) lua_pg_run_plan(L, shape);
  return 1;
}

int lua_pg_pool_query(lua_State *L) {
  const char *call = lua_tostring(L, lua_upvalueindex(2));
  lua_pg_pool *pool = lua_pg_check_pool(L, 1, call);
  return start(L, pool, NULL, (int)lua_tointeger(L, lua_upvalueindex(1)), call, NULL);
}

int lua_pg_session_query(lua_State *L) {
  const char *call = lua_tostring(L, lua_upvalueindex(2));
  lua_pg_session *session = lua_pg_check_session(L, 1, call);
  return start(L, session->pool, session, (int)lua_tointeger(L, lua_upvalueindex(1)), call, NULL);
}

int lua_pg_command(lua_State *L, lua_pg_session *session, const char *sql, const char *what,
                   lua_KContext context, lua_KFunction done) {
  lua_pg_pool *pool = session->pool;
  pg_request *r = lua_pg_build(L, pool, PG_REQUEST_EXECUTE, sql, strlen(sql));
  r->unprepared = true;
  r->inside = strcmp(sql, "COMMIT") != 0;
  task_ticket ticket = lua_pg_ticket(L, r, what);
  pool->building = NULL;
  session->command = r;
  pg_conn *conn = lua_pg_session_conn(session);
  if (strcmp(sql, "ROLLBACK") == 0) conn->begin[0] = '\0'; /* needs nothing in front of it */
  pg_pool_submit_to(pool->pool, conn, r);
  return task_wait(L, ticket, lua_pg_abandon, r, context, done);
}

const char *lua_pg_command_tag(lua_State *L, lua_pg_session *session) {
  lua_pg_pool *pool = session->pool;
  pg_request *r = session->command;
  session->command = NULL;
  if (r->outcome != PG_OUTCOME_OK) lua_pg_fail(L, pool, r);
  lua_pg_keep_decoding(pool, r);
  return PQcmdStatus(r->result);
}
