/* lua_listen.c: pool:listen(channel, fn): each notification runs fn in a task of its own.
 *
 * A listener that is not closed goes on, whether its handle is kept or not: the registry holds it
 * until it is over. The core's events come from the loop, so tasks are made on the pool's Lua
 * thread, under a protected call. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "pg/listen.h"
#include "pg/lua_pg.h"

#define TYPE "nebula.pg.Listener"
#define CALL "pool:listen"

/* User values. */
enum { POOL = 1, FUNCTION, ON_RECONNECT, CHANNEL };

typedef struct listener {
  lua_pg_pool *pool;
  pg_subscription *subscription; /* NULL once it is over */
  task_ticket ticket;            /* of the call that waits for the first answer */
  bool confirmed;
  char why[320]; /* it is over */
} listener;

/* Its registry entry goes, and with it what keeps the handle. */
static void finish(lua_State *L, listener *self) {
  pg_subscription *s = self->subscription;
  self->subscription = NULL;
  if (s == NULL) return;
  pg_subscription_end(s);
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, self);
}

/* What is to be called, in a task. */
typedef struct event {
  listener *self;
  const char *payload; /* NULL: it listens again */
  int pid;
} event;

static int spawn_event(lua_State *L) {
  const event *e = lua_touserdata(L, 1);
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, e->self) != LUA_TUSERDATA) return 0;
  int handle = lua_gettop(L);
  if (lua_getiuservalue(L, handle, e->payload != NULL ? FUNCTION : ON_RECONNECT) == LUA_TNIL)
    return 0;
  if (e->payload != NULL) lua_pushstring(L, e->payload);
  lua_getiuservalue(L, handle, CHANNEL);
  if (e->payload != NULL) lua_pushinteger(L, e->pid);
  task_spawn(L, lua_gettop(L) - handle - 1);
  return 0;
}

static int finish_aside(lua_State *L) {
  finish(L, lua_touserdata(L, 1));
  return 0;
}

/* A lack of memory costs the event alone. */
static void call_aside(const listener *self, lua_CFunction fn, void *argument) {
  lua_State *L = self->pool->aside;
  if (!lua_checkstack(L, 4)) return;
  int top = lua_gettop(L);
  lua_pushcfunction(L, fn);
  lua_pushlightuserdata(L, argument);
  lua_pcall(L, 1, 0, 0);
  lua_settop(L, top);
}

static void on_notified(void *data, const char *payload, int pid) {
  listener *self = data;
  call_aside(self, spawn_event, &(event){self, payload, pid});
}

static void on_confirmed(void *data, bool again) {
  listener *self = data;
  self->confirmed = true;
  if (again)
    call_aside(self, spawn_event, &(event){.self = self});
  else
    task_wake(self->ticket);
}

static void on_over(void *data, const char *why) {
  listener *self = data;
  snprintf(self->why, sizeof self->why, "%s", why);
  task_wake(self->ticket);
  call_aside(self, finish_aside, self);
}

static const pg_subscription_events EVENTS = {on_confirmed, on_notified, on_over};

static int listener_close(lua_State *L) {
  finish(L, luaL_checkudata(L, 1, TYPE));
  return 0;
}

static int listener_tostring(lua_State *L) {
  const listener *self = luaL_checkudata(L, 1, TYPE);
  lua_getiuservalue(L, 1, CHANNEL);
  lua_pushfstring(L, "listener of %s%s", lua_tostring(L, -1),
                  self->subscription == NULL ? " (ended)" : "");
  return 1;
}

/* The Lua state may be closing: the registry is left alone. */
static int listener_gc(lua_State *L) {
  listener *self = luaL_checkudata(L, 1, TYPE);
  if (self->subscription != NULL) pg_subscription_end(self->subscription);
  self->subscription = NULL;
  return 0;
}

static int listening(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  listener *self = lua_touserdata(L, -1);
  if (self->confirmed) return 1;
  lua_pushfstring(L, CALL ": %s", self->why);
  bool closed = pg_pool_is_closed(self->pool->pool);
  err_raise(L, &(err_info){.kind = closed ? ERR_POOL : ERR_DATABASE,
                           .source = "database",
                           .code = closed ? NULL : "08001",
                           .retryable = !closed,
                           .message = lua_tostring(L, -1)});
}

/* The caller was cancelled; its error passes, so nobody has the handle. */
static void abandon(void *data) {
  listener *self = data;
  call_aside(self, finish_aside, self);
}

static void check_arguments(lua_State *L, double *ping) {
  static const char *const NAMES[] = {"on_reconnect", "ping", NULL};
  size_t length;
  const char *channel = luaL_checklstring(L, 2, &length);
  luaL_checktype(L, 3, LUA_TFUNCTION);
  if (length == 0 || length > PG_CHANNEL_MOST || memchr(channel, '\0', length) != NULL)
    err_raisef(L, ERR_VALIDATION, "database",
               CALL ": the name of a channel has 1 to %d bytes, none of them NUL", PG_CHANNEL_MOST);
  opt_check(L, 4, CALL, NAMES);
  if (lua_isnil(L, 4)) return;
  opt_duration(L, 4, CALL, "ping", ping);
  int type = lua_getfield(L, 4, "on_reconnect");
  if (type != LUA_TNIL && type != LUA_TFUNCTION)
    err_raisef(L, ERR_VALIDATION, NULL, CALL ": on_reconnect wants a function, got %s",
               lua_typename(L, type));
  lua_replace(L, 4);
}

int lua_pg_pool_listen(lua_State *L) {
  lua_pg_pool *pool = lua_pg_check_pool(L, 1, CALL);
  double ping = 10;
  lua_settop(L, 4);
  check_arguments(L, &ping);
  if (lua_istable(L, 4)) { /* options without on_reconnect */
    lua_pushnil(L);
    lua_replace(L, 4);
  }
  listener *self = lua_newuserdatauv(L, sizeof *self, CHANNEL);
  memset(self, 0, sizeof *self);
  self->pool = pool;
  luaL_setmetatable(L, TYPE);
  static const int FROM[] = {[POOL] = 1, [FUNCTION] = 3, [ON_RECONNECT] = 4, [CHANNEL] = 2};
  for (int i = POOL; i <= CHANNEL; i++) {
    lua_pushvalue(L, FROM[i]);
    lua_setiuservalue(L, -2, i);
  }
  self->ticket = task_wait_begin(L, CALL);
  self->subscription =
      pg_subscribe(pool->pool, lua_tostring(L, 2), fmax(ping, 0.01), &EVENTS, self);
  if (self->subscription == NULL) lua_pg_no_memory(L);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, self);
  return task_wait(L, self->ticket, abandon, self, 0, listening);
}

void lua_pg_open_listen(lua_State *L) {
  static const luaL_Reg META[] = {{"__gc", listener_gc},
                                  {"__close", listener_close},
                                  {"__tostring", listener_tostring},
                                  {NULL, NULL}};
  luaL_newmetatable(L, TYPE);
  luaL_setfuncs(L, META, 0);
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, listener_close);
  lua_setfield(L, -2, "close");
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}
