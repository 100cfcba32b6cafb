/* lua_batch.c: batch{ {sql, ...}, {sql, ...} }: statements in one round trip, results in order.
 *
 * A connection is held alone for it; where the types of parameters are not known, all of them are
 * asked for at once first. Each statement is a segment with a Sync of its own. By default they are
 * one transaction: BEGIN goes in front of the first and COMMIT behind the last, in the same round
 * trip, and where one fails the server skips the rest. Otherwise each stands for itself, and on an
 * acquired connection BEGIN, COMMIT AND CHAIN and the like may be among them. */
#include <stdio.h>
#include <string.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "pg/lua_pg.h"

#define TYPE "nebula.pg.Batch"

/* Stack of the call. SESSION is SELF where that is one already. */
enum { SELF = 1, LIST, OPTIONS, SESSION, BATCH, VALUES };

typedef struct item {
  pg_statement *statement;
  pg_request *request;
} item;

typedef struct batch {
  const char *call;
  task_ticket ticket;
  double deadline;
  bool transaction; /* asked for */
  bool wraps;       /* BEGIN and COMMIT are its own */
  size_t count;     /* of statements; behind them come COMMIT and the time limit */
  size_t left;      /* not answered */
  item items[];
} batch;

enum { COMMIT, LIMIT, EXTRA };

static void drop(pg_request **slot) {
  pg_request *r = *slot;
  *slot = NULL;
  if (r == NULL) return;
  bool waits = r->queue != NULL && !r->finished;
  if (waits)
    pg_request_abandon(r);
  else
    pg_request_release(r);
}

static void drop_requests(batch *self) {
  for (size_t i = 0; i < self->count + EXTRA; i++)
    drop(&self->items[i].request);
}

static void abandon(void *data) {
  drop_requests(data);
}

static int batch_gc(lua_State *L) {
  batch *self = luaL_checkudata(L, 1, TYPE);
  drop_requests(self);
  for (size_t i = 0; i < self->count; i++) {
    if (self->items[i].statement != NULL) pg_statement_release(self->items[i].statement);
    self->items[i].statement = NULL;
  }
  return 0;
}

static void on_done(pg_request *request) {
  batch *self = (batch *)request->tag[0];
  if (--self->left == 0) task_wake(self->ticket);
}

/* A request of the batch, kept by it. */
static pg_request *make(lua_State *L, batch *self, size_t i, pg_request_kind kind, const char *sql,
                        size_t length) {
  lua_pg_session *session = lua_touserdata(L, SESSION);
  pg_request *r = lua_pg_build(L, session->pool, kind, sql, length);
  session->pool->building = NULL;
  self->items[i].request = r;
  r->done = on_done;
  r->tag[0] = (uint64_t)self;
  r->max_bytes = session->pool->max_bytes;
  r->task = task_current_id(L);
  if (pg_pool_is_observed(r->pool)) lua_pg_note_where(L, r);
  return r;
}

static void submit(lua_State *L, batch *self, size_t i) {
  lua_pg_session *session = lua_touserdata(L, SESSION);
  pg_request *r = self->items[i].request;
  if (r == NULL) return;
  pg_conn *conn = lua_pg_session_conn(session);
  self->left++;
  if (conn != NULL)
    pg_pool_submit_to(session->pool->pool, conn, r);
  else /* lost while the ones before were sent */
    pg_request_finish(r, PG_OUTCOME_LOST, "it was lost while the batch was sent");
  r->timeout = self->deadline; /* the server keeps it; this is how its error is told */
}

/* ---- the results ---- */

static void set_index(lua_State *L, size_t i) { // stack: error
  lua_pushinteger(L, (lua_Integer)i + 1);
  lua_setfield(L, -2, "index");
}

/* Pushes the error of item i with its place in the list. */
static void push_failure(lua_State *L, batch *self, size_t i) {
  lua_pg_session *session = lua_touserdata(L, SESSION);
  pg_request *r = self->items[i].request;
  self->items[i].request = NULL;
  lua_pg_push_failure(L, session->pool, r);
  if (i < self->count) set_index(L, i);
}

static bool failed(const batch *self, size_t i) {
  const pg_request *r = self->items[i].request;
  return r != NULL && r->outcome != PG_OUTCOME_OK;
}

/* Raises what kept the whole from being done. */
static void check_whole(lua_State *L, batch *self) {
  size_t commit = self->count + COMMIT, first = 0;
  while (first < self->count && !failed(self, first))
    first++;
  bool said = first < self->count && self->items[first].request->outcome == PG_OUTCOME_ERROR;
  /* All was sent at once: where answers are missing, COMMIT may have been done. */
  if (!said && failed(self, commit)) first = commit;
  if (!failed(self, first)) return;
  push_failure(L, self, first);
  lua_error(L);
}

static int decode(lua_State *L) { // stack: pool, result
  const lua_pg_pool *pool = lua_touserdata(L, 1);
  const PGresult *result = lua_touserdata(L, 2);
  lua_settop(L, 0);
  lua_pg_decode(L, pool, result, LUA_PG_QUERY);
  if (lua_pg_push_plan(L, pool, result, LUA_PG_QUERY)) lua_pg_run_plan(L, LUA_PG_QUERY);
  return 1;
}

/* Pushes what item i returned, and whether that is rows and no error. Rows that cannot be read
 * (JSON nested too deep) are an error of this statement alone. */
static bool push_result(lua_State *L, batch *self, size_t i) {
  if (failed(self, i)) {
    push_failure(L, self, i);
    return false;
  }
  lua_pushcfunction(L, decode);
  lua_pushlightuserdata(L, ((lua_pg_session *)lua_touserdata(L, SESSION))->pool);
  lua_pushlightuserdata(L, self->items[i].request->result);
  if (lua_pcall(L, 2, 1, 0) == LUA_OK) return true;
  if (lua_istable(L, -1)) set_index(L, i);
  if (self->transaction || !lua_istable(L, -1)) lua_error(L); /* Lua's own: no memory */
  return false;
}

static int return_results(lua_State *L, batch *self) {
  lua_createtable(L, (int)self->count, 1);
  int list = lua_gettop(L);
  lua_Integer failures = 0;
  for (size_t i = 0; i < self->count; i++) {
    if (!push_result(L, self, i)) failures++;
    lua_rawseti(L, list, (lua_Integer)i + 1);
    lua_settop(L, list); /* an error leaves its text below itself */
    drop(&self->items[i].request);
  }
  lua_pushinteger(L, failures);
  lua_setfield(L, list, "failed");
  return 1;
}

static int executed(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  batch *self = lua_touserdata(L, BATCH);
  if (failed(self, self->count + LIMIT)) {
    push_failure(L, self, self->count + LIMIT);
    return lua_error(L);
  }
  if (self->transaction) check_whole(L, self);
  return return_results(L, self);
}

/* ---- sending ---- */

static void encode(lua_State *L, batch *self, size_t i) {
  lua_pg_session *session = lua_touserdata(L, SESSION);
  pg_statement *s = self->items[i].statement;
  pg_request *r = make(L, self, i, PG_REQUEST_EXECUTE, s->text, s->length);
  lua_rawgeti(L, VALUES, (lua_Integer)i + 1);
  int values = lua_gettop(L);
  lua_getfield(L, values, "n");
  int count = (int)lua_tointeger(L, -1) - 1;
  lua_pop(L, 1);
  luaL_checkstack(L, count + 8, "too many parameters");
  for (int k = 1; k <= count; k++)
    lua_rawgeti(L, values, k + 1);
  lua_pg_encode(L, session->pool, r, values + 1, count); /* VALUES keeps their bytes */
  lua_settop(L, VALUES);
}

static void add_limit(lua_State *L, batch *self) {
  char sql[96];
  snprintf(sql, sizeof sql, "SELECT set_config('statement_timeout', '%.0f', %s)",
           self->deadline * 1000 < 1 ? 1 : self->deadline * 1000, self->wraps ? "true" : "false");
  make(L, self, self->count + LIMIT, PG_REQUEST_EXECUTE, sql, strlen(sql))->unprepared = true;
}

static int execute(lua_State *L) {
  batch *self = lua_touserdata(L, BATCH);
  lua_pg_session *session = lua_touserdata(L, SESSION);
  pg_conn *conn = lua_pg_check_conn(L, session, self->call);
  bool inside = lua_pg_in_transaction(session) || conn->begin[0] != '\0' || !pg_conn_settled(conn);
  self->wraps = self->transaction && !inside;
  for (size_t i = 0; i < self->count; i++) {
    drop(&self->items[i].request);
    encode(L, self, i);
    if (self->items[i].statement->scan.kind > PG_CLASS_COPY) conn->dirty = true;
  }
  if (self->wraps)
    make(L, self, self->count + COMMIT, PG_REQUEST_EXECUTE, "COMMIT", 6)->unprepared = true;
  if (self->deadline > 0 && !inside) {
    add_limit(L, self);
    if (!self->wraps) conn->dirty = true;
  }
  self->ticket = task_wait_begin(L, self->call);
  self->left = 1;
  if (self->wraps) snprintf(conn->begin, sizeof conn->begin, "BEGIN");
  submit(L, self, self->count + LIMIT);
  for (size_t i = 0; i < self->count; i++)
    submit(L, self, i);
  submit(L, self, self->count + COMMIT);
  if (--self->left == 0) task_wake(self->ticket);
  return task_wait(L, self->ticket, abandon, self, 0, executed);
}

/* Whether one of the entry's values is a table, whose form is that of its parameter's type. */
static bool wants_types(lua_State *L, size_t i) {
  lua_rawgeti(L, VALUES, (lua_Integer)i + 1);
  lua_getfield(L, -1, "n");
  bool wants = false;
  for (lua_Integer k = lua_tointeger(L, -1); k > 1 && !wants; k--) {
    wants = lua_rawgeti(L, -2, k) == LUA_TTABLE;
    lua_pop(L, 1);
  }
  lua_pop(L, 2);
  return wants;
}

/* A statement that could not be described may need what an earlier one makes: it is sent without,
 * unless it cannot be. */
static int described(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  batch *self = lua_touserdata(L, BATCH);
  bool inside = lua_pg_in_transaction(lua_touserdata(L, SESSION));
  for (size_t i = 0; i < self->count; i++) {
    if (!failed(self, i)) continue;
    bool refused = self->items[i].request->outcome == PG_OUTCOME_ERROR;
    if (refused && !inside && !wants_types(L, i)) continue;
    push_failure(L, self, i);
    return lua_error(L);
  }
  return execute(L);
}

static int describe(lua_State *L) {
  batch *self = lua_touserdata(L, BATCH);
  lua_pg_session *session = lua_touserdata(L, SESSION);
  pg_conn *conn = lua_pg_check_conn(L, session, self->call);
  if (pg_conn_is_streaming(conn))
    err_raisef(L, ERR_VALIDATION, "database",
               "%s: a rows loop is open on this connection: end it first", self->call);
  size_t asked = 0;
  for (size_t i = 0; i < self->count; i++) {
    pg_statement *s = self->items[i].statement;
    bool again = i > 0 && self->items[i - 1].statement == s;
    lua_rawgeti(L, VALUES, (lua_Integer)i + 1);
    bool plain = lua_getfield(L, -1, "n") == LUA_TNUMBER && lua_tointeger(L, -1) == 1;
    lua_pop(L, 2);
    if (plain || s->described || again) continue;
    make(L, self, i, PG_REQUEST_DESCRIBE, s->text, s->length);
    asked++;
  }
  if (asked == 0) return execute(L);
  self->ticket = task_wait_begin(L, self->call);
  self->left = 1;
  for (size_t i = 0; i < self->count; i++)
    submit(L, self, i);
  if (--self->left == 0) task_wake(self->ticket);
  return task_wait(L, self->ticket, abandon, self, 0, described);
}

static int acquired(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  lua_pg_acquired(L, lua_touserdata(L, SESSION));
  return describe(L);
}

/* ---- the arguments ---- */

/* Copies entry i of the list, so that nobody changes it meanwhile, and looks at its SQL. `control`
 * is the connection whose transactions it may begin and end, or NULL. */
static void read_entry(lua_State *L, batch *self, lua_pg_pool *pool, const lua_pg_session *control,
                       lua_Integer i) {
  lua_rawgeti(L, LIST, i);
  int entry = lua_gettop(L);
  if (lua_type(L, entry) == LUA_TSTRING) {
    lua_createtable(L, 1, 0);
    lua_insert(L, entry);
    lua_rawseti(L, entry, 1);
  }
  if (!lua_istable(L, entry) || lua_rawgeti(L, entry, 1) != LUA_TSTRING)
    err_raisef(L, ERR_VALIDATION, "database",
               "%s: entry %d is neither SQL nor a list {sql, parameter, ...}", self->call, (int)i);
  size_t length;
  const char *sql = lua_tolstring(L, -1, &length);
  pg_statement *s = pg_pool_intern(pool->pool, sql, length);
  if (s == NULL) lua_pg_no_memory(L);
  self->items[i - 1].statement = s;
  lua_Integer n = (lua_Integer)lua_rawlen(L, entry);
  if (lua_getfield(L, entry, "n") == LUA_TNUMBER && lua_tointeger(L, -1) >= 1)
    n = lua_tointeger(L, -1);
  lua_settop(L, entry);
  if (n > 65536)
    err_raisef(L, ERR_LIMIT, "database", "%s: entry %d has more than 65535 parameters", self->call,
               (int)i);
  lua_pg_check_statement(L, s, control, 0, self->call);
  if (s->scan.statements > 1)
    err_raisef(L, ERR_VALIDATION, "database", "%s: entry %d has %u statements: one an entry",
               self->call, (int)i, s->scan.statements);
  lua_createtable(L, (int)n, 1);
  for (lua_Integer k = 1; k <= n; k++) {
    lua_rawgeti(L, entry, k);
    lua_rawseti(L, -2, k);
  }
  lua_pushinteger(L, n);
  lua_setfield(L, -2, "n");
  lua_rawseti(L, VALUES, i);
  lua_settop(L, VALUES);
}

static void read_options(lua_State *L, batch *self) {
  static const char *const NAMES[] = {"transaction", "deadline", NULL};
  opt_check(L, OPTIONS, self->call, NAMES);
  if (lua_isnil(L, OPTIONS)) return;
  opt_boolean(L, OPTIONS, self->call, "transaction", &self->transaction);
  opt_duration(L, OPTIONS, self->call, "deadline", &self->deadline);
}

/* `session` is NULL for a pool's batch. */
static void read_arguments(lua_State *L, lua_pg_pool *pool, const char *call,
                           const lua_pg_session *session) {
  bool inside = session != NULL && lua_pg_in_transaction(session);
  lua_Integer count = (lua_Integer)lua_rawlen(L, LIST);
  size_t room = ((size_t)count + EXTRA) * sizeof(item);
  batch *self = lua_newuserdatauv(L, sizeof *self + room, 0);
  memset(self, 0, sizeof *self + room);
  self->call = call;
  self->count = (size_t)count;
  self->transaction = true;
  self->deadline = pool->timeout;
  luaL_setmetatable(L, TYPE);
  lua_createtable(L, (int)count, 0); // stack: ..., BATCH, VALUES
  read_options(L, self);
  if (inside && !self->transaction)
    err_raisef(L, ERR_VALIDATION, "database",
               "%s: inside a transaction the statements are a part of it: transaction=false is "
               "for a pool or an acquired connection",
               call);
  for (lua_Integer i = 1; i <= count; i++)
    read_entry(L, self, pool, self->transaction ? NULL : session, i);
}

static void check_list(lua_State *L, const char *call) {
  lua_settop(L, OPTIONS);
  if (!lua_istable(L, LIST))
    err_raisef(L, ERR_VALIDATION, "database", "%s wants a list of {sql, parameter, ...}, got %s",
               call, luaL_typename(L, LIST));
}

static int nothing(lua_State *L) {
  return return_results(L, lua_touserdata(L, BATCH));
}

int lua_pg_pool_batch(lua_State *L) {
  lua_pg_pool *pool = lua_pg_check_pool(L, SELF, "pool:batch");
  check_list(L, "pool:batch");
  lua_pg_push_session(L, SELF);
  read_arguments(L, pool, "pool:batch", NULL);
  if (((batch *)lua_touserdata(L, BATCH))->count == 0) return nothing(L);
  lua_toclose(L, SESSION);
  return lua_pg_acquire(L, SESSION, "pool:batch", 0, acquired);
}

int lua_pg_session_batch(lua_State *L) {
  lua_pg_session *session = lua_pg_check_session(L, SELF, "connection:batch");
  check_list(L, "connection:batch");
  lua_pushvalue(L, SELF);
  read_arguments(L, session->pool, "connection:batch", session);
  if (((batch *)lua_touserdata(L, BATCH))->count == 0) return nothing(L);
  return describe(L);
}

void lua_pg_open_batch(lua_State *L) {
  luaL_newmetatable(L, TYPE);
  lua_pushcfunction(L, batch_gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
}
