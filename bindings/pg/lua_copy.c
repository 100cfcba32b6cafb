/* lua_copy.c: copy_out and copy_in: COPY's data to and from strings, functions and objects.
 *
 * COPY takes no parameters, so args are put into the query as literals: the query is described
 * first, and each argument is written as a parameter of its type would be. */
#include "pg/lua_copy.h"
#include <stdlib.h>
#include <string.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "pg/types.h"

enum { SELF = 1, SQL, OTHER, OPTIONS, SESSION, COPY, VALUES };

static const char *const FORMATS[] = {"text", "csv", "binary", "ndjson", NULL};

static int copy_close(lua_State *L) {
  lua_pg_copy *self = luaL_checkudata(L, 1, LUA_PG_COPY);
  pg_request *r = self->request;
  self->request = NULL;
  pg_copy_json_free(self->objects);
  self->objects = NULL;
  if (r == NULL) return 0;
  pg_copy_abort(r);
  pg_request_release(r);
  return 0;
}

void lua_pg_open_copy(lua_State *L) {
  luaL_newmetatable(L, LUA_PG_COPY);
  static const luaL_Reg META[] = {{"__gc", copy_close}, {"__close", copy_close}, {NULL, NULL}};
  luaL_setfuncs(L, META, 0);
  lua_pop(L, 1);
}

/* Appends the value of parameter i as a literal; the request holds it encoded. */
static void add_literal(luaL_Buffer *b, const pg_request *r, long i) {
  const char *text = r->values[i];
  if (text == NULL) {
    luaL_addstring(b, "NULL");
    return;
  }
  if (r->formats[i] == 1) {
    static const char DIGITS[] = "0123456789abcdef";
    luaL_addstring(b, "'\\x");
    for (int k = 0; k < r->lengths[i]; k++) {
      luaL_addchar(b, DIGITS[(unsigned char)text[k] >> 4]);
      luaL_addchar(b, DIGITS[(unsigned char)text[k] & 15]);
    }
    luaL_addchar(b, '\'');
    return;
  }
  luaL_addstring(b, strchr(text, '\\') != NULL ? " E'" : "'");
  for (; *text != '\0'; text++) {
    if (*text == '\'' || *text == '\\') luaL_addchar(b, *text);
    luaL_addchar(b, *text);
  }
  luaL_addchar(b, '\'');
}

/* Appends the type that the server gave the parameter: an untyped literal may be taken for another,
 * as in `$1 + interval '1 day'`. A type of the user's own is left to the server. */
static void add_cast(luaL_Buffer *b, Oid type) {
  Oid element = pg_type_element(type);
  const char *name = pg_type_name(element != 0 ? element : type);
  if (name == NULL) return;
  luaL_addstring(b, "::pg_catalog.\"");
  luaL_addstring(b, name);
  luaL_addstring(b, element != 0 ? "\"[]" : "\"");
}

/* Pushes the query with its $n replaced, outside of quotes and comments. */
static void push_bound(lua_State *L, const char *sql, size_t length, const pg_request *r) {
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  const char *end = sql + length;
  while (sql < end) {
    const char *next = pg_scan_parameter(sql, end);
    luaL_addlstring(&b, sql, (size_t)(next - sql));
    if (next == end) break;
    char *after;
    long n = strtol(next + 1, &after, 10);
    if (n >= 1 && n <= r->nparams) {
      luaL_addchar(&b, '(');
      add_literal(&b, r, n - 1);
      add_cast(&b, r->statement->params[n - 1]);
      luaL_addchar(&b, ')');
    } else {
      luaL_addlstring(&b, next, (size_t)(after - next));
    }
    sql = after;
  }
  luaL_pushresult(&b);
}

static int go_on(lua_State *L, int status, lua_KContext context);

/* Sends the COPY statement on top of the stack and waits for the server's word. */
static int begin(lua_State *L) {
  lua_pg_session *session = lua_touserdata(L, SESSION);
  lua_pg_copy *self = lua_touserdata(L, COPY);
  pg_conn *conn = lua_pg_check_conn(L, session, self->call);
  size_t length;
  const char *sql = lua_tolstring(L, -1, &length);
  pg_request *r = lua_pg_build(L, session->pool, PG_REQUEST_COPY, sql, length);
  r->alone = true;
  r->copy = calloc(1, sizeof *r->copy);
  if (r->copy == NULL) lua_pg_no_memory(L);
  r->copy->json = self->format == LUA_PG_NDJSON && self->objects == NULL;
  r->copy->objects = self->objects;
  self->objects = NULL;
  r->copy->wanted = true;
  task_ticket ticket = lua_pg_ticket(L, r, self->call);
  session->pool->building = NULL;
  self->request = r;
  r->refs++; /* one for the wait, which abandoning gives up, one for the userdata */
  pg_pool_submit_to(session->pool->pool, conn, r);
  lua_settop(L, COPY);
  return task_wait(L, ticket, lua_pg_abandon, r, 0, go_on);
}

/* The COPY is over: how many rows, or what went wrong. */
static int finish(lua_State *L, lua_pg_copy *self) {
  lua_pg_session *session = lua_touserdata(L, SESSION);
  pg_request *r = self->request;
  self->request = NULL;
  if (r->outcome != PG_OUTCOME_OK) lua_pg_fail(L, session->pool, r);
  lua_Integer rows = strtoll(PQcmdTuples(r->result), NULL, 10);
  pg_request_release(r);
  if (!lua_rawequal(L, SELF, SESSION)) lua_pg_session_return(session);
  lua_pushinteger(L, rows);
  return 1;
}

int lua_pg_copy_wait(lua_State *L, lua_pg_copy *self) {
  pg_request *r = self->request;
  if (r->finished && r->copy->data.length == 0) return finish(L, self);
  task_ticket ticket = lua_pg_ticket(L, r, self->call);
  r->copy->wanted = true;
  r->refs++;
  return task_wait(L, ticket, lua_pg_abandon, r, 0, go_on);
}

static int written(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  lua_settop(L, COPY);
  return lua_pg_copy_out_step(L, lua_touserdata(L, COPY));
}

int lua_pg_copy_out_step(lua_State *L, lua_pg_copy *self) {
  for (;;) {
    pg_request *r = self->request;
    pg_copy *copy = r->copy;
    if (copy->data.length == 0) return lua_pg_copy_wait(L, self);
    if (lua_isfunction(L, OTHER)) {
      lua_pushvalue(L, OTHER);
    } else {
      lua_getfield(L, OTHER, "write");
      lua_pushvalue(L, OTHER);
    }
    lua_pushlstring(L, copy->data.data, copy->data.length);
    pg_copy_taken(r);
    lua_callk(L, lua_isfunction(L, OTHER) ? 1 : 2, 0, 0, written);
    lua_settop(L, COPY);
  }
}

static int go_on(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  lua_pg_copy *self = lua_touserdata(L, COPY);
  pg_request *r = self->request;
  pg_request_release(r); /* the wait's */
  if (self->out && r->copy->in)
    err_raisef(L, ERR_VALIDATION, "database", "%s: this COPY reads data: use copy_in", self->call);
  if (!self->out && r->copy->started && !r->copy->in)
    err_raisef(L, ERR_VALIDATION, "database", "%s: this COPY writes data: use copy_out",
               self->call);
  if (r->finished && r->copy->data.length == 0) return finish(L, self);
  return self->out ? lua_pg_copy_out_step(L, self) : lua_pg_copy_in_step(L, self);
}

static bool is_copy(lua_State *L) {
  size_t length;
  const char *sql = lua_tolstring(L, SQL, &length);
  pg_scan scan;
  pg_scan_sql(sql, length, &scan);
  return scan.kind == PG_CLASS_COPY;
}

/* Leaves the whole COPY statement on top: a query is wrapped, with its args in it. */
static int compose(lua_State *L, const pg_request *bound) {
  lua_pg_copy *self = lua_touserdata(L, COPY);
  size_t length;
  const char *sql = lua_tolstring(L, SQL, &length);
  if (is_copy(L)) {
    lua_pushvalue(L, SQL);
    return begin(L);
  }
  while (length > 0 &&
         (sql[length - 1] == ';' || sql[length - 1] == ' ' || sql[length - 1] == '\n'))
    length--;
  lua_pushliteral(L, "COPY (");
  if (bound != NULL)
    push_bound(L, sql, length, bound);
  else
    lua_pushlstring(L, sql, length);
  const char *format = self->objects != NULL           ? "binary"
                       : self->format == LUA_PG_NDJSON ? "text"
                                                       : FORMATS[self->format];
  lua_pushfstring(L, "\n) TO STDOUT (FORMAT %s)", format);
  lua_concat(L, 3);
  return begin(L);
}

/* Rows of several columns become objects, and so does the one of a row that has a name. False, with
 * the reason on top, where that cannot be. */
static bool read_columns(lua_State *L, lua_pg_copy *self, const PGresult *columns) {
  if (self->format != LUA_PG_NDJSON || (!self->named && PQnfields(columns) < 2)) return true;
  int refused = pg_copy_json_refuses(columns);
  if (refused >= 0) {
    const char *name = PQfname(columns, refused), *type = pg_type_name(PQftype(columns, refused));
    lua_pushfstring(L, "%s: ndjson has no form for the %s of column %s: select to_json(%s) AS %s",
                    self->call, type != NULL ? type : "type", name, name, name);
    return false;
  }
  if (self->named) lua_getfield(L, OPTIONS, "as");
  self->objects = pg_copy_json_new(columns, self->named ? lua_tostring(L, -1) : NULL);
  if (self->objects == NULL) lua_pg_no_memory(L);
  return true;
}

static int described(lua_State *L, int status, lua_KContext context) {
  (void)status;
  pg_request *r = (pg_request *)context;
  lua_pg_session *session = lua_touserdata(L, SESSION);
  lua_pg_copy *self = lua_touserdata(L, COPY);
  if (r->outcome != PG_OUTCOME_OK) lua_pg_fail(L, session->pool, r);
  lua_pg_keep_decoding(session->pool, r);
  bool well = read_columns(L, self, r->result);
  session->pool->decoding = NULL;
  pg_request_release(r);
  if (!well) err_raisef(L, ERR_VALIDATION, "database", "%s", lua_tostring(L, -1));
  if (!self->args) return compose(L, NULL);
  size_t length;
  const char *sql = lua_tolstring(L, SQL, &length);
  pg_request *bound = lua_pg_build(L, session->pool, PG_REQUEST_EXECUTE, sql, length);
  lua_settop(L, COPY);
  lua_getfield(L, OPTIONS, "args");
  int count = (int)lua_rawlen(L, -1);
  luaL_checkstack(L, count + 10, "too many args");
  for (int i = 1; i <= count; i++)
    lua_rawgeti(L, VALUES, i);
  lua_pg_encode(L, session->pool, bound, VALUES + 1, count);
  return compose(L, bound);
}

/* The session has its connection: describes the query where there are args, or columns to name. */
static int prepare(lua_State *L) {
  lua_pg_session *session = lua_touserdata(L, SESSION);
  lua_pg_copy *self = lua_touserdata(L, COPY);
  if (is_copy(L) && (self->args || self->named))
    err_raisef(L, ERR_VALIDATION, "database", "%s: give the query alone where it has args or `as`",
               self->call);
  if (is_copy(L) || (!self->args && self->format != LUA_PG_NDJSON)) return compose(L, NULL);
  pg_conn *conn = lua_pg_check_conn(L, session, self->call);
  size_t length;
  const char *sql = lua_tolstring(L, SQL, &length);
  pg_request *r = lua_pg_build(L, session->pool, PG_REQUEST_DESCRIBE, sql, length);
  task_ticket ticket = lua_pg_ticket(L, r, self->call);
  session->pool->building = NULL;
  pg_pool_submit_to(session->pool->pool, conn, r);
  return task_wait(L, ticket, lua_pg_abandon, r, (lua_KContext)r, described);
}

static int acquired(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  lua_pg_acquired(L, lua_touserdata(L, SESSION));
  return prepare(L);
}

static void read_options(lua_State *L, lua_pg_copy *self) {
  static const char *const OUT[] = {"args", "as", "format", NULL};
  static const char *const IN[] = {"columns", NULL};
  opt_check(L, OPTIONS, self->call, self->out ? OUT : IN);
  if (lua_isnil(L, OPTIONS) || !self->out) return;
  const char *format = "text";
  opt_string(L, OPTIONS, self->call, "format", &format, NULL);
  for (self->format = 0; FORMATS[self->format] != NULL; self->format++)
    if (strcmp(FORMATS[self->format], format) == 0) break;
  if (FORMATS[self->format] == NULL)
    err_raisef(L, ERR_VALIDATION, "database",
               "%s: format is \"text\", \"csv\", \"binary\" or \"ndjson\", got \"%s\"", self->call,
               format);
  const char *as;
  self->named = opt_string(L, OPTIONS, self->call, "as", &as, NULL);
  if (self->named && self->format != LUA_PG_NDJSON)
    err_raisef(L, ERR_VALIDATION, "database", "%s: `as` is for the format ndjson", self->call);
  int type = lua_getfield(L, OPTIONS, "args");
  if (type != LUA_TNIL && type != LUA_TTABLE)
    err_raisef(L, ERR_VALIDATION, "database", "%s: args is a list, got %s", self->call,
               luaL_typename(L, -1));
  self->args = type == LUA_TTABLE && lua_rawlen(L, -1) > 0;
  lua_pop(L, 1);
}

static bool has_method(lua_State *L, int index, const char *name) {
  if (!lua_istable(L, index) && !lua_isuserdata(L, index)) return false;
  int type = lua_getfield(L, index, name);
  lua_pop(L, 1);
  return type != LUA_TNIL;
}

/* Both calls, on a pool and on a session. */
static int start(lua_State *L, bool out, bool held) {
  const char *call = out ? "copy_out" : "copy_in";
  if (held)
    lua_pg_check_session(L, SELF, call);
  else
    lua_pg_check_pool(L, SELF, call);
  luaL_checktype(L, SQL, LUA_TSTRING);
  lua_settop(L, OPTIONS);
  bool fits = out ? lua_isfunction(L, OTHER) || has_method(L, OTHER, "write")
                  : lua_isfunction(L, OTHER) || lua_isstring(L, OTHER) || lua_istable(L, OTHER) ||
                        has_method(L, OTHER, "read");
  if (!fits)
    err_raisef(
        L, ERR_VALIDATION, "database",
        out ? "%s wants a function(chunk) or an object with a write method, got %s"
            : "%s wants a string, a function, a list of rows, or an object with a read method, "
              "got %s",
        call, luaL_typename(L, OTHER));
  if (held)
    lua_pushvalue(L, SELF);
  else
    lua_pg_push_session(L, SELF);
  if (!held) lua_toclose(L, SESSION);
  lua_pg_copy *self = lua_newuserdatauv(L, sizeof *self, 0);
  *self = (lua_pg_copy){.call = call, .out = out};
  luaL_setmetatable(L, LUA_PG_COPY);
  read_options(L, self);
  lua_toclose(L, COPY);
  if (held) return prepare(L);
  return lua_pg_acquire(L, SESSION, call, 0, acquired);
}

int lua_pg_pool_copy_out(lua_State *L) {
  return start(L, true, false);
}

int lua_pg_session_copy_out(lua_State *L) {
  return start(L, true, true);
}

int lua_pg_pool_copy_in(lua_State *L) {
  return start(L, false, false);
}

int lua_pg_session_copy_in(lua_State *L) {
  return start(L, false, true);
}
