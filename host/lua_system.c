/* lua_system.c: `nebula.system`: the few facts and operations of the machine that the host's own
 * scripts need and a storage script does not: users, ownership, locks, terminals, private
 * directories. All are single calls on local metadata, made at once; what may take long
 * (`remove_tree`) runs on libuv's thread pool. */
#include "lua_host.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <dirent.h>
#include <unistd.h>
#include <uv.h>
#include <lauxlib.h>
#include "async/task.h"
#include "base/lua_error.h"

#define LOCK_METATABLE "nebula.system.lock"
#define DIRECTORY_METATABLE "nebula.system.directory"

static _Noreturn void raise_errno(lua_State *L, const char *what, const char *path, int number) {
  err_raise(L,
            &(err_info){.kind = ERR_IO,
                        .code = uv_err_name(-number),
                        .message = lua_pushfstring(L, "%s %s: %s", what, path, strerror(number))});
}

static int push_true(lua_State *L) {
  lua_pushboolean(L, 1);
  return 1;
}

/* ids() -> {uid, gid, pid, euid} */
static int system_ids(lua_State *L) {
  lua_createtable(L, 0, 3);
  lua_pushinteger(L, geteuid());
  lua_setfield(L, -2, "uid");
  lua_pushinteger(L, getegid());
  lua_setfield(L, -2, "gid");
  lua_pushinteger(L, getpid());
  lua_setfield(L, -2, "pid");
  return 1;
}

/* hostname(): this machine's name */
static int system_hostname(lua_State *L) {
  char name[UV_MAXHOSTNAMESIZE];
  size_t size = sizeof name;
  if (uv_os_gethostname(name, &size) != 0) size = 0;
  lua_pushlstring(L, name, size);
  return 1;
}

/* end_with(parent, signal): this process gets the signal when that parent ends. False where it has
 * ended already, or is not the parent. */
static int system_end_with(lua_State *L) {
  pid_t parent = (pid_t)luaL_checkinteger(L, 1);
  prctl(PR_SET_PDEATHSIG, host_signal_number(L, 2, "system.end_with"));
  lua_pushboolean(L, getppid() == parent);
  return 1;
}

/* user(name | uid) -> {name, uid, gid, home} | nil */
static int system_user(lua_State *L) {
  struct passwd entry, *found = NULL;
  char buffer[4096];
  if (lua_type(L, 1) == LUA_TNUMBER) {
    getpwuid_r((uid_t)luaL_checkinteger(L, 1), &entry, buffer, sizeof buffer, &found);
  } else {
    getpwnam_r(luaL_checkstring(L, 1), &entry, buffer, sizeof buffer, &found);
  }
  if (found == NULL) return 0;
  lua_createtable(L, 0, 4);
  lua_pushstring(L, found->pw_name);
  lua_setfield(L, -2, "name");
  lua_pushinteger(L, found->pw_uid);
  lua_setfield(L, -2, "uid");
  lua_pushinteger(L, found->pw_gid);
  lua_setfield(L, -2, "gid");
  lua_pushstring(L, found->pw_dir);
  lua_setfield(L, -2, "home");
  return 1;
}

/* stat(path [, follow=true]) -> {type, mode, uid, gid, size, mtime, inode, device} | nil */
static int system_stat(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  struct stat info;
  bool follow = lua_isnoneornil(L, 2) || lua_toboolean(L, 2);
  if ((follow ? stat : lstat)(path, &info) < 0) {
    if (errno == ENOENT || errno == ENOTDIR) return 0;
    raise_errno(L, "cannot look at", path, errno);
  }
  mode_t kind = info.st_mode & S_IFMT;
  lua_createtable(L, 0, 8);
  lua_pushstring(L, kind == S_IFDIR    ? "directory"
                    : kind == S_IFREG  ? "file"
                    : kind == S_IFLNK  ? "link"
                    : kind == S_IFSOCK ? "socket"
                                       : "other");
  lua_setfield(L, -2, "type");
  const struct {
    const char *name;
    lua_Integer value;
  } numbers[] = {{"mode", info.st_mode & 07777},
                 {"uid", info.st_uid},
                 {"gid", info.st_gid},
                 {"size", info.st_size},
                 {"mtime", info.st_mtime},
                 {"inode", (lua_Integer)info.st_ino},
                 {"device", (lua_Integer)info.st_dev}};
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    lua_pushinteger(L, numbers[i].value);
    lua_setfield(L, -2, numbers[i].name);
  }
  return 1;
}

/* mkdir(path, mode) -> true, or false where something stands there already */
static int system_mkdir(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  mode_t mode = (mode_t)luaL_optinteger(L, 2, 0777);
  if (mkdir(path, mode) == 0) return push_true(L);
  if (errno != EEXIST) raise_errno(L, "cannot make the directory", path, errno);
  lua_pushboolean(L, 0);
  return 1;
}

/* mkdtemp(prefix) -> the path of a new directory of ours alone (0700) with an unguessable name */
static int system_mkdtemp(lua_State *L) {
  const char *prefix = luaL_checkstring(L, 1);
  char path[1024];
  if (snprintf(path, sizeof path, "%sXXXXXX", prefix) >= (int)sizeof path)
    raise_errno(L, "cannot make a directory", prefix, ENAMETOOLONG);
  if (mkdtemp(path) == NULL) raise_errno(L, "cannot make a directory", prefix, errno);
  lua_pushstring(L, path);
  return 1;
}

static int system_chown(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  if (lchown(path, (uid_t)luaL_checkinteger(L, 2), (gid_t)luaL_checkinteger(L, 3)) < 0)
    raise_errno(L, "cannot change the owner of", path, errno);
  return push_true(L);
}

static int system_chmod(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  if (chmod(path, (mode_t)luaL_checkinteger(L, 2)) < 0)
    raise_errno(L, "cannot change the mode of", path, errno);
  return push_true(L);
}

/* realpath(path) -> absolute, without links | nil where it does not exist */
static int system_realpath(lua_State *L) {
  char *path = realpath(luaL_checkstring(L, 1), NULL);
  if (path == NULL) return 0;
  lua_pushstring(L, path);
  free(path);
  return 1;
}

static int system_readlink(lua_State *L) {
  char path[4096];
  ssize_t length = readlink(luaL_checkstring(L, 1), path, sizeof path);
  if (length < 0) return 0;
  lua_pushlstring(L, path, (size_t)length);
  return 1;
}

static int system_cwd(lua_State *L) {
  char *path = getcwd(NULL, 0);
  if (path == NULL) raise_errno(L, "cannot tell", "the current directory", errno);
  lua_pushstring(L, path);
  free(path);
  return 1;
}

/* list(path) -> names, sorted by nobody | nil where it does not exist */
static int system_list(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  DIR **directory = lua_newuserdatauv(L, sizeof *directory, 0);
  *directory = NULL;
  luaL_setmetatable(L, DIRECTORY_METATABLE);
  *directory = opendir(path);
  if (*directory == NULL) {
    if (errno == ENOENT) return 0;
    raise_errno(L, "cannot list", path, errno);
  }
  lua_newtable(L);
  lua_Integer count = 0;
  for (struct dirent *entry; (entry = readdir(*directory)) != NULL;) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    lua_pushstring(L, entry->d_name);
    lua_rawseti(L, -2, ++count);
  }
  closedir(*directory);
  *directory = NULL;
  return 1;
}

/* space(path) -> {total, free} in bytes of its file system, for this user | nil where it is not */
static int system_space(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  struct statvfs info;
  if (statvfs(path, &info) < 0) {
    if (errno == ENOENT || errno == ENOTDIR) return 0;
    raise_errno(L, "cannot look at the file system of", path, errno);
  }
  lua_createtable(L, 0, 2);
  lua_pushinteger(L, (lua_Integer)(info.f_blocks * info.f_frsize));
  lua_setfield(L, -2, "total");
  lua_pushinteger(L, (lua_Integer)(info.f_bavail * info.f_frsize));
  lua_setfield(L, -2, "free");
  return 1;
}

static int directory_close(lua_State *L) {
  DIR **directory = luaL_checkudata(L, 1, DIRECTORY_METATABLE);
  if (*directory != NULL) closedir(*directory);
  *directory = NULL;
  return 0;
}

/* kill(pid, signal) -> true, or false where there is no such process */
static int system_kill(lua_State *L) {
  pid_t pid = (pid_t)luaL_checkinteger(L, 1);
  int number = lua_isnoneornil(L, 2) ? 0 : host_signal_number(L, 2, "system.kill");
  luaL_argcheck(L, pid > 1, 1, "no process of another program");
  if (kill(pid, number) == 0 || (number == 0 && errno == EPERM)) return push_true(L);
  if (errno != ESRCH) raise_errno(L, "cannot signal process", lua_tostring(L, 1), errno);
  lua_pushboolean(L, 0);
  return 1;
}

/* ---- locks ---- */

static int lock_release(lua_State *L) {
  int *fd = luaL_checkudata(L, 1, LOCK_METATABLE);
  if (*fd >= 0) close(*fd); // flock ends with the description
  *fd = -1;
  return 0;
}

/* lock(path) -> Lock (<close> releases it) | nil while another process or task holds it */
static int system_lock(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  int *fd = lua_newuserdatauv(L, sizeof *fd, 0);
  *fd = -1;
  luaL_setmetatable(L, LOCK_METATABLE);
  *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (*fd < 0) raise_errno(L, "cannot open the lock", path, errno);
  if (flock(*fd, LOCK_EX | LOCK_NB) == 0) return 1;
  if (errno != EWOULDBLOCK) raise_errno(L, "cannot lock", path, errno);
  return 0;
}

/* ---- terminals ---- */

static int system_isatty(lua_State *L) {
  lua_pushboolean(L, isatty((int)luaL_checkinteger(L, 1)));
  return 1;
}

/* window() -> rows, columns of the terminal on stdout, stderr or stdin | nil */
static int system_window(lua_State *L) {
  static const int fds[] = {STDOUT_FILENO, STDERR_FILENO, STDIN_FILENO};
  struct winsize size;
  for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) {
    if (ioctl(fds[i], TIOCGWINSZ, &size) < 0 || size.ws_col == 0) continue;
    lua_pushinteger(L, size.ws_row);
    lua_pushinteger(L, size.ws_col);
    return 2;
  }
  return 0;
}

/* ---- remove_tree ---- */

typedef struct removal {
  uv_work_t request;
  task_ticket ticket;
  int error;
  bool abandoned;
  char path[];
} removal;

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *where) {
  (void)info, (void)kind, (void)where;
  return remove(path) < 0 && errno != ENOENT ? errno : 0;
}

static void removal_work(uv_work_t *request) {
  removal *self = request->data;
  int rc = nftw(self->path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
  self->error = rc < 0 ? errno : rc;
  if (self->error == ENOENT) self->error = 0;
}

static void removal_after(uv_work_t *request, int status) {
  (void)status;
  removal *self = request->data;
  if (self->abandoned) {
    free(self);
  } else {
    task_wake(self->ticket);
  }
}

static int removal_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  removal *self = (removal *)context;
  int error = self->error;
  free(self);
  if (error != 0) raise_errno(L, "cannot remove", lua_tostring(L, 1), error);
  return push_true(L);
}

/* A removal that is under way goes on, and frees itself. */
static void removal_abandon(void *data) {
  removal *self = data;
  self->abandoned = true;
}

/* remove_tree(path): the directory and all below it; links are removed, never followed. */
static int system_remove_tree(lua_State *L) {
  size_t length;
  const char *path = luaL_checklstring(L, 1, &length);
  task_ticket ticket = task_wait_begin(L, "system.remove_tree");
  removal *self = malloc(sizeof *self + length + 1);
  if (self == NULL) return luaL_error(L, "not enough memory");
  *self = (removal){.ticket = ticket};
  memcpy(self->path, path, length + 1);
  self->request.data = self;
  uv_queue_work(&task_loop(L)->uv, &self->request, removal_work, removal_after);
  return task_wait(L, ticket, removal_abandon, self, (lua_KContext)self, removal_done);
}

/* setenv(name, value): for this process and those it starts; only before there are threads */
static int system_setenv(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  if (setenv(name, luaL_checkstring(L, 2), 1) != 0) raise_errno(L, "setenv", name, errno);
  return push_true(L);
}

static const luaL_Reg FUNCTIONS[] = {
    {"ids", system_ids},
    {"user", system_user},
    {"stat", system_stat},
    {"mkdir", system_mkdir},
    {"mkdtemp", system_mkdtemp},
    {"chown", system_chown},
    {"chmod", system_chmod},
    {"realpath", system_realpath},
    {"readlink", system_readlink},
    {"cwd", system_cwd},
    {"list", system_list},
    {"space", system_space},
    {"lock", system_lock},
    {"isatty", system_isatty},
    {"window", system_window},
    {"remove_tree", system_remove_tree},
    {"kill", system_kill},
    {"hostname", system_hostname},
    {"end_with", system_end_with},
    {"setenv", system_setenv},
    {NULL, NULL},
};

int lua_open_system(lua_State *L) {
  if (luaL_newmetatable(L, LOCK_METATABLE)) {
    lua_pushcfunction(L, lock_release);
    lua_setfield(L, -2, "__gc");
    lua_pushcfunction(L, lock_release);
    lua_setfield(L, -2, "__close");
    lua_newtable(L);
    lua_pushcfunction(L, lock_release);
    lua_setfield(L, -2, "release");
    lua_setfield(L, -2, "__index");
  }
  if (luaL_newmetatable(L, DIRECTORY_METATABLE)) {
    lua_pushcfunction(L, directory_close);
    lua_setfield(L, -2, "__gc");
  }
  lua_pop(L, 2);
  luaL_newlib(L, FUNCTIONS);
  lua_pushliteral(L, NEBULA_VERSION);
  lua_setfield(L, -2, "version");
  host_push_scripts(L);
  lua_setfield(L, -2, "scripts");
  return 1;
}
