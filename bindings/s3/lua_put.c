/* lua_put.c: bucket:put: an object out of a string, a file, a function or a reader. */
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "base/lua_work.h"
#include "s3/lua_upload.h"

#define CALL "bucket:put"

enum { BUCKET = 1, KEY, DATA, OPTIONS, UPLOAD, CHUNK, PROGRESS };

/* What has returned to put_step. */
enum { A_WAIT, A_PIECE, A_PROGRESS };

static int put_step(lua_State *L, int status, lua_KContext context);

/* ---- a file ---- */

/* Opening, on the thread pool: a path may lie on a network. */
typedef struct open_job {
  lua_work base;
  char *path;
  int file;
  int error;
  uint64_t size;
} open_job;

static void open_run(lua_work *work) {
  open_job *self = (open_job *)work;
  struct stat about;
  self->file = open(self->path, O_RDONLY | O_CLOEXEC);
  if (self->file < 0 || fstat(self->file, &about) != 0) {
    self->error = errno;
  } else if (S_ISDIR(about.st_mode)) {
    self->error = EISDIR;
  } else {
    self->size = (uint64_t)about.st_size;
  }
}

static void open_destroy(lua_work *work) {
  open_job *self = (open_job *)work;
  if (self->file >= 0) close(self->file);
  self->file = -1;
  free(self->path);
  self->path = NULL;
}

static int open_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  open_job *self = (open_job *)context;
  lua_s3_upload *upload = lua_touserdata(L, UPLOAD);
  if (self->error != 0) {
    lua_pushfstring(L, CALL ": %s: %s", self->path, strerror(self->error));
    err_info info = {.kind = ERR_IO, .code = uv_err_name(-self->error)};
    info.message = lua_tostring(L, -1);
    lua_work_release(&self->base);
    err_raise(L, &info);
  }
  int file = self->file;
  self->file = -1; /* the upload's from here on */
  s3_upload_from_file(upload->upload, file, self->size);
  lua_work_release(&self->base);
  return put_step(L, LUA_OK, A_WAIT);
}

static int put_file(lua_State *L) {
  static const lua_work_class OPEN = {.call = CALL, .run = open_run, .destroy = open_destroy};
  if (lua_getfield(L, DATA, "file") != LUA_TSTRING)
    err_raisef(L, ERR_VALIDATION, "s3", CALL ": file must be a path");
  open_job *self = lua_work_new(L, sizeof *self, &OPEN); // stack: ..., path, job
  self->file = -1;
  self->path = strdup(lua_tostring(L, -2));
  if (self->path == NULL) return luaL_error(L, "not enough memory");
  return lua_work_wait(L, -1, open_done);
}

/* ---- pieces from a function ---- */

static void take_piece(lua_State *L, lua_s3_upload *self) {
  int type = lua_type(L, -1);
  if (type == LUA_TNIL) {
    self->finished = true;
    s3_upload_finish(self->upload);
  } else if (type != LUA_TSTRING) {
    err_raisef(L, ERR_VALIDATION, "s3",
               CALL ": the reader must return a string, or nil at its end; it returned a %s",
               luaL_typename(L, -1));
  }
  self->offset = 0;
  lua_replace(L, CHUNK);
}

/* True where nothing is left of the piece. */
static bool put_piece(lua_State *L, lua_s3_upload *self) {
  if (lua_type(L, CHUNK) != LUA_TSTRING) return true;
  size_t length;
  const char *text = lua_tolstring(L, CHUNK, &length);
  self->offset += s3_upload_write(self->upload, text + self->offset, length - self->offset);
  return self->offset == length;
}

static void ask_for_piece(lua_State *L) {
  int arguments = 0;
  if (lua_isfunction(L, DATA)) {
    lua_pushvalue(L, DATA);
  } else {
    lua_getfield(L, DATA, "read");
    lua_pushvalue(L, DATA); // stack: ..., read, reader
    arguments = 1;
  }
  lua_callk(L, arguments, 1, A_PIECE, put_step);
}

/* ---- all of them ---- */

static bool tell_progress(lua_State *L, lua_s3_upload *self) {
  uint64_t sent = s3_upload_sent(self->upload);
  if (sent == self->told || lua_isnil(L, PROGRESS)) return false;
  self->told = sent;
  lua_pushvalue(L, PROGRESS);
  lua_pushinteger(L, (lua_Integer)sent);
  lua_callk(L, 1, 0, A_PROGRESS, put_step);
  return true;
}

static bool in_pieces(lua_State *L) {
  bool pieces = !lua_isstring(L, DATA) &&
                !(lua_istable(L, DATA) && lua_getfield(L, DATA, "file") != LUA_TNIL);
  lua_settop(L, PROGRESS);
  return pieces;
}

static int put_step(lua_State *L, int status, lua_KContext context) {
  (void)status;
  lua_s3_upload *self = lua_touserdata(L, UPLOAD);
  if (context == A_PIECE) take_piece(L, self);
  for (;;) {
    lua_settop(L, PROGRESS);
    bool failing = lua_s3_upload_failing(L, self);
    if (!failing && tell_progress(L, self)) continue;
    if (s3_upload_get_state(self->upload) == S3_UPLOAD_DONE)
      return lua_s3_upload_push(L, self, UPLOAD);
    if (failing || self->finished || !in_pieces(L) || !put_piece(L, self))
      return lua_s3_upload_wait(L, self, A_WAIT, put_step);
    ask_for_piece(L);
    take_piece(L, self);
  }
}

static bool has_read(lua_State *L) {
  bool is_reader = (lua_isuserdata(L, DATA) || lua_istable(L, DATA)) &&
                   lua_getfield(L, DATA, "read") == LUA_TFUNCTION;
  lua_settop(L, PROGRESS);
  return is_reader;
}

static int bucket_put(lua_State *L) {
  static const char *const NAMES[] = {S3_UPLOAD_OPTIONS, "progress", NULL};
  lua_settop(L, OPTIONS);
  opt_check(L, OPTIONS, CALL, NAMES);
  lua_s3_upload *self = lua_s3_upload_new(L, CALL, BUCKET, KEY, OPTIONS);
  lua_toclose(L, UPLOAD);
  lua_settop(L, CHUNK);
  if (lua_isnil(L, OPTIONS)) {
    lua_pushnil(L);
  } else if (lua_getfield(L, OPTIONS, "progress") != LUA_TNIL && !lua_isfunction(L, PROGRESS)) {
    err_raisef(L, ERR_VALIDATION, "s3", CALL ": progress must be a function(bytes)");
  } // stack: bucket, key, data, options, upload, chunk, progress
  if (lua_type(L, DATA) == LUA_TSTRING) {
    size_t length;
    const char *data = lua_tolstring(L, DATA, &length);
    s3_upload_from_memory(self->upload, data, length);
  } else if (lua_istable(L, DATA) && !has_read(L)) {
    return put_file(L);
  } else if (!lua_isfunction(L, DATA) && !has_read(L)) {
    err_raisef(L, ERR_VALIDATION, "s3",
               CALL ": the data must be a string, a function or reader that gives one, or "
                    "{ file = path }; got %s",
               luaL_typename(L, DATA));
  }
  return put_step(L, LUA_OK, A_WAIT);
}

void lua_s3_add_put_methods(lua_State *L) {
  static const luaL_Reg METHODS[] = {
      {"put", bucket_put}, {"writer", lua_s3_bucket_writer}, {NULL, NULL}};
  lua_s3_writer_open(L);
  luaL_setfuncs(L, METHODS, 0);
}
