/* lua_fail.c: what became of a request, as an error object. */
#include "pg/lua_pg.h"
#include <stdio.h>
#include <string.h>
#include <lauxlib.h>
#include "base/lua_error.h"

#define SOURCE "database"

void lua_pg_no_memory(lua_State *L) {
  luaL_error(L, "not enough memory");
  __builtin_unreachable();
}

static const char *field(const PGresult *result, int code) {
  const char *text = PQresultErrorField(result, code);
  return text != NULL ? text : "";
}

static bool starts(const char *code, const char *with) {
  return strncmp(code, with, strlen(with)) == 0;
}

/* The same statement may succeed when it is sent again. */
static bool is_retryable(const char *code) {
  return strcmp(code, "40001") == 0 || strcmp(code, "40P01") == 0 || strcmp(code, "55P03") == 0 ||
         starts(code, "08") || starts(code, "53") || starts(code, "57P0");
}

static const char *kind_of(const char *code, bool deadline) {
  if (strcmp(code, "23505") == 0) return ERR_CONFLICT;
  if (strcmp(code, "57014") == 0 && deadline) return ERR_TIMEOUT;
  return ERR_DATABASE;
}

static void add_line(luaL_Buffer *b, const char *label, const char *text) {
  if (*text == '\0') return;
  if (luaL_bufflen(b) > 0) luaL_addchar(b, '\n');
  luaL_addstring(b, label);
  luaL_addstring(b, text);
}

/* Pushes the server's detail, hint, place and so on, a line each; the statement last. */
static void push_detail(lua_State *L, const pg_request *r) {
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  const PGresult *result = r->result;
  add_line(&b, "detail: ", field(result, PG_DIAG_MESSAGE_DETAIL));
  add_line(&b, "hint: ", field(result, PG_DIAG_MESSAGE_HINT));
  add_line(&b, "constraint: ", field(result, PG_DIAG_CONSTRAINT_NAME));
  add_line(&b, "position: ", field(result, PG_DIAG_STATEMENT_POSITION));
  add_line(&b, "context: ", field(result, PG_DIAG_CONTEXT));
  if (r->statement != NULL) {
    char text[400];
    snprintf(text, sizeof text, "%.*s%s", 390, r->statement->text,
             r->statement->length > 390 ? "..." : "");
    add_line(&b, "statement: ", text);
  }
  luaL_pushresult(&b);
}

static void set_field(lua_State *L, const char *name, const char *value) {
  if (*value == '\0') return;
  lua_pushstring(L, value);
  lua_setfield(L, -2, name);
}

static void push_server_error(lua_State *L, const pg_request *r) {
  const char *code = field(r->result, PG_DIAG_SQLSTATE);
  const char *message = field(r->result, PG_DIAG_MESSAGE_PRIMARY);
  if (*message == '\0') message = PQresultErrorMessage(r->result);
  push_detail(L, r);
  err_push(L, &(err_info){.kind = kind_of(code, r->timeout > 0),
                          .source = SOURCE,
                          .code = *code != '\0' ? code : NULL,
                          .message = message,
                          .detail = lua_tostring(L, -1),
                          .retryable = is_retryable(code)});
  set_field(L, "constraint", field(r->result, PG_DIAG_CONSTRAINT_NAME));
  set_field(L, "table", field(r->result, PG_DIAG_TABLE_NAME));
  set_field(L, "column", field(r->result, PG_DIAG_COLUMN_NAME));
  set_field(L, "position", field(r->result, PG_DIAG_STATEMENT_POSITION));
}

static void push(lua_State *L, const char *kind, const char *code, bool retryable,
                 const char *message) {
  err_push(L, &(err_info){.kind = kind,
                          .source = SOURCE,
                          .code = code,
                          .retryable = retryable,
                          .message = message});
}

static const char *explain_limit(lua_State *L, const lua_pg_pool *pool, const pg_request *r) {
  size_t limit = r->max_bytes > 0 ? r->max_bytes : pool->max_bytes;
  if ((r->streaming && !r->gathered) || r->copy != NULL)
    return lua_pushfstring(L,
                           "one row is larger than max_bytes (%I): ask for a part of it, or raise "
                           "the limit",
                           (LUAI_UACINT)limit);
  return lua_pushfstring(L,
                         "the result is larger than max_bytes (%I): stream it with :rows, ask for "
                         "less, or raise the limit",
                         (LUAI_UACINT)limit);
}

/* No connection: `code` is what the server refused it with, "" where none answered. */
static void push_refusal(lua_State *L, const char *code, const char *why) {
  bool answered = *code != '\0';
  push(L, ERR_DATABASE, answered ? code : "08001", !answered || is_retryable(code),
       lua_pushfstring(L, "%s; is %sDATABASE_URL right?", why,
                       answered ? "" : "the server running, and is "));
}

static void push_outcome(lua_State *L, const lua_pg_pool *pool, const pg_request *r) {
  const char *why = r->message != NULL ? r->message : "";
  const char *place = pg_pool_place(pool->pool);
  switch (r->outcome) {
  case PG_OUTCOME_LOST:
    push(L, ERR_DATABASE, "08006", true,
         lua_pushfstring(L, "the connection to %s was lost before the statement was done: %s",
                         place, why));
    break;
  case PG_OUTCOME_UNKNOWN:
    push(L, ERR_UNKNOWN_OUTCOME, "08007", false,
         lua_pushfstring(L,
                         "the connection to %s was lost before the answer came: the statement may "
                         "have been done or not; look before you do it again: %s",
                         place, why));
    break;
  case PG_OUTCOME_CONNECT: push_refusal(L, pg_pool_refusal(pool->pool), why); break;
  case PG_OUTCOME_WAITED: push(L, ERR_POOL, NULL, true, why); break;
  case PG_OUTCOME_TIMEOUT:
    push(L, ERR_TIMEOUT, NULL, true,
         lua_pushfstring(L, "the statement was not done within its deadline of %f s", r->timeout));
    break;
  case PG_OUTCOME_LIMIT: push(L, ERR_LIMIT, NULL, false, explain_limit(L, pool, r)); break;
  case PG_OUTCOME_UNFIT: push(L, ERR_VALIDATION, NULL, false, why); break;
  case PG_OUTCOME_CLOSED:
    push(L, ERR_POOL, NULL, false, *why != '\0' ? why : "the pool is closed");
    break;
  case PG_OUTCOME_OK:
  case PG_OUTCOME_ERROR:
  case PG_OUTCOME_MEMORY: push(L, ERR_LIMIT, NULL, false, "not enough memory"); break;
  }
}

void lua_pg_push_failure(lua_State *L, lua_pg_pool *pool, pg_request *request) {
  lua_pg_keep_decoding(pool, request);
  if (request->result != NULL && PQresultStatus(request->result) == PGRES_FATAL_ERROR &&
      request->outcome == PG_OUTCOME_ERROR)
    push_server_error(L, request);
  else
    push_outcome(L, pool, request);
  pool->decoding = NULL;
  pg_request_release(request);
}

void lua_pg_fail(lua_State *L, lua_pg_pool *pool, pg_request *request) {
  lua_pg_push_failure(L, pool, request);
  lua_error(L);
  __builtin_unreachable();
}
