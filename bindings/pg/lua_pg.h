/* lua_pg.h: what the glue files of nebula.pg share. */
#ifndef NEBULA_LUA_PG_H
#define NEBULA_LUA_PG_H

#include <stdbool.h>
#include <lua.h>
#include "async/task.h"
#include "json/json_buffer.h"
#include "pg/pool.h"

#define LUA_PG_POOL "nebula.pg.Pool"
#define LUA_PG_SESSION "nebula.pg.Session"
#define LUA_PG_VALUE "nebula.pg.Value"

/* A Pool. Whatever may be lost by an error while a request is built or a result decoded is kept
 * here, and freed by whoever comes next. */
typedef struct lua_pg_pool {
  pg_pool *pool;
  pg_request *building, *decoding;
  json_buffer buffer;
  size_t max_bytes;
  double timeout;
  lua_State *aside; /* kept by user value 1: where callbacks of the loop use Lua. At its bottom are
                     * the script's decoders */
  bool log_statements, log_values, trace;
  double slow_query; /* seconds; 0: none is too slow */
  double leak_after; /* seconds; 0: none is held for too long */
} lua_pg_pool;

/* A connection held by a script: from acquire, or for a transaction. */
typedef struct lua_pg_session {
  lua_pg_pool *pool;            /* kept by user value 1 */
  pg_conn *conn;                /* NULL where it was lost or given back */
  struct lua_pg_session *outer; /* whose connection this one uses: kept by user value 3 */
  bool transaction, ended;
  bool in_transaction; /* a :transaction runs on it, or inside of it */
  bool open;           /* what it began may be unfinished on the server */
  int attempts, retries;
  int cursors; /* opened so far */
  int depth;   /* 0: a transaction; above: a savepoint */
  lua_Integer
      hooks; /* on_commit functions before this savepoint; in user value 2 of the outermost */
  pg_request *command; /* that is waited for */
  loop_timer *pause;   /* before another try */
  task_ticket paused;
  char begin[200]; /* a transaction's BEGIN, or how an acquired connection is named */
} lua_pg_session;

/* The shapes of a result. */
enum { LUA_PG_QUERY, LUA_PG_ONE, LUA_PG_VALUE_OF, LUA_PG_EXEC, LUA_PG_ROWS };

/* ---- lua_pool.c ---- */
lua_pg_pool *lua_pg_check_pool(lua_State *L, int index, const char *call);

/* ---- lua_statements.c ---- */
int lua_pg_pool_statements(lua_State *L);

/* ---- lua_session.c ---- */
/* The session at index, alive; raises where it ended or lost its connection. */
lua_pg_session *lua_pg_check_session(lua_State *L, int index, const char *call);

/* Pushes an empty session of the pool at index. */
lua_pg_session *lua_pg_push_session(lua_State *L, int pool);
void lua_pg_open_session(lua_State *L);

/* Adds query, one, value and exec (and a pool's acquire) to the table on top. */
void lua_pg_add_queries(lua_State *L, bool session);

/* The connection that a session or its outermost has; NULL where it was lost. check raises then. */
pg_conn *lua_pg_session_conn(const lua_pg_session *session);
pg_conn *lua_pg_check_conn(lua_State *L, const lua_pg_session *session, const char *call);

/* Raises where so many wait for a connection already that no more may. */
void lua_pg_check_room(lua_State *L, const lua_pg_pool *pool, const char *call);

/* Waits until the session at index has a connection, then runs `done`, in which lua_pg_acquired
 * raises what kept it from one. */
int lua_pg_acquire(lua_State *L, int index, const char *what, lua_KContext context,
                   lua_KFunction done);
void lua_pg_acquired(lua_State *L, lua_pg_session *session);

bool lua_pg_in_transaction(const lua_pg_session *session);
void lua_pg_check_session_alive(lua_State *L, const lua_pg_session *session, const char *call);

/* Where the session runs on another's connection: what it left open is undone by what goes in front
 * of the next statement there. */
void lua_pg_undo(lua_pg_session *session);

/* The BEGIN of a transaction where it was not sent yet, or NULL. */
char *lua_pg_unsent_begin(pg_conn *conn);

/* Writes "SET <scope>application_name = ..." into `out`, from the option `name` of the table at
 * index and the pool's own; empty where the option is absent. What a server sees is plain ASCII. */
enum { LUA_PG_NAMING = 128 };
void lua_pg_read_name(lua_State *L, int index, const char *call, const lua_pg_pool *pool,
                      const char *scope, char out[LUA_PG_NAMING]);

/* Ends the session; its connection goes back to whom it came from. */
void lua_pg_session_return(lua_pg_session *session);
int lua_pg_session_close(lua_State *L);

/* ---- lua_query.c ---- */
int lua_pg_pool_query(lua_State *L); /* upvalue 1: the shape, 2: the call's name */
int lua_pg_session_query(lua_State *L);

/* Raises where the task that asks holds every connection of the pool itself. */
void lua_pg_check_own(lua_State *L, const lua_pg_pool *pool, const char *call);

/* The pool that the running query, one, value or exec belongs to. */
lua_pg_pool *lua_pg_pool_of_call(lua_State *L);

/* Refuses by name what may not be sent as a statement; session NULL: on a shared connection. */
void lua_pg_check_statement(lua_State *L, const pg_statement *s, const lua_pg_session *session,
                            int nparams, const char *call);

/* Sends a text without parameters on a held connection and waits for its end. */
int lua_pg_command(lua_State *L, lua_pg_session *session, const char *sql, const char *what,
                   lua_KContext context, lua_KFunction done);

/* In `done`: raises where the command failed, else returns its tag ("COMMIT"), valid until the next
 * request. */
const char *lua_pg_command_tag(lua_State *L, lua_pg_session *session);

/* Keeps the request until the next call, which frees it: where an error or the caller leaves it. */
void lua_pg_keep_decoding(lua_pg_pool *pool, pg_request *request);

/* A request under construction, freed by the next call where an error comes between. Raises in a
 * finalizer: one may run in the middle of another call, whose request and buffer it would take. */
pg_request *lua_pg_build(lua_State *L, lua_pg_pool *pool, pg_request_kind kind, const char *sql,
                         size_t length);
/* Where the pool is observed: notes who asks, from where and since when. */
void lua_pg_note_caller(lua_State *L, pg_request *request);
task_ticket lua_pg_ticket(lua_State *L, pg_request *request, const char *what);
void lua_pg_abandon(void *request);

/* Fills the request's place for messages, file:line, unless it has one. */
void lua_pg_note_where(lua_State *L, pg_request *request);

/* ---- lua_statement_log.c ---- */
/* Reads statement_logging= and slow_query= from the options at 1. */
void lua_pg_read_logging(lua_State *L, lua_pg_pool *self, const char *call);
void lua_pg_start_logging(lua_pg_pool *self);

/* ---- lua_params.c ---- */
/* Encodes the values from index `first` on as the parameters of the request. */
void lua_pg_encode(lua_State *L, lua_pg_pool *pool, pg_request *request, int first, int count);
void lua_pg_open_wrappers(lua_State *L);

/* ---- lua_values.c ---- */
/* Pushes what the shape wants of the result. */
void lua_pg_decode(lua_State *L, const lua_pg_pool *pool, const PGresult *result, int shape);

/* ---- lua_decoders.c ---- */
/* Pushes what is left to be done by the script's own decoders for what the shape takes of such a
 * result; false, and nothing is pushed, where they have no part in it. */
bool lua_pg_push_plan(lua_State *L, const lua_pg_pool *pool, const PGresult *result, int shape);

/* Does it to the value below the plan, which it pops. May run any Lua code. */
void lua_pg_run_plan(lua_State *L, int shape);
int lua_pg_pool_decoder(lua_State *L);

/* ---- lua_fail.c ---- */
/* Releases the request and raises what became of it. */
_Noreturn void lua_pg_fail(lua_State *L, lua_pg_pool *pool, pg_request *request);

/* Releases the request and pushes what became of it. */
void lua_pg_push_failure(lua_State *L, lua_pg_pool *pool, pg_request *request);
_Noreturn void lua_pg_no_memory(lua_State *L);

/* ---- lua_transaction.c ---- */
int lua_pg_pool_transaction(lua_State *L);
int lua_pg_session_transaction(lua_State *L);
int lua_pg_on_commit(lua_State *L);

/* ---- lua_rows.c ---- */
/* Pushes what a for-loop wants, over a request that it takes over and the caller submits. */
int lua_pg_stream_rows(lua_State *L, lua_pg_pool *pool, pg_request *request);

/* The same through a cursor of the session's transaction; submits and waits. */
int lua_pg_cursor_rows(lua_State *L, lua_pg_session *session, pg_request *plain);
void lua_pg_open_rows(lua_State *L);

/* ---- lua_gather.c ---- */
/* Whether the statement gives so many rows that they had better be decoded as they come. */
bool lua_pg_gathers(const pg_statement *statement);

/* Makes it such a request: before it is submitted. Of the arguments only the first stays. */
void lua_pg_gather_prepare(lua_State *L, pg_request *request);

/* What its caller waits for: gives the list of rows. */
int lua_pg_gathered(lua_State *L, int status, lua_KContext context);

/* ---- lua_heartbeat.c ---- */
/* Sets `heartbeat` in the table on top. */
void lua_pg_open_heartbeat(lua_State *L);

/* ---- lua_batch.c ---- */
void lua_pg_open_batch(lua_State *L);
int lua_pg_pool_batch(lua_State *L);
int lua_pg_session_batch(lua_State *L);

/* ---- lua_listen.c ---- */
void lua_pg_open_listen(lua_State *L);
int lua_pg_pool_listen(lua_State *L);

/* ---- lua_copy.c ---- */
void lua_pg_open_copy(lua_State *L);
int lua_pg_pool_copy_in(lua_State *L);
int lua_pg_pool_copy_out(lua_State *L);
int lua_pg_session_copy_in(lua_State *L);
int lua_pg_session_copy_out(lua_State *L);

#endif
