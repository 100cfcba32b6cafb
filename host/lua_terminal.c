/* lua_terminal.c: `nebula.terminal`: single keys from the terminal, for views that redraw
 * themselves.
 *
 *   local terminal <close> = require("nebula.terminal").open()
 *   local keys = terminal:read(2)    -- what was typed, or nil after 2 s
 *
 * The terminal is opened anew, so that standard output stays as it is, and put into raw mode until
 * it is closed: Ctrl-C is a key like another. */
#include "lua_host.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <lauxlib.h>
#include "async/task.h"
#include "base/lua_error.h"
#include "base/lua_options.h"

#define METATABLE "nebula.terminal"
enum { MOST_TYPED = 256 };

/* Freed when libuv has closed the handle. */
typedef struct tty {
  uv_tty_t handle;
  char typed[MOST_TYPED]; /* what has not been read yet; more is dropped */
  size_t length;
  bool ended, waiting;
  task_ticket ticket;
  loop *loop;
  loop_timer *timer;
} tty;

static tty **check(lua_State *L) {
  return luaL_checkudata(L, 1, METATABLE);
}

static void wake(tty *self) {
  if (self->waiting) task_wake(self->ticket);
}

static void give_buffer(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer) {
  (void)suggested;
  tty *self = handle->data;
  *buffer = uv_buf_init(self->typed + self->length, (unsigned)(MOST_TYPED - self->length));
}

static void arrived(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer) {
  (void)buffer;
  tty *self = stream->data;
  if (count == UV_ENOBUFS) {
    self->length = 0;
  } else if (count < 0) {
    self->ended = true;
    uv_read_stop(stream);
  } else {
    self->length += (size_t)count;
  }
  if (count != 0) wake(self);
}

static void closed(uv_handle_t *handle) {
  free(handle->data);
}

static int terminal_close(lua_State *L) {
  tty **slot = check(L);
  tty *self = *slot;
  if (self == NULL) return 0;
  *slot = NULL;
  loop_timer_stop(self->loop, self->timer);
  uv_tty_set_mode(&self->handle, UV_TTY_MODE_NORMAL);
  uv_close((uv_handle_t *)&self->handle, closed);
  return 0;
}

static int terminal_open(lua_State *L) {
  tty **slot = lua_newuserdatauv(L, sizeof *slot, 0);
  *slot = NULL;
  luaL_setmetatable(L, METATABLE);
  int descriptor = open("/dev/tty", O_RDWR | O_CLOEXEC);
  tty *self = descriptor < 0 ? NULL : calloc(1, sizeof *self);
  if (self == NULL) {
    if (descriptor >= 0) close(descriptor);
    err_raisef(L, ERR_IO, NULL, "there is no terminal here");
  }
  self->loop = task_loop(L);
  int rc = uv_tty_init(&self->loop->uv, &self->handle, descriptor, 1);
  if (rc < 0) {
    close(descriptor);
    free(self);
    err_raisef(L, ERR_IO, NULL, "the terminal cannot be used: %s", uv_strerror(rc));
  }
  self->handle.data = self;
  *slot = self;
  uv_tty_set_mode(&self->handle, UV_TTY_MODE_RAW);
  uv_read_start((uv_stream_t *)&self->handle, give_buffer, arrived);
  return 1;
}

static void read_timed_out(void *data) {
  tty *self = data;
  self->timer = NULL;
  wake(self);
}

static void read_over(tty *self) {
  self->waiting = false;
  loop_timer_stop(self->loop, self->timer);
  self->timer = NULL;
}

static void read_abandon(void *data) {
  read_over(data);
}

static int push_typed(lua_State *L, tty *self) {
  if (self->length == 0) return 0;
  lua_pushlstring(L, self->typed, self->length);
  self->length = 0;
  return 1;
}

static int read_done(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  tty *self = *check(L);
  if (self == NULL) return 0;
  read_over(self);
  return push_typed(L, self);
}

/* read(seconds) -> what was typed, or nil where nothing was */
static int terminal_read(lua_State *L) {
  tty *self = *check(L);
  if (self == NULL) err_raisef(L, ERR_SCRIPT, NULL, "the terminal is closed");
  double seconds = opt_to_duration(L, 2, "terminal:read", "the time to wait");
  if (self->length > 0) return push_typed(L, self);
  if (self->ended) err_raisef(L, ERR_IO, NULL, "the terminal is gone");
  self->ticket = task_wait_begin(L, "terminal:read");
  self->waiting = true;
  self->timer = loop_timer_start(self->loop, seconds, read_timed_out, self);
  return task_wait(L, self->ticket, read_abandon, self, 0, read_done);
}

int lua_open_terminal(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"read", terminal_read}, {"close", terminal_close}, {NULL, NULL}};
  if (luaL_newmetatable(L, METATABLE)) {
    luaL_newlib(L, methods);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, terminal_close);
    lua_setfield(L, -2, "__gc");
    lua_pushcfunction(L, terminal_close);
    lua_setfield(L, -2, "__close");
  }
  lua_pop(L, 1);
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, terminal_open);
  lua_setfield(L, -2, "open");
  return 1;
}
