/* lua_socket.c: `nebula.socket`: streams over unix sockets, between programs of one user.
 *
 *   local server = socket.listen(path)     -- the file is made, and taken away by close
 *   local peer = server:accept()           -- waits
 *   local peer = socket.connect(path)      -- waits
 *   peer:read() -> bytes | nil at the end; peer:write(bytes) -> the bytes that are still to be
 * sent; peer:flush(), which waits until all of it is sent; peer:user() -> uid; peer:close()
 *
 * A stream lives in memory of its own until libuv has closed its handle; the userdata points to it.
 * Of each stream one task at a time may wait in a call. */
#include "lua_host.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <uv.h>
#include <lauxlib.h>
#include "async/task.h"
#include "base/lua_error.h"

#define METATABLE "nebula.socket"

enum { READ_BYTES = 64 * 1024, BACKLOG = 8 };

typedef struct stream {
  uv_pipe_t pipe; /* first: a handle is its stream */
  uv_connect_t connecting;
  task_ticket waiter, flusher;
  bool waits, flushes, ended, arrived; /* arrived: a connection can be accepted */
  int status;                          /* of the connection or of the last write */
  char *read;                          /* what has arrived, READ_BYTES at most */
  size_t length;
} stream;

static _Noreturn void fail(lua_State *L, const char *call, int rc) {
  err_raise(L,
            &(err_info){.kind = rc == UV_ENOENT || rc == UV_ECONNREFUSED ? ERR_NOT_FOUND : ERR_IO,
                        .code = uv_err_name(rc),
                        .message = lua_pushfstring(L, "%s: %s", call, uv_strerror(rc))});
}

static stream *check(lua_State *L, int index) {
  stream **self = luaL_checkudata(L, index, METATABLE);
  if (*self == NULL) err_raisef(L, ERR_SCRIPT, NULL, "the socket is closed");
  return *self;
}

/* Pushes a userdata with a new stream in it. */
static stream *stream_push(lua_State *L) {
  stream **self = lua_newuserdatauv(L, sizeof *self, 0);
  *self = NULL;
  luaL_setmetatable(L, METATABLE);
  stream *made = calloc(1, sizeof *made);
  if (made == NULL) err_raisef(L, ERR_LIMIT, NULL, "socket: out of memory");
  int rc = uv_pipe_init(&task_loop(L)->uv, &made->pipe, 0);
  if (rc < 0) {
    free(made);
    fail(L, "socket", rc);
  }
  return *self = made;
}

static void closed(uv_handle_t *handle) {
  stream *self = (stream *)handle;
  free(self->read);
  free(self);
}

static int socket_close(lua_State *L) {
  stream **self = luaL_checkudata(L, 1, METATABLE);
  stream *gone = *self;
  *self = NULL;
  if (gone == NULL) return 0;
  if (gone->waits) task_wake(gone->waiter);
  if (gone->flushes) task_wake(gone->flusher);
  uv_close((uv_handle_t *)&gone->pipe, closed);
  return 0;
}

/* ---- waiting ---- */

static void wake(stream *self) {
  if (self->waits) task_wake(self->waiter);
  self->waits = false;
}

static void abandon(void *data) {
  stream *self = data;
  self->waits = false;
  uv_read_stop((uv_stream_t *)&self->pipe);
}

static task_ticket wait_begin(lua_State *L, stream *self, const char *call) {
  if (self->waits) err_raisef(L, ERR_SCRIPT, NULL, "%s: another task waits for this socket", call);
  self->waiter = task_wait_begin(L, call);
  self->waits = true;
  return self->waiter;
}

/* ---- listening ---- */

static void on_connection(uv_stream_t *server, int status) {
  stream *self = (stream *)server;
  if (status < 0) return;
  self->arrived = true;
  wake(self);
}

/* libuv would cut a longer path off, and so name another file. */
static const char *check_path(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  enum { LONGEST = sizeof((struct sockaddr_un *)NULL)->sun_path - 1 };
  if (strlen(path) > LONGEST) {
    err_raisef(L, ERR_CONFIG, NULL, "%s: a socket's path has at most %d bytes", path, LONGEST);
  }
  return path;
}

static int socket_listen(lua_State *L) {
  const char *path = check_path(L);
  stream *self = stream_push(L);
  int rc = uv_pipe_bind(&self->pipe, path);
  if (rc == 0) rc = uv_listen((uv_stream_t *)&self->pipe, BACKLOG, on_connection);
  if (rc < 0) fail(L, path, rc);
  return 1;
}

static int accept_done(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  stream *self = check(L, 1);
  stream *peer = stream_push(L);
  self->arrived = false;
  int rc = uv_accept((uv_stream_t *)&self->pipe, (uv_stream_t *)&peer->pipe);
  if (rc < 0) fail(L, "socket:accept", rc);
  return 1;
}

static int socket_accept(lua_State *L) {
  stream *self = check(L, 1);
  if (self->arrived) return accept_done(L, LUA_OK, 0);
  return task_wait(L, wait_begin(L, self, "socket:accept"), abandon, self, 0, accept_done);
}

/* ---- connecting ---- */

static void on_connected(uv_connect_t *request, int status) {
  stream *self = (stream *)request->handle;
  self->status = status;
  wake(self);
}

static int connect_done(lua_State *L, int status, lua_KContext context) { // stack: path, socket
  (void)status, (void)context;
  stream *self = check(L, 2);
  if (self->status < 0) fail(L, lua_tostring(L, 1), self->status);
  return 1;
}

static int socket_connect(lua_State *L) {
  const char *path = check_path(L);
  lua_settop(L, 1);
  stream *self = stream_push(L);
  task_ticket ticket = wait_begin(L, self, "socket.connect");
  uv_pipe_connect(&self->connecting, &self->pipe, path, on_connected);
  return task_wait(L, ticket, abandon, self, 0, connect_done);
}

/* ---- reading and writing ---- */

static void on_room(uv_handle_t *handle, size_t suggested, uv_buf_t *out) {
  (void)suggested;
  stream *self = (stream *)handle;
  if (self->read == NULL) self->read = malloc(READ_BYTES);
  *out = uv_buf_init(self->read, self->read != NULL ? READ_BYTES : 0);
}

static void on_read(uv_stream_t *handle, ssize_t length, const uv_buf_t *buffer) {
  (void)buffer;
  stream *self = (stream *)handle;
  if (length == 0) return;
  uv_read_stop(handle);
  self->ended = length < 0;
  self->length = length < 0 ? 0 : (size_t)length;
  wake(self);
}

static int read_done(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  stream *self = *(stream **)luaL_checkudata(L, 1, METATABLE);
  lua_pushnil(L);
  if (self == NULL || self->length == 0) return 1; // the end, or closed meanwhile
  lua_pushlstring(L, self->read, self->length);
  self->length = 0;
  return 1;
}

static int socket_read(lua_State *L) {
  stream *self = check(L, 1);
  if (self->ended || self->length > 0) return read_done(L, LUA_OK, 0);
  task_ticket ticket = wait_begin(L, self, "socket:read");
  int rc = uv_read_start((uv_stream_t *)&self->pipe, on_room, on_read);
  if (rc < 0) {
    self->waits = false;
    fail(L, "socket:read", rc);
  }
  return task_wait(L, ticket, abandon, self, 0, read_done);
}

typedef struct outgoing {
  uv_write_t request; /* first */
  char bytes[];
} outgoing;

static size_t unsent(const stream *self) {
  return uv_stream_get_write_queue_size((const uv_stream_t *)&self->pipe);
}

static void on_written(uv_write_t *request, int status) {
  stream *self = (stream *)request->handle;
  if (status < 0) self->status = status;
  free(request);
  if (!self->flushes || (unsent(self) > 0 && status >= 0)) return;
  self->flushes = false;
  task_wake(self->flusher);
}

/* write(bytes) -> unsent: queues them. A failure is raised by the next call. */
static int socket_write(lua_State *L) {
  stream *self = check(L, 1);
  size_t length;
  const char *bytes = luaL_checklstring(L, 2, &length);
  if (self->status < 0) fail(L, "socket:write", self->status);
  luaL_argcheck(L, length <= UINT_MAX, 2, "longer than 4 GiB");
  outgoing *out = malloc(sizeof *out + length);
  if (out == NULL) err_raisef(L, ERR_LIMIT, NULL, "socket:write: out of memory");
  memcpy(out->bytes, bytes, length);
  uv_buf_t buffer = uv_buf_init(out->bytes, (unsigned)length);
  int rc = uv_write(&out->request, (uv_stream_t *)&self->pipe, &buffer, 1, on_written);
  if (rc < 0) {
    free(out);
    fail(L, "socket:write", rc);
  }
  lua_pushinteger(L, (lua_Integer)unsent(self));
  return 1;
}

static void flush_abandon(void *data) {
  stream *self = data;
  self->flushes = false;
}

static int flush_done(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  stream *self = check(L, 1);
  if (self->status < 0) fail(L, "socket:flush", self->status);
  return 0;
}

static int socket_flush(lua_State *L) {
  stream *self = check(L, 1);
  if (self->status < 0 || unsent(self) == 0) return flush_done(L, LUA_OK, 0);
  if (self->flushes) err_raisef(L, ERR_SCRIPT, NULL, "socket:flush: another task waits in it");
  self->flusher = task_wait_begin(L, "socket:flush");
  self->flushes = true;
  return task_wait(L, self->flusher, flush_abandon, self, 0, flush_done);
}

/* user() -> the uid of the process at the other end, as the kernel knows it */
static int socket_user(lua_State *L) {
  stream *self = check(L, 1);
  struct ucred peer;
  socklen_t length = sizeof peer;
  uv_os_fd_t fd;
  int rc = uv_fileno((uv_handle_t *)&self->pipe, &fd);
  if (rc == 0 && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) rc = -errno;
  if (rc < 0) fail(L, "socket:user", rc);
  lua_pushinteger(L, peer.uid);
  return 1;
}

int lua_open_socket(lua_State *L) {
  static const luaL_Reg methods[] = {{"accept", socket_accept},
                                     {"read", socket_read},
                                     {"write", socket_write},
                                     {"flush", socket_flush},
                                     {"user", socket_user},
                                     {"close", socket_close},
                                     {NULL, NULL}};
  static const luaL_Reg functions[] = {
      {"listen", socket_listen}, {"connect", socket_connect}, {NULL, NULL}};
  luaL_newmetatable(L, METATABLE);
  lua_pushcfunction(L, socket_close);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, socket_close);
  lua_setfield(L, -2, "__close");
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  luaL_newlib(L, functions);
  return 1;
}
