/* lua_httpd.c: `nebula.httpd`: a small HTTP server for scripts.
 *
 *   local server <close> = require("nebula.httpd").listen { port = 9090 }
 *   local request = server:accept()                  -- waits
 *   request.method, request.path, request.headers, request.body
 *   request:answer { status = 200, body = "hello" }
 *
 * A request that is collected unanswered gets a 500. */
#include "lua_host.h"

#include <ctype.h>
#include <lauxlib.h>
#include "async/task.h"
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "httpd.h"

#define SERVER_METATABLE "nebula.httpd.server"
#define REQUEST_METATABLE "nebula.httpd.request"
enum { DEFAULT_MAX_BODY = 1024 * 1024, MOST_BODY = 64 * 1024 * 1024 };

typedef struct lua_server {
  httpd *server;
  bool waiting;
  task_ticket ticket;
} lua_server;

/* The userdata's user value is the table with the request's fields. */
typedef struct lua_request {
  httpd_request *request; /* NULL once answered */
} lua_request;

static const char *const LISTEN_OPTIONS[] = {"host", "port", "max_body", NULL};
static const char *const ANSWER_OPTIONS[] = {"status", "headers", "body", NULL};

static void queued(void *data) {
  lua_server *self = data;
  if (self->waiting) task_wake(self->ticket);
}

static lua_server *check_server(lua_State *L) {
  lua_server *self = luaL_checkudata(L, 1, SERVER_METATABLE);
  if (self->server == NULL) err_raisef(L, ERR_SCRIPT, NULL, "the server is closed");
  return self;
}

static int server_close(lua_State *L) {
  lua_server *self = luaL_checkudata(L, 1, SERVER_METATABLE);
  if (self->server != NULL) httpd_close(self->server);
  self->server = NULL;
  if (self->waiting) task_wake(self->ticket);
  return 0;
}

static int server_port(lua_State *L) {
  lua_pushinteger(L, httpd_port(check_server(L)->server));
  return 1;
}

/* ---- requests ---- */

typedef struct collected {
  lua_State *L;
  int index;
} collected;

/* Repeated headers are joined with ", ", names are lower-case. */
static void add_header(void *data, const char *name, const char *value) {
  const collected *self = data;
  lua_State *L = self->L;
  luaL_Buffer buffer;
  luaL_buffinit(L, &buffer);
  for (const char *c = name; *c != 0; c++)
    luaL_addchar(&buffer, (char)tolower((unsigned char)*c));
  luaL_pushresult(&buffer);
  lua_pushvalue(L, -1);
  if (lua_rawget(L, self->index) == LUA_TSTRING) {
    lua_pushfstring(L, "%s, %s", lua_tostring(L, -1), value);
  } else {
    lua_pushstring(L, value);
  }
  lua_remove(L, -2);
  lua_rawset(L, self->index);
}

static bool push_request(lua_State *L, httpd *server) {
  lua_request *self = lua_newuserdatauv(L, sizeof *self, 1);
  self->request = NULL;
  luaL_setmetatable(L, REQUEST_METATABLE);
  self->request = httpd_take(server);
  if (self->request == NULL) {
    lua_pop(L, 1);
    return false;
  }
  lua_createtable(L, 0, 4); // stack: request, fields
  lua_pushstring(L, httpd_method(self->request));
  lua_setfield(L, -2, "method");
  lua_pushstring(L, httpd_path(self->request));
  lua_setfield(L, -2, "path");
  size_t length;
  const char *body = httpd_body(self->request, &length);
  lua_pushlstring(L, body, length);
  lua_setfield(L, -2, "body");
  lua_newtable(L);
  httpd_headers(self->request, add_header, &(collected){.L = L, .index = lua_gettop(L)});
  lua_setfield(L, -2, "headers");
  lua_setiuservalue(L, -2, 1);
  return true;
}

static int accept_done(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  lua_server *self = luaL_checkudata(L, 1, SERVER_METATABLE);
  self->waiting = false;
  if (self->server == NULL) return 0;
  return push_request(L, self->server) ? 1 : 0;
}

static void accept_abandon(void *data) {
  lua_server *self = data;
  self->waiting = false;
}

/* accept() -> the next request, or nil once the server is closed */
static int server_accept(lua_State *L) {
  lua_server *self = check_server(L);
  if (self->waiting) err_raisef(L, ERR_SCRIPT, NULL, "server:accept: another task waits already");
  if (push_request(L, self->server)) return 1;
  self->ticket = task_wait_begin(L, "server:accept");
  self->waiting = true;
  return task_wait(L, self->ticket, accept_abandon, self, 0, accept_done);
}

static int request_index(lua_State *L) { // stack: request, name
  luaL_getmetafield(L, 1, "methods");
  lua_pushvalue(L, 2);
  if (lua_rawget(L, -2) != LUA_TNIL) return 1;
  lua_getiuservalue(L, 1, 1);
  lua_pushvalue(L, 2);
  lua_rawget(L, -2);
  return 1;
}

static void set_headers(lua_State *L, lua_request *self) { // stack: request, answer
  if (lua_getfield(L, 2, "headers") == LUA_TNIL) return;
  luaL_checktype(L, -1, LUA_TTABLE);
  lua_pushnil(L);
  while (lua_next(L, -2) != 0) {
    const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : NULL;
    const char *value = lua_tostring(L, -1);
    if (name == NULL || value == NULL || !httpd_set_header(self->request, name, value)) {
      err_raisef(L, ERR_VALIDATION, NULL, "request:answer: headers are texts by name, at most 16");
    }
    lua_pop(L, 1);
  }
}

/* answer{status=, headers=, body=} */
static int request_answer(lua_State *L) {
  lua_request *self = luaL_checkudata(L, 1, REQUEST_METATABLE);
  if (self->request == NULL) err_raisef(L, ERR_SCRIPT, NULL, "the request is answered already");
  lua_settop(L, 2);
  opt_check(L, 2, "request:answer", ANSWER_OPTIONS);
  lua_Integer status = 200;
  const char *body = "";
  size_t length = 0;
  opt_integer(L, 2, "request:answer", "status", 200, 599, &status);
  opt_string(L, 2, "request:answer", "body", &body, &length);
  set_headers(L, self);
  httpd_answer(self->request, (unsigned)status, body, length);
  self->request = NULL;
  return 0;
}

static int request_drop(lua_State *L) {
  lua_request *self = luaL_checkudata(L, 1, REQUEST_METATABLE);
  if (self->request != NULL) httpd_drop(self->request);
  self->request = NULL;
  return 0;
}

/* ---- the module ---- */

static int listen_on(lua_State *L) {
  static const char call[] = "httpd.listen";
  opt_check(L, 1, call, LISTEN_OPTIONS);
  lua_Integer port = 0, max_body = DEFAULT_MAX_BODY;
  const char *host = NULL, *problem = NULL;
  opt_integer(L, 1, call, "port", 0, 65535, &port);
  opt_integer(L, 1, call, "max_body", 0, MOST_BODY, &max_body);
  opt_string(L, 1, call, "host", &host, NULL);
  lua_server *self = lua_newuserdatauv(L, sizeof *self, 0);
  *self = (lua_server){0};
  luaL_setmetatable(L, SERVER_METATABLE);
  self->server = httpd_open(&task_loop(L)->uv, host, (unsigned short)port, (size_t)max_body, queued,
                            self, &problem);
  if (self->server == NULL) {
    err_raisef(L, ERR_IO, NULL, "cannot listen on %s port %d: %s",
               host != NULL ? host : "127.0.0.1", (int)port, problem);
  }
  return 1;
}

static void metatable(lua_State *L, const char *name, const luaL_Reg *methods,
                      lua_CFunction closed) {
  luaL_newmetatable(L, name); // stack: module, metatable
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  lua_setfield(L, -2, "methods");
  lua_pushcfunction(L, closed);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, closed);
  lua_setfield(L, -2, "__close");
}

int lua_open_httpd(lua_State *L) {
  static const luaL_Reg server[] = {
      {"accept", server_accept}, {"port", server_port}, {"close", server_close}, {NULL, NULL}};
  static const luaL_Reg request[] = {{"answer", request_answer}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"listen", listen_on}, {NULL, NULL}};
  luaL_newlib(L, functions);
  metatable(L, SERVER_METATABLE, server, server_close);
  lua_getfield(L, -1, "methods");
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  metatable(L, REQUEST_METATABLE, request, request_drop);
  lua_pushcfunction(L, request_index);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  return 1;
}
