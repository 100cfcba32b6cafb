/* fs_walk.c: a stack of open directories; the deepest is read first. */
#include "fs/fs_walk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct level {
  DIR *directory;
  char *path;
} level;

struct fs_walk {
  bool recursive;
  size_t depth;
  level levels[FS_WALK_DEPTH];
};

static int level_open(fs_walk *self, int at, const char *name, char *path) {
  if (self->depth == FS_WALK_DEPTH) return ELOOP;
  int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW * (at != AT_FDCWD) | O_CLOEXEC);
  if (fd < 0) return errno;
  DIR *directory = fdopendir(fd);
  if (directory == NULL) {
    int error = errno;
    (void)close(fd);
    return error;
  }
  self->levels[self->depth++] = (level){directory, path};
  return 0;
}

static void level_close(fs_walk *self) {
  level *last = &self->levels[--self->depth];
  (void)closedir(last->directory);
  free(last->path);
}

int fs_walk_open(const char *path, bool recursive, fs_walk **out) {
  fs_walk *self = calloc(1, sizeof *self);
  char *copy = strdup(path);
  int error = ENOMEM;
  if (self != NULL && copy != NULL) {
    self->recursive = recursive;
    for (size_t length = strlen(copy); length > 1 && copy[length - 1] == '/'; length--)
      copy[length - 1] = '\0';
    error = level_open(self, AT_FDCWD, copy, copy);
  }
  if (error != 0) {
    free(copy);
    free(self);
    return error;
  }
  *out = self;
  return 0;
}

void fs_walk_close(fs_walk *self) {
  if (self == NULL) return;
  while (self->depth > 0)
    level_close(self);
  free(self);
}

void fs_batch_clear(fs_batch *self) {
  for (size_t i = 0; i < self->count; i++)
    free(self->entries[i].path);
  self->count = 0;
}

static char *join(const char *directory, const char *name) {
  size_t length = strlen(directory), more = strlen(name);
  char *path = malloc(length + more + 2);
  if (path == NULL) return NULL;
  memcpy(path, directory, length);
  if (length == 0 || directory[length - 1] != '/') path[length++] = '/';
  memcpy(path + length, name, more + 1);
  return path;
}

/* Adds one entry, and goes down where it is a directory. */
static int visit(fs_walk *self, fs_batch *batch, const char *name, char **failed) {
  level *top = &self->levels[self->depth - 1];
  struct stat info;
  if (fstatat(dirfd(top->directory), name, &info, AT_SYMLINK_NOFOLLOW) != 0)
    return errno == ENOENT ? 0 : errno;
  char *path = join(top->path, name);
  if (path == NULL) return ENOMEM;
  batch->entries[batch->count++] =
      (fs_entry){path, info.st_mode, S_ISREG(info.st_mode) ? (uint64_t)info.st_size : 0,
                 (double)info.st_mtim.tv_sec + (double)info.st_mtim.tv_nsec / 1e9};
  if (!self->recursive || !S_ISDIR(info.st_mode)) return 0;
  char *copy = strdup(path);
  if (copy == NULL) return ENOMEM;
  int error = level_open(self, dirfd(top->directory), name, copy);
  if (error == 0) return 0;
  if (error == ENOENT) {
    free(copy);
    return 0;
  }
  *failed = copy;
  return error;
}

int fs_walk_next(fs_walk *self, fs_batch *batch, char **failed) {
  *failed = NULL;
  while (self->depth > 0 && batch->count < FS_WALK_BATCH) {
    level *top = &self->levels[self->depth - 1];
    errno = 0;
    struct dirent *entry = readdir(top->directory);
    int error = entry == NULL ? errno : 0;
    if (entry != NULL && strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
      error = visit(self, batch, entry->d_name, failed);
    if (error != 0) {
      if (*failed == NULL) *failed = strdup(top->path);
      return error;
    }
    if (entry == NULL) level_close(self);
  }
  return 0;
}
