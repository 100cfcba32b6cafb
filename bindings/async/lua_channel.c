/* lua_channel.c: channels (bounded queues of values between tasks) and semaphores.
 *
 * Who is woken owns what it was woken for: a receiver's value and a waiter's permit are reserved
 * before it runs, so nobody overtakes it and a cancel that comes later loses nothing. */
#include "async/task_internal.h"

#include <lauxlib.h>
#include "base/lua_error.h"

#define CHANNEL_METATABLE "nebula.channel"
#define SEMAPHORE_METATABLE "nebula.semaphore"
#define PERMIT_METATABLE "nebula.permit"

/* uservalue 1: the queued values, keyed from head + 1 to tail. */
typedef struct channel {
  lua_Integer capacity;
  lua_Integer head, tail;
  lua_Integer reserved; /* values that woken receivers are about to take */
  lua_Integer granted;  /* places that woken senders are about to fill */
  bool closed;
  waiter_list senders, receivers;
} channel;

static channel *check_channel(lua_State *L) {
  return luaL_checkudata(L, 1, CHANNEL_METATABLE);
}

static int channel_new(lua_State *L) {
  lua_Integer capacity = luaL_optinteger(L, 1, 0);
  luaL_argcheck(L, capacity >= 0, 1, "a channel holds 0 or more values");
  channel *self = lua_newuserdatauv(L, sizeof *self, 1);
  *self = (channel){.capacity = capacity};
  lua_newtable(L);
  lua_setiuservalue(L, -2, 1);
  luaL_setmetatable(L, CHANNEL_METATABLE);
  return 1;
}

static lua_Integer channel_available(const channel *self) {
  return self->tail - self->head - self->reserved;
}

/* Each waiting receiver makes room for one value more: so a channel of 0 is a meeting point. */
static bool channel_has_room(const channel *self) {
  return channel_available(self) + self->granted <
         self->capacity + (lua_Integer)self->receivers.count;
}

static void channel_admit_sender(channel *self) {
  if (self->senders.first == NULL || !channel_has_room(self)) return;
  self->granted++;
  waiter_wake_first(&self->senders);
}

static void channel_store(lua_State *L, channel *self) { // stack: channel, value
  lua_getiuservalue(L, 1, 1);
  lua_pushvalue(L, 2);
  lua_rawseti(L, -2, self->tail + 1);
  lua_pop(L, 1);
  self->tail++;
  if (waiter_wake_first(&self->receivers)) self->reserved++;
}

static int channel_refuse(lua_State *L) {
  err_raisef(L, ERR_SCRIPT, NULL, "the channel is closed: it takes no more values");
}

static int channel_send_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  channel *self = check_channel(L);
  self->granted--;
  if (self->closed) return channel_refuse(L);
  channel_store(L, self);
  return 0;
}

/* channel:send(value): waits while the channel is full; raises once it is closed */
static int channel_send(lua_State *L) {
  channel *self = check_channel(L);
  if (lua_isnoneornil(L, 2)) {
    err_raisef(L, ERR_VALIDATION, NULL, "channel:send: nil marks the end, it cannot be sent");
  }
  lua_settop(L, 2);
  if (self->closed) return channel_refuse(L);
  if (self->senders.first == NULL && channel_has_room(self)) {
    channel_store(L, self);
    return 0;
  }
  task_ticket ticket = task_wait_begin(L, "channel:send");
  waiter *place = waiter_new(L);
  waiter_append(&self->senders, place, ticket);
  return task_wait(L, ticket, waiter_leave, place, 0, channel_send_done);
}

static int channel_take(lua_State *L, channel *self) {
  if (self->tail == self->head) {
    lua_pushnil(L);
    return 1;
  }
  lua_getiuservalue(L, 1, 1);
  lua_rawgeti(L, -1, ++self->head);
  lua_pushnil(L);
  lua_rawseti(L, -3, self->head);
  channel_admit_sender(self);
  return 1;
}

static int channel_receive_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  channel *self = check_channel(L);
  if (self->reserved > 0) self->reserved--;
  return channel_take(L, self);
}

/* channel:receive() -> value, or nil once it is closed and empty. Also channel(), so that
 * `for value in channel do` works. */
static int channel_receive(lua_State *L) {
  channel *self = check_channel(L);
  lua_settop(L, 1);
  if (channel_available(self) > 0) return channel_take(L, self);
  if (self->closed) return 0; /* what is still queued belongs to receivers that are woken */
  task_ticket ticket = task_wait_begin(L, "channel:receive");
  waiter *place = waiter_new(L);
  waiter_append(&self->receivers, place, ticket);
  channel_admit_sender(self);
  return task_wait(L, ticket, waiter_leave, place, 0, channel_receive_done);
}

static int channel_close(lua_State *L) {
  channel *self = check_channel(L);
  self->closed = true;
  self->granted += (lua_Integer)self->senders.count;
  waiter_wake_all(&self->senders);
  waiter_wake_all(&self->receivers);
  return 0;
}

static int channel_length(lua_State *L) {
  lua_pushinteger(L, channel_available(check_channel(L)));
  return 1;
}

/* ---- semaphore ---- */

typedef struct semaphore {
  lua_Integer permits, free;
  waiter_list waiters;
} semaphore;

static semaphore *check_semaphore(lua_State *L) {
  return luaL_checkudata(L, 1, SEMAPHORE_METATABLE);
}

static int semaphore_new(lua_State *L) {
  lua_Integer permits = luaL_checkinteger(L, 1);
  luaL_argcheck(L, permits > 0, 1, "a semaphore has 1 or more permits");
  semaphore *self = lua_newuserdatauv(L, sizeof *self, 0);
  *self = (semaphore){.permits = permits, .free = permits};
  luaL_setmetatable(L, SEMAPHORE_METATABLE);
  return 1;
}

/* A permit given back goes to the first that waits, or is free again. */
static void semaphore_give(lua_State *L, semaphore *self) {
  if (waiter_wake_first(&self->waiters)) return;
  if (self->free == self->permits) {
    err_raisef(L, ERR_SCRIPT, NULL, "semaphore:release: all %lld permits are free already",
               (long long)self->permits);
  }
  self->free++;
}

/* stack: semaphore, permit. A permit's uservalue is its semaphore until it is released. It is made
 * before there is anything to hold, so that a lack of memory loses no permit. */
static int semaphore_acquired(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  lua_settop(L, 2);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, 2, 1);
  return 1;
}

/* semaphore:acquire() -> permit, to be closed or released; semaphore:release() does it too */
static int semaphore_acquire(lua_State *L) {
  semaphore *self = check_semaphore(L);
  lua_settop(L, 1);
  lua_newuserdatauv(L, 0, 1);
  luaL_setmetatable(L, PERMIT_METATABLE);
  if (self->free > 0) {
    self->free--;
    return semaphore_acquired(L, LUA_OK, 0);
  }
  task_ticket ticket = task_wait_begin(L, "semaphore:acquire");
  waiter *place = waiter_new(L);
  waiter_append(&self->waiters, place, ticket);
  return task_wait(L, ticket, waiter_leave, place, 0, semaphore_acquired);
}

static int semaphore_release(lua_State *L) {
  semaphore_give(L, check_semaphore(L));
  return 0;
}

static int permit_release(lua_State *L) {
  luaL_checkudata(L, 1, PERMIT_METATABLE);
  lua_settop(L, 1);
  lua_getiuservalue(L, 1, 1);
  semaphore *self = luaL_testudata(L, 2, SEMAPHORE_METATABLE);
  if (self == NULL) return 0;
  lua_pushnil(L);
  lua_setiuservalue(L, 1, 1);
  semaphore_give(L, self);
  return 0;
}

static void new_class(lua_State *L, const char *name, const luaL_Reg *methods) {
  luaL_newmetatable(L, name);
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  lua_setfield(L, -2, "__index");
}

void task_open_channel(lua_State *L) {
  static const luaL_Reg CHANNEL[] = {
      {"send", channel_send}, {"receive", channel_receive}, {"close", channel_close}, {NULL, NULL}};
  static const luaL_Reg SEMAPHORE[] = {
      {"acquire", semaphore_acquire}, {"release", semaphore_release}, {NULL, NULL}};
  static const luaL_Reg PERMIT[] = {{"release", permit_release}, {NULL, NULL}};
  new_class(L, CHANNEL_METATABLE, CHANNEL);
  lua_pushcfunction(L, channel_receive);
  lua_setfield(L, -2, "__call");
  lua_pushcfunction(L, channel_length);
  lua_setfield(L, -2, "__len");
  lua_pushcfunction(L, channel_close);
  lua_setfield(L, -2, "__close");
  new_class(L, SEMAPHORE_METATABLE, SEMAPHORE);
  new_class(L, PERMIT_METATABLE, PERMIT);
  lua_pushcfunction(L, permit_release);
  lua_setfield(L, -2, "__close");
  lua_pop(L, 3);
  lua_pushcfunction(L, channel_new);
  lua_setfield(L, -2, "channel");
  lua_pushcfunction(L, semaphore_new);
  lua_setfield(L, -2, "semaphore");
}
