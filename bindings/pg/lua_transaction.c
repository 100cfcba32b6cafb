/* lua_transaction.c: a function in a transaction, a function in a savepoint.
 *
 * BEGIN travels in front of the first statement, in its segment, so an empty transaction costs
 * nothing and a short one a round trip less. Where the function raises, ROLLBACK is waited for;
 * where its task is cancelled, the session's __close gives the connection back, and the pool rolls
 * it back before anybody else gets it. A lost answer to COMMIT is an outcome of its own. */
#include "pg/lua_pg.h"
#include <stdio.h>
#include <string.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "base/lua_options.h"

/* Stack of pool:transaction. Above RAN are the function's results or its error. */
enum { SELF = 1, FUNCTION, OPTIONS, SESSION, HANDLER, RAN = HANDLER };

static const char *isolation_level(lua_State *L, const char *name) {
  static const char *const LEVELS[] = {"serializable", "repeatable read", "read committed",
                                       "read uncommitted", NULL};
  for (int i = 0; LEVELS[i] != NULL; i++)
    if (strcmp(name, LEVELS[i]) == 0) return LEVELS[i];
  err_raisef(
      L, ERR_VALIDATION, "database",
      "transaction: isolation is \"serializable\", \"repeatable read\" or \"read committed\", "
      "got \"%s\"",
      name);
}

static void read_options(lua_State *L, lua_pg_session *session) {
  static const char *const NAMES[] = {"isolation", "read_only", "deferrable", "retries",
                                      "deadline",  "name",      NULL};
  opt_check(L, OPTIONS, "transaction", NAMES);
  lua_Integer retries = 10;
  bool read_only = false, deferrable = false;
  const char *isolation = NULL;
  if (!lua_isnoneornil(L, OPTIONS)) {
    opt_integer(L, OPTIONS, "transaction", "retries", 0, 1000, &retries);
    opt_boolean(L, OPTIONS, "transaction", "read_only", &read_only);
    opt_boolean(L, OPTIONS, "transaction", "deferrable", &deferrable);
    opt_string(L, OPTIONS, "transaction", "isolation", &isolation, NULL);
  }
  if (isolation != NULL) isolation = isolation_level(L, isolation);
  char naming[LUA_PG_NAMING];
  lua_pg_read_name(L, OPTIONS, "transaction", session->pool, "LOCAL ", naming);
  session->retries = (int)retries;
  snprintf(session->begin, sizeof session->begin, "BEGIN%s%s%s%s%s%s",
           isolation != NULL ? " ISOLATION LEVEL " : "", isolation != NULL ? isolation : "",
           read_only ? " READ ONLY" : "", deferrable ? " DEFERRABLE" : "",
           naming[0] != '\0' ? ";" : "", naming);
}

static int ran(lua_State *L, int status, lua_KContext context);

static int run(lua_State *L) {
  lua_pg_session *session = lua_touserdata(L, SESSION);
  pg_conn *conn = lua_pg_session_conn(session);
  lua_settop(L, HANDLER);
  size_t n = strlen(conn->begin); /* the ROLLBACK of one before may wait there */
  if (session->depth == 0)
    snprintf(conn->begin + n, sizeof conn->begin - n, "%s%s", n > 0 ? ";" : "", session->begin);
  session->ended = false;
  session->open = true;
  lua_pushvalue(L, FUNCTION);
  lua_pushvalue(L, SESSION);
  return ran(L, lua_pcallk(L, 1, LUA_MULTRET, HANDLER, 0, ran), 0);
}

/* The list of the transaction's on_commit functions, made where there is none. */
static void push_hooks(lua_State *L, int session) {
  lua_pushvalue(L, session);
  const lua_pg_session *at = lua_touserdata(L, -1);
  while (at->depth > 0 && at->outer != NULL) {
    lua_getiuservalue(L, -1, 3);
    lua_remove(L, -2);
    at = lua_touserdata(L, -1);
  }
  if (lua_getiuservalue(L, -1, 2) == LUA_TNIL) {
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_setiuservalue(L, -3, 2);
  }
  lua_remove(L, -2);
}

/* Forgets the functions that were registered after the first `keep`. */
static void drop_hooks(lua_State *L, int session, lua_Integer keep) {
  push_hooks(L, session);
  for (lua_Integer n = (lua_Integer)lua_rawlen(L, -1); n > keep; n--) {
    lua_pushnil(L);
    lua_rawseti(L, -2, n);
  }
  lua_pop(L, 1);
}

/* The transaction is over: its connection goes back to whom it came from. */
static void end_session(lua_State *L) {
  lua_pg_session *session = lua_touserdata(L, SESSION);
  session->ended = true;
  lua_pg_session_return(session);
}

static int return_results(lua_State *L) {
  return lua_gettop(L) - RAN;
}

/* Runs the i-th function that waits for the commit, then the rest; results stay below. */
static int run_hooks(lua_State *L, int status, lua_KContext i) {
  (void)status;
  push_hooks(L, SESSION);
  for (;;) {
    int type = lua_rawgeti(L, -1, (lua_Integer)++i);
    if (type == LUA_TNIL) break;
    lua_insert(L, -2); // stack: ..., function, hooks
    lua_pop(L, 1);
    lua_callk(L, 0, 0, i, run_hooks);
    push_hooks(L, SESSION);
  }
  lua_pop(L, 2);
  return return_results(L);
}

static int released(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  lua_pg_session *session = lua_touserdata(L, SESSION);
  lua_pg_command_tag(L, session);
  session->open = false;
  return return_results(L);
}

/* The error on top stands for a conflict that another try may not meet. */
static bool worth_a_rerun(lua_State *L, const lua_pg_session *session) {
  if (session->depth > 0 || session->attempts >= session->retries || !err_is(L, -1)) return false;
  lua_getfield(L, -1, "code");
  const char *code = lua_tostring(L, -1);
  bool worth = code != NULL && (strcmp(code, "40001") == 0 || strcmp(code, "40P01") == 0);
  lua_pop(L, 1);
  return worth;
}

static void on_pause_over(void *data) {
  lua_pg_session *session = data;
  session->pause = NULL;
  task_wake(session->paused);
}

static void abandon_pause(void *data) {
  lua_pg_session *session = data;
  loop_timer_stop(pg_pool_loop(session->pool->pool), session->pause);
  session->pause = NULL;
}

static int rested(lua_State *L, int status, lua_KContext context) { // stack: ..., error
  (void)status;
  (void)context;
  lua_pg_session *session = lua_touserdata(L, SESSION);
  if (lua_pg_session_conn(session) == NULL) return lua_error(L); /* lost meanwhile */
  drop_hooks(L, SESSION, 0);
  return run(L);
}

/* The transaction is undone, and why is on top. */
static int rerun_or_raise(lua_State *L) {
  lua_pg_session *session = lua_touserdata(L, SESSION);
  if (!worth_a_rerun(L, session) || lua_pg_session_conn(session) == NULL) {
    end_session(L);
    return lua_error(L);
  }
  session->attempts++;
  double most = 0.002 * (double)(1 << (session->attempts < 7 ? session->attempts : 7));
  double seconds = most * ((double)(uv_hrtime() % 1000) / 1000);
  session->paused = task_wait_begin(L, "the transaction's next try");
  session->pause =
      loop_timer_start(pg_pool_loop(session->pool->pool), seconds, on_pause_over, session);
  return task_wait(L, session->paused, abandon_pause, session, 0, rested);
}

static int rolled_back(lua_State *L, int status, lua_KContext context) { // stack: ..., error
  (void)status;
  (void)context;
  lua_pg_session *session = lua_touserdata(L, SESSION);
  pg_request_release(session->command);
  session->command = NULL;
  session->open = false;
  return rerun_or_raise(L);
}

static int committed(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  lua_pg_session *session = lua_touserdata(L, SESSION);
  session->open = false;
  if (session->command->outcome == PG_OUTCOME_ERROR) { /* nothing of it stands */
    lua_pg_push_failure(L, session->pool, session->command);
    session->command = NULL;
    return rerun_or_raise(L);
  }
  const char *tag = lua_pg_command_tag(L, session);
  bool rolled_back = strcmp(tag, "ROLLBACK") == 0;
  end_session(L);
  if (rolled_back)
    err_raise(L, &(err_info){.kind = ERR_DATABASE,
                             .source = "database",
                             .code = "25P02",
                             .message = "the transaction was rolled back: a statement in it had "
                                        "failed, and its error was caught; nest tx:transaction "
                                        "around what may fail"});
  return run_hooks(L, LUA_OK, 0);
}

/* The error on top is an interrupt of the task, which waits for nobody. */
static bool is_interrupt(lua_State *L) {
  if (!err_is(L, -1)) return true;
  lua_getfield(L, -1, "kind");
  const char *kind = lua_tostring(L, -1);
  bool interrupt = kind != NULL && strcmp(kind, ERR_CANCELLED) == 0;
  lua_pop(L, 1);
  return interrupt;
}

/* The function raised: the error is on top. */
static int failed(lua_State *L) {
  lua_pg_session *session = lua_touserdata(L, SESSION);
  pg_conn *conn = lua_pg_session_conn(session);
  session->ended = true;
  if (session->depth > 0) {
    drop_hooks(L, SESSION, session->hooks);
    lua_pg_undo(session);
    return lua_error(L);
  }
  /* Behind a statement that is being cancelled a ROLLBACK would wait for the server's answer, which
   * a deadline does not: the pool rolls back before it gives the connection to anybody. */
  if (conn == NULL || conn->cancelling || lua_pg_unsent_begin(conn) != NULL || is_interrupt(L)) {
    lua_pg_undo(session);
    end_session(L);
    return lua_error(L);
  }
  return lua_pg_command(L, session, "ROLLBACK", "ROLLBACK", 0, rolled_back);
}

static int ran(lua_State *L, int status, lua_KContext context) {
  (void)context;
  lua_pg_session *session = lua_touserdata(L, SESSION);
  if (status != LUA_OK && status != LUA_YIELD) return failed(L);
  if (session->ended)
    err_raisef(L, ERR_VALIDATION, "database",
               "transaction: its function closed the handle, so nothing of it stands: return to "
               "commit, raise an error to roll back");
  pg_conn *conn = lua_pg_check_conn(L, session, "COMMIT");
  char *begin = lua_pg_unsent_begin(conn);
  session->ended = true; /* what another task sends now would come after the end */
  if (session->depth > 0) {
    char sql[64];
    snprintf(sql, sizeof sql, "RELEASE SAVEPOINT nebula_%d", session->depth);
    return lua_pg_command(L, session, sql, "RELEASE SAVEPOINT", 0, released);
  }
  if (begin != NULL) { /* nothing was sent */
    *begin = '\0';
    end_session(L);
    return run_hooks(L, LUA_OK, 0);
  }
  return lua_pg_command(L, session, "COMMIT", "COMMIT", 0, committed);
}

static int started(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  lua_pg_acquired(L, lua_touserdata(L, SESSION));
  lua_pushcfunction(L, err_handler);
  return run(L);
}

static int pass_results(lua_State *L, int status, lua_KContext base) {
  (void)status;
  return lua_gettop(L) - (int)base;
}

/* Calls the method with what was given, but for the deadline. */
static int without_deadline(lua_State *L) { // upvalues: method, self, function, options
  for (int i = 1; i <= 4; i++)
    lua_pushvalue(L, lua_upvalueindex(i));
  lua_callk(L, 3, LUA_MULTRET, 0, pass_results);
  return pass_results(L, LUA_OK, 0);
}

/* deadline= is nebula.task.deadline around the whole. False where the option is absent. */
static bool has_deadline(lua_State *L, double *seconds) {
  return lua_istable(L, OPTIONS) && opt_duration(L, OPTIONS, "transaction", "deadline", seconds);
}

static int under_deadline(lua_State *L, double seconds, lua_CFunction method) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_getfield(L, -1, "nebula");
  lua_getfield(L, -1, "task");
  lua_getfield(L, -1, "deadline");
  lua_pushnumber(L, seconds);
  lua_pushcfunction(L, method);
  lua_pushvalue(L, SELF);
  lua_pushvalue(L, FUNCTION);
  lua_newtable(L);
  for (lua_pushnil(L); lua_next(L, OPTIONS) != 0;) { // stack: ..., copy, name, value
    lua_pushvalue(L, -2);
    lua_insert(L, -2);
    lua_settable(L, -4);
  }
  lua_pushnil(L);
  lua_setfield(L, -2, "deadline");
  lua_pushcclosure(L, without_deadline, 4); // stack: ..., deadline, seconds, body
  int base = lua_gettop(L) - 3;
  lua_callk(L, 2, LUA_MULTRET, base, pass_results);
  return pass_results(L, LUA_OK, base);
}

int lua_pg_pool_transaction(lua_State *L) {
  double seconds;
  lua_pg_check_pool(L, SELF, "pool:transaction");
  luaL_checktype(L, FUNCTION, LUA_TFUNCTION);
  lua_settop(L, OPTIONS);
  if (has_deadline(L, &seconds)) return under_deadline(L, seconds, lua_pg_pool_transaction);
  lua_pg_session *session = lua_pg_push_session(L, SELF);
  session->transaction = true;
  read_options(L, session);
  lua_toclose(L, SESSION);
  return lua_pg_acquire(L, SESSION, "pool:transaction", 0, started);
}

static int savepoint_set(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  lua_pg_command_tag(L, lua_touserdata(L, SESSION));
  lua_pushcfunction(L, err_handler);
  return run(L);
}

int lua_pg_session_transaction(lua_State *L) {
  double seconds;
  lua_pg_session *outer = lua_pg_check_session(L, SELF, "transaction");
  luaL_checktype(L, FUNCTION, LUA_TFUNCTION);
  lua_settop(L, OPTIONS);
  if (has_deadline(L, &seconds)) return under_deadline(L, seconds, lua_pg_session_transaction);
  lua_getiuservalue(L, SELF, 1); // stack: outer, function, options, pool
  lua_pg_session *session = lua_pg_push_session(L, -1);
  lua_replace(L, SESSION);
  session->transaction = true;
  read_options(L, session);
  lua_pushvalue(L, SELF);
  lua_setiuservalue(L, SESSION, 3);
  if (outer->in_transaction)
    err_raisef(L, ERR_VALIDATION, "database",
               outer->transaction
                   ? "transaction: another one is open inside this one: nest the inner one's "
                     "handle, or wait for its end"
                   : "transaction: this connection is in one already: nest the transaction's own "
                     "handle");
  session->outer = outer;
  outer->in_transaction = true;
  lua_toclose(L, SESSION);
  if (!outer->transaction) { /* an acquired connection: a transaction of its own */
    lua_pushcfunction(L, err_handler);
    return run(L);
  }
  session->depth = outer->depth + 1;
  push_hooks(L, SESSION);
  session->hooks = (lua_Integer)lua_rawlen(L, -1);
  lua_pop(L, 1);
  char sql[48];
  snprintf(sql, sizeof sql, "SAVEPOINT nebula_%d", session->depth);
  return lua_pg_command(L, session, sql, "SAVEPOINT", 0, savepoint_set);
}

int lua_pg_on_commit(lua_State *L) {
  lua_pg_session *session = lua_pg_check_session(L, 1, "on_commit");
  luaL_checktype(L, 2, LUA_TFUNCTION);
  if (!session->transaction)
    err_raisef(L, ERR_VALIDATION, "database", "on_commit: this connection is in no transaction");
  push_hooks(L, 1);
  lua_pushvalue(L, 2);
  lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
  return 0;
}
