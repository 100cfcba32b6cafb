/* full_disk.c: preloaded into a server, its disk is full as long as the file NEBULA_SPEC_FULL is
 * there: nothing it writes makes a file larger, what a file holds already may be overwritten. There
 * is room for what goes to its standard streams. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

typedef ssize_t write_fn(int, const void *, size_t);
typedef ssize_t pwrite_fn(int, const void *, size_t, off_t);
typedef ssize_t pwritev_fn(int, const struct iovec *, int, off_t);
typedef int fallocate_fn(int, off_t, off_t);

static bool has_room(int fd, off_t end) {
  struct stat file;
  if (fd <= STDERR_FILENO || fstat(fd, &file) != 0 || !S_ISREG(file.st_mode)) return true;
  const char *flag = getenv("NEBULA_SPEC_FULL");
  return end <= file.st_size || flag == NULL || access(flag, F_OK) != 0;
}

static ssize_t refuse(void) {
  errno = ENOSPC;
  return -1;
}

EXPORT ssize_t write(int fd, const void *data, size_t size) {
  static write_fn *real;
  if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, "write");
  if (!has_room(fd, lseek(fd, 0, SEEK_CUR) + (off_t)size)) return refuse();
  return real(fd, data, size);
}

EXPORT ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
  static pwrite_fn *real;
  if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, "pwrite");
  if (!has_room(fd, at + (off_t)size)) return refuse();
  return real(fd, data, size, at);
}

EXPORT ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
  static pwritev_fn *real;
  if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, "pwritev");
  off_t end = at;
  for (int i = 0; i < count; i++)
    end += (off_t)parts[i].iov_len;
  if (!has_room(fd, end)) return refuse();
  return real(fd, parts, count, at);
}

EXPORT int posix_fallocate(int fd, off_t at, off_t size) {
  static fallocate_fn *real;
  if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, "posix_fallocate");
  return has_room(fd, at + size) ? real(fd, at, size) : ENOSPC;
}
