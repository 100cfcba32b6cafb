/* lua_fs.c: the table nebula.fs: each call runs one operation of fs_ops.h on the thread pool while
 * the task waits. See meta/fs.lua for what scripts see. */
#include "fs/lua_fs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "base/lua_work.h"
#include "crypto/crypto_text.h"
#include "fs/fs_ops.h"
#include "nebula.h"

typedef struct path_job {
  lua_work base;
  int error;
  char *path, *other;  /* owned */
  const char *data;    /* Lua's memory, anchored */
  size_t length, most; /* of data or result; the most to read */
  char *result;        /* owned */
  bool flag;
  mode_t mode;
  struct stat info;
  unsigned char digest[FS_DIGEST];
  uint64_t size;
} path_job;

_Noreturn void fs_raise(lua_State *L, const char *call, const char *path, int error) {
  const char *name = strerrorname_np(error);
  const char *message = lua_pushfstring(L, "%s: %s: %s", call, path, strerror(error));
  err_raise(L, &(err_info){.kind = ERR_IO, .code = name, .message = message});
}

const char *fs_check_path(lua_State *L, int index, const char *call) {
  size_t length;
  if (lua_type(L, index) != LUA_TSTRING) {
    err_raisef(L, ERR_VALIDATION, NULL, "%s: a path must be a string, got %s", call,
               luaL_typename(L, index));
  }
  const char *path = lua_tolstring(L, index, &length);
  if (length == 0 || strlen(path) != length) {
    err_raisef(L, ERR_VALIDATION, NULL, "%s: a path must not be empty nor hold a NUL byte", call);
  }
  return path;
}

static void path_destroy(lua_work *work) {
  path_job *self = (path_job *)work;
  free(self->path);
  free(self->other);
  free(self->result);
}

/* A job with a copy of the path at index 1; pushes it. */
static path_job *path_begin(lua_State *L, const lua_work_class *class) {
  const char *path = fs_check_path(L, 1, class->call);
  path_job *self = lua_work_new(L, sizeof *self, class);
  self->path = strdup(path);
  if (self->path == NULL) luaL_error(L, "not enough memory");
  return self;
}

static path_job *path_end(lua_State *L, lua_KContext context) {
  path_job *self = (path_job *)context;
  if (self->error != 0) fs_raise(L, self->base.class->call, self->path, self->error);
  return self;
}

static int nothing_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  lua_work_release(&path_end(L, context)->base);
  return 0;
}

static mode_t read_mode(lua_State *L, int index, const char *call, mode_t preset) {
  lua_Integer mode = preset;
  opt_integer(L, index, call, "mode", 0, 07777, &mode);
  return (mode_t)mode;
}

/* ---- read, write, hash ---- */

static void read_run(lua_work *work) {
  path_job *self = (path_job *)work;
  self->error = fs_read_file(self->path, self->most, &self->result, &self->length);
}

static int read_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  path_job *self = (path_job *)context;
  if (self->error == EFBIG) {
    err_raisef(L, ERR_LIMIT, NULL,
               "fs.read: %s has more bytes than max_bytes allows; read it in "
               "pieces with fs.open",
               self->path);
  }
  (void)path_end(L, context);
  lua_pushlstring(L, self->result, self->length);
  lua_work_release(&self->base);
  return 1;
}

static int fs_read(lua_State *L) {
  static const lua_work_class READ = {.call = "fs.read", .run = read_run, .destroy = path_destroy};
  static const char *const OPTIONS[] = {"max_bytes", NULL};
  lua_Integer most = INT64_C(1) << 30;
  opt_check(L, 2, READ.call, OPTIONS);
  if (lua_istable(L, 2)) opt_integer(L, 2, READ.call, "max_bytes", 0, LUA_MAXINTEGER - 1, &most);
  path_begin(L, &READ)->most = (size_t)most;
  return lua_work_wait(L, -1, read_done);
}

static void write_run(lua_work *work) {
  path_job *self = (path_job *)work;
  self->error = self->flag ? fs_replace_file(self->path, self->data, self->length, self->mode)
                           : fs_write_file(self->path, self->data, self->length, self->mode);
}

static int fs_write(lua_State *L) {
  static const lua_work_class WRITE = {
      .call = "fs.write", .run = write_run, .destroy = path_destroy};
  static const char *const OPTIONS[] = {"atomic", "mode", NULL};
  bool atomic = true;
  mode_t mode = 0;
  (void)fs_check_path(L, 1, WRITE.call);
  if (lua_type(L, 2) != LUA_TSTRING) {
    err_raisef(L, ERR_VALIDATION, NULL, "%s: the data must be a string, got %s", WRITE.call,
               luaL_typename(L, 2));
  }
  opt_check(L, 3, WRITE.call, OPTIONS);
  if (lua_istable(L, 3)) {
    opt_boolean(L, 3, WRITE.call, "atomic", &atomic);
    mode = read_mode(L, 3, WRITE.call, 0);
  }
  path_job *self = path_begin(L, &WRITE);
  self->data = lua_tolstring(L, 2, &self->length);
  self->flag = atomic;
  self->mode = mode;
  lua_pushvalue(L, 2);
  lua_work_anchor(L, -2);
  return lua_work_wait(L, -1, nothing_done);
}

static void hash_run(lua_work *work) {
  path_job *self = (path_job *)work;
  self->error = fs_hash_file(self->path, self->digest, &self->size, &work->cancelled);
}

static int hash_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  path_job *self = path_end(L, context);
  char text[2 * FS_DIGEST];
  crypto_hex(self->digest, FS_DIGEST, text);
  lua_pushlstring(L, text, sizeof text);
  lua_pushinteger(L, (lua_Integer)self->size);
  lua_work_release(&self->base);
  return 2;
}

static int fs_hash(lua_State *L) {
  static const lua_work_class HASH = {.call = "fs.hash", .run = hash_run, .destroy = path_destroy};
  (void)path_begin(L, &HASH);
  return lua_work_wait(L, -1, hash_done);
}

/* ---- what a path names ---- */

static void stat_run(lua_work *work) {
  path_job *self = (path_job *)work;
  int failed = self->flag ? stat(self->path, &self->info) : lstat(self->path, &self->info);
  self->error = failed != 0 ? errno : 0;
}

static bool is_absent(path_job *self) {
  return self->error == ENOENT || self->error == ENOTDIR;
}

static int stat_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  path_job *self = (path_job *)context;
  if (is_absent(self)) {
    lua_work_release(&self->base);
    lua_pushnil(L);
    return 1;
  }
  (void)path_end(L, context);
  const struct stat *info = &self->info;
  lua_createtable(L, 0, 6);
  lua_pushstring(L, fs_type_name(info->st_mode));
  lua_setfield(L, -2, "type");
  lua_pushinteger(L, info->st_size);
  lua_setfield(L, -2, "size");
  lua_pushinteger(L, info->st_mode & 07777);
  lua_setfield(L, -2, "mode");
  lua_pushnumber(L, (double)info->st_mtim.tv_sec + (double)info->st_mtim.tv_nsec / 1e9);
  lua_setfield(L, -2, "modified");
  lua_pushinteger(L, info->st_uid);
  lua_setfield(L, -2, "uid");
  lua_pushinteger(L, info->st_gid);
  lua_setfield(L, -2, "gid");
  lua_work_release(&self->base);
  return 1;
}

static int fs_stat(lua_State *L) {
  static const lua_work_class STAT = {.call = "fs.stat", .run = stat_run, .destroy = path_destroy};
  static const char *const OPTIONS[] = {"follow", NULL};
  bool follow = true;
  opt_check(L, 2, STAT.call, OPTIONS);
  if (lua_istable(L, 2)) opt_boolean(L, 2, STAT.call, "follow", &follow);
  path_begin(L, &STAT)->flag = follow;
  return lua_work_wait(L, -1, stat_done);
}

static int exists_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  path_job *self = (path_job *)context;
  if (!is_absent(self)) (void)path_end(L, context);
  lua_pushboolean(L, self->error == 0);
  lua_work_release(&self->base);
  return 1;
}

static int fs_exists(lua_State *L) {
  static const lua_work_class EXISTS = {
      .call = "fs.exists", .run = stat_run, .destroy = path_destroy};
  path_begin(L, &EXISTS)->flag = true;
  return lua_work_wait(L, -1, exists_done);
}

static void realpath_run(lua_work *work) {
  path_job *self = (path_job *)work;
  self->result = realpath(self->path, NULL);
  self->error = self->result == NULL ? errno : 0;
}

static int result_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  path_job *self = path_end(L, context);
  lua_pushstring(L, self->result);
  lua_work_release(&self->base);
  return 1;
}

static int fs_realpath(lua_State *L) {
  static const lua_work_class REALPATH = {
      .call = "fs.realpath", .run = realpath_run, .destroy = path_destroy};
  (void)path_begin(L, &REALPATH);
  return lua_work_wait(L, -1, result_done);
}

/* ---- directories, names ---- */

static void mkdir_run(lua_work *work) {
  path_job *self = (path_job *)work;
  self->error = fs_make_directory(self->path, self->flag, self->mode);
}

static int fs_mkdir(lua_State *L) {
  static const lua_work_class MKDIR = {
      .call = "fs.mkdir", .run = mkdir_run, .destroy = path_destroy};
  static const char *const OPTIONS[] = {"mode", "parents", NULL};
  bool parents = false;
  mode_t mode = 0777;
  opt_check(L, 2, MKDIR.call, OPTIONS);
  if (lua_istable(L, 2)) {
    opt_boolean(L, 2, MKDIR.call, "parents", &parents);
    mode = read_mode(L, 2, MKDIR.call, mode);
  }
  path_job *self = path_begin(L, &MKDIR);
  self->flag = parents;
  self->mode = mode;
  return lua_work_wait(L, -1, nothing_done);
}

static void remove_run(lua_work *work) {
  path_job *self = (path_job *)work;
  self->error = fs_remove_path(self->path, self->flag);
}

static int remove_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  path_job *self = (path_job *)context;
  bool absent = is_absent(self);
  if (!absent) (void)path_end(L, context);
  lua_pushboolean(L, !absent);
  lua_work_release(&self->base);
  return 1;
}

static int fs_remove(lua_State *L) {
  static const lua_work_class REMOVE = {
      .call = "fs.remove", .run = remove_run, .destroy = path_destroy};
  static const char *const OPTIONS[] = {"recursive", NULL};
  bool recursive = false;
  opt_check(L, 2, REMOVE.call, OPTIONS);
  if (lua_istable(L, 2)) opt_boolean(L, 2, REMOVE.call, "recursive", &recursive);
  path_begin(L, &REMOVE)->flag = recursive;
  return lua_work_wait(L, -1, remove_done);
}

static void rename_run(lua_work *work) {
  path_job *self = (path_job *)work;
  self->error = rename(self->path, self->other) != 0 ? errno : 0;
}

static int fs_rename(lua_State *L) {
  static const lua_work_class RENAME = {
      .call = "fs.rename", .run = rename_run, .destroy = path_destroy};
  const char *other = fs_check_path(L, 2, RENAME.call);
  path_job *self = path_begin(L, &RENAME);
  self->other = strdup(other);
  if (self->other == NULL) luaL_error(L, "not enough memory");
  return lua_work_wait(L, -1, nothing_done);
}

static void tempdir_run(lua_work *work) {
  path_job *self = (path_job *)work;
  self->result = strdup(self->path);
  self->error = self->result == NULL ? ENOMEM : mkdtemp(self->result) == NULL ? errno : 0;
}

static int fs_tempdir(lua_State *L) {
  static const lua_work_class TEMPDIR = {
      .call = "fs.tempdir", .run = tempdir_run, .destroy = path_destroy};
  const char *directory = getenv("TMPDIR");
  lua_settop(L, 0);
  lua_pushfstring(L, "%s/nebula-XXXXXX",
                  directory != NULL && *directory != '\0' ? directory : "/tmp");
  (void)path_begin(L, &TEMPDIR);
  return lua_work_wait(L, -1, result_done);
}

int lua_open_fs(lua_State *L) {
  static const luaL_Reg FUNCTIONS[] = {
      {"exists", fs_exists},  {"hash", fs_hash},     {"list", fs_list}, {"mkdir", fs_mkdir},
      {"open", fs_open},      {"stdin", fs_stdin},   {"read", fs_read}, {"realpath", fs_realpath},
      {"remove", fs_remove},  {"rename", fs_rename}, {"stat", fs_stat}, {"tempdir", fs_tempdir},
      {"walk", fs_walk_tree}, {"write", fs_write},   {NULL, NULL},
  };
  fs_open_files(L);
  fs_open_walks(L);
  luaL_newlib(L, FUNCTIONS);
  return 1;
}
