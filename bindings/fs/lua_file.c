/* lua_file.c: file handles: fs.open(path, mode) and the methods of what it gives.
 *
 * The descriptor lives in malloc'd memory. While an operation is on the thread pool the handle is
 * busy: another operation is refused by name, and a handle that is collected or closed meanwhile is
 * closed when the thread is done. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "base/lua_work.h"
#include "fs/fs_ops.h"
#include "fs/lua_fs.h"

enum { READ_PRESET = 64 * 1024, READ_MOST = 64 * 1024 * 1024 };

static const char FILE_TYPE[] = "nebula.fs.file";

typedef struct fs_file {
  int fd; /* -1 where it is closed */
  bool busy, dropped;
  char path[];
} fs_file;

typedef struct file_job {
  lua_work base;
  fs_file *file;
  int flags, error;
  const char *data; /* Lua's memory, anchored */
  size_t length;
  char *result; /* owned */
} file_job;

static void file_free(fs_file *self) {
  if (self->fd >= 0) (void)close(self->fd);
  free(self);
}

static void job_begun(lua_work *work) {
  ((file_job *)work)->file->busy = true;
}

static void job_ended(lua_work *work) {
  fs_file *file = ((file_job *)work)->file;
  file->busy = false;
  if (file->dropped) file_free(file);
}

static void job_destroy(lua_work *work) {
  free(((file_job *)work)->result);
}

static int file_collect(lua_State *L) {
  fs_file **box = luaL_checkudata(L, 1, FILE_TYPE);
  fs_file *self = *box;
  *box = NULL;
  if (self == NULL) return 0;
  self->dropped = self->busy;
  if (!self->busy) file_free(self);
  return 0;
}

static fs_file *check_file(lua_State *L, const char *call) {
  fs_file *self = *(fs_file **)luaL_checkudata(L, 1, FILE_TYPE);
  if (self == NULL || self->fd < 0)
    err_raisef(L, ERR_VALIDATION, NULL, "%s: the file is closed", call);
  if (self->busy) {
    err_raisef(L, ERR_VALIDATION, NULL,
               "%s: another task is in the middle of an operation on %s; give each task its own "
               "handle",
               call, self->path);
  }
  return self;
}

/* Pushes a job on the file, which stays anchored with it. */
static file_job *job_begin(lua_State *L, fs_file *file, const lua_work_class *class) {
  file_job *job = lua_work_new(L, sizeof *job, class);
  job->file = file;
  return job;
}

/* Anchors the handle and the string at index 2, if any, and waits. The job is at the top. */
static int job_wait(lua_State *L, lua_KFunction done) {
  lua_createtable(L, 2, 0);
  lua_pushvalue(L, 1);
  lua_rawseti(L, -2, 1);
  lua_pushvalue(L, 2);
  lua_rawseti(L, -2, 2);
  lua_work_anchor(L, -2);
  return lua_work_wait(L, -1, done);
}

static file_job *job_end(lua_State *L, lua_KContext context) {
  file_job *self = (file_job *)context;
  if (self->error != 0) {
    const fs_file *file = *(fs_file **)lua_touserdata(L, 1);
    fs_raise(L, self->base.class->call, file == NULL ? "the file" : file->path, self->error);
  }
  return self;
}

/* ---- open ---- */

static void open_run(lua_work *work) {
  file_job *self = (file_job *)work;
  self->file->fd = open(self->file->path, self->flags | O_CLOEXEC, 0666);
  self->error = self->file->fd < 0 ? errno : 0;
  struct stat info;
  if (self->error == 0 && fstat(self->file->fd, &info) == 0 && S_ISDIR(info.st_mode))
    self->error = EISDIR;
}

static int open_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)job_end(L, context);
  lua_settop(L, 1);
  return 1;
}

/* Pushes a handle that is closed yet. */
static fs_file *push_file(lua_State *L, const char *path) {
  fs_file **box = lua_newuserdatauv(L, sizeof(fs_file *), 0);
  *box = NULL;
  luaL_setmetatable(L, FILE_TYPE);
  size_t size = strlen(path) + 1;
  fs_file *file = malloc(sizeof *file + size);
  if (file == NULL) luaL_error(L, "not enough memory");
  *file = (fs_file){.fd = -1};
  memcpy(file->path, path, size);
  *box = file;
  return file;
}

int fs_stdin(lua_State *L) {
  fs_file *file = push_file(L, "standard input");
  file->fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0);
  if (file->fd < 0) fs_raise(L, "fs.stdin", file->path, errno);
  return 1;
}

int fs_open(lua_State *L) {
  static const lua_work_class OPEN = {
      .call = "fs.open", .run = open_run, .begun = job_begun, .ended = job_ended};
  static const char *const MODES[] = {"r", "r+", "w", "wx", "a", NULL};
  static const int FLAGS[] = {O_RDONLY, O_RDWR, O_WRONLY | O_CREAT | O_TRUNC,
                              O_WRONLY | O_CREAT | O_EXCL, O_WRONLY | O_CREAT | O_APPEND};
  const char *path = fs_check_path(L, 1, OPEN.call);
  const char *mode = luaL_optstring(L, 2, "r");
  int which = 0;
  while (MODES[which] != NULL && strcmp(MODES[which], mode) != 0)
    which++;
  if (MODES[which] == NULL) {
    err_raisef(L, ERR_VALIDATION, NULL, "%s: there is no mode '%s'; the modes are r, r+, w, wx, a",
               OPEN.call, mode);
  }
  fs_file *file = push_file(L, path);
  lua_replace(L, 1);
  lua_settop(L, 1); // stack: handle
  lua_pushnil(L);
  file_job *job = job_begin(L, file, &OPEN);
  job->flags = FLAGS[which];
  return job_wait(L, open_done);
}

/* ---- methods ---- */

static void read_run(lua_work *work) {
  file_job *self = (file_job *)work;
  self->result = malloc(self->length);
  self->error = self->result == NULL
                    ? ENOMEM
                    : fs_read_fully(self->file->fd, self->result, self->length, &self->length);
}

static int read_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  file_job *self = job_end(L, context);
  if (self->length == 0) {
    lua_pushnil(L);
  } else {
    lua_pushlstring(L, self->result, self->length);
  }
  lua_work_release(&self->base);
  return 1;
}

static int file_read(lua_State *L) {
  static const lua_work_class READ = {.call = "file:read",
                                      .run = read_run,
                                      .begun = job_begun,
                                      .ended = job_ended,
                                      .destroy = job_destroy};
  fs_file *file = check_file(L, READ.call);
  lua_Integer length = luaL_optinteger(L, 2, READ_PRESET);
  if (length < 1 || length > READ_MOST) {
    err_raisef(L, ERR_VALIDATION, NULL, "%s: wants a count from 1 to %d bytes", READ.call,
               READ_MOST);
  }
  lua_settop(L, 2);
  file_job *job = job_begin(L, file, &READ);
  job->length = (size_t)length;
  return job_wait(L, read_done);
}

static void write_run(lua_work *work) {
  file_job *self = (file_job *)work;
  self->error = fs_write_fully(self->file->fd, self->data, self->length);
}

static int self_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)job_end(L, context);
  lua_settop(L, 1);
  return 1;
}

static int file_write(lua_State *L) {
  static const lua_work_class WRITE = {
      .call = "file:write", .run = write_run, .begun = job_begun, .ended = job_ended};
  fs_file *file = check_file(L, WRITE.call);
  if (lua_type(L, 2) != LUA_TSTRING) {
    err_raisef(L, ERR_VALIDATION, NULL, "%s: the data must be a string, got %s", WRITE.call,
               luaL_typename(L, 2));
  }
  lua_settop(L, 2);
  file_job *job = job_begin(L, file, &WRITE);
  job->data = lua_tolstring(L, 2, &job->length);
  return job_wait(L, self_done);
}

static void sync_run(lua_work *work) {
  file_job *self = (file_job *)work;
  self->error = fsync(self->file->fd) != 0 ? errno : 0;
}

static int file_sync(lua_State *L) {
  static const lua_work_class SYNC = {
      .call = "file:sync", .run = sync_run, .begun = job_begun, .ended = job_ended};
  fs_file *file = check_file(L, SYNC.call);
  lua_settop(L, 2);
  (void)job_begin(L, file, &SYNC);
  return job_wait(L, self_done);
}

static void close_run(lua_work *work) {
  file_job *self = (file_job *)work;
  self->error = close(self->file->fd) != 0 && errno != EINTR ? errno : 0;
  self->file->fd = -1;
}

static int close_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)job_end(L, context);
  return 0;
}

/* Waits, because closing may flush to a slow file system and tell of a late write error. */
static int file_close(lua_State *L) {
  static const lua_work_class CLOSE = {
      .call = "file:close", .run = close_run, .begun = job_begun, .ended = job_ended};
  fs_file *file = *(fs_file **)luaL_checkudata(L, 1, FILE_TYPE);
  if (file == NULL || file->fd < 0) return 0;
  file = check_file(L, CLOSE.call);
  lua_settop(L, 2);
  (void)job_begin(L, file, &CLOSE);
  return job_wait(L, close_done);
}

/* At the end of a <close> variable: without waiting, and also while an abandoned operation runs. */
static int file_leave(lua_State *L) {
  lua_settop(L, 1);
  return file_collect(L);
}

static int file_tostring(lua_State *L) {
  fs_file *self = *(fs_file **)luaL_checkudata(L, 1, FILE_TYPE);
  lua_pushfstring(L, "file (%s)", self == NULL || self->fd < 0 ? "closed" : self->path);
  return 1;
}

void fs_open_files(lua_State *L) {
  static const luaL_Reg METHODS[] = {
      {"read", file_read},           {"write", file_write},  {"sync", file_sync},
      {"close", file_close},         {"__gc", file_collect}, {"__close", file_leave},
      {"__tostring", file_tostring}, {NULL, NULL},
  };
  luaL_newmetatable(L, FILE_TYPE);
  luaL_setfuncs(L, METHODS, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}
