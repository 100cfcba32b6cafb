/* fs_ops.c: whole operations on files. */
#include "fs/fs_ops.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

enum { PIECE = 256 * 1024, OPEN_DIRECTORIES = 16, FIRST_READ = 64 * 1024 };

int fs_write_fully(int fd, const void *data, size_t length) {
  const char *at = data;
  while (length > 0) {
    ssize_t written = write(fd, at, length);
    if (written < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    at += written;
    length -= (size_t)written;
  }
  return 0;
}

int fs_read_fully(int fd, void *data, size_t length, size_t *got) {
  *got = 0;
  while (*got < length) {
    ssize_t count = read(fd, (char *)data + *got, length - *got);
    if (count == 0) break;
    if (count < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    *got += (size_t)count;
  }
  return 0;
}

/* Closes and keeps the first error: a late write error shows only here. */
static int close_after(int fd, int error) {
  if (close(fd) != 0 && error == 0 && errno != EINTR) return errno;
  return error;
}

static int read_open(int fd, size_t most, char **data, size_t *length) {
  struct stat info;
  if (fstat(fd, &info) != 0) return errno;
  if (S_ISDIR(info.st_mode)) return EISDIR;
  *length = info.st_size > 0 ? (size_t)info.st_size : 0;
  if (*length > most) return EFBIG;
  // One byte more than its size tells whether it grew; a file in /proc has no size.
  size_t capacity = *length > 0 ? *length + 1 : FIRST_READ;
  char *buffer = malloc(capacity);
  size_t filled = 0;
  int error = buffer == NULL ? ENOMEM : 0;
  while (error == 0) {
    size_t got;
    error = fs_read_fully(fd, buffer + filled, capacity - filled, &got);
    filled += got;
    if (error != 0 || filled < capacity) break;
    if (filled > most) {
      error = EFBIG;
      break;
    }
    char *larger = capacity > SIZE_MAX / 2 ? NULL : realloc(buffer, capacity * 2);
    error = larger == NULL ? ENOMEM : 0;
    buffer = larger == NULL ? buffer : larger;
    capacity *= 2;
  }
  *length = filled;
  if (error == 0 && filled > most) error = EFBIG;
  if (error != 0) {
    free(buffer);
    return error;
  }
  *data = buffer;
  return 0;
}

int fs_read_file(const char *path, size_t most, char **data, size_t *length) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  int error = read_open(fd, most, data, length);
  (void)close(fd);
  return error;
}

int fs_write_file(const char *path, const void *data, size_t length, mode_t mode) {
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode == 0 ? 0666 : mode);
  if (fd < 0) return errno;
  int error = fs_write_fully(fd, data, length);
  if (error == 0 && mode != 0 && fchmod(fd, mode) != 0) error = errno;
  return close_after(fd, error);
}

int fs_sync_parent(const char *path) {
  char directory[4096];
  const char *slash = strrchr(path, '/');
  size_t length = slash == NULL ? 1 : slash == path ? 1 : (size_t)(slash - path);
  if (length >= sizeof directory) return ENAMETOOLONG;
  memcpy(directory, slash == NULL ? "." : path, length);
  directory[length] = '\0';
  int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return errno;
  int error = fsync(fd) != 0 && errno != EINVAL ? errno : 0;
  (void)close(fd);
  return error;
}

int fs_open_beside(const char *path, char **beside, int *fd) {
  unsigned char random[6];
  if (RAND_bytes(random, sizeof random) != 1) return EIO;
  if (asprintf(beside, "%s.%02x%02x%02x%02x%02x%02x.tmp", path, random[0], random[1], random[2],
               random[3], random[4], random[5]) < 0) {
    *beside = NULL;
    return ENOMEM;
  }
  *fd = open(*beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (*fd >= 0) return 0;
  int error = errno;
  free(*beside);
  *beside = NULL;
  return error;
}

/* Fills the new file and puts it in the path's place; it is gone or renamed afterwards. */
static int write_beside(int fd, const char *beside, const char *path, const void *data,
                        size_t length, mode_t mode) {
  struct stat old;
  if (mode == 0 && stat(path, &old) == 0) mode = old.st_mode & 07777;
  int error = mode != 0 && fchmod(fd, mode) != 0 ? errno : 0; // before there is anything to read
  if (error == 0) error = fs_write_fully(fd, data, length);
  if (error == 0 && fsync(fd) != 0) error = errno;
  error = close_after(fd, error);
  if (error == 0 && rename(beside, path) != 0) error = errno;
  if (error != 0) (void)unlink(beside);
  return error;
}

int fs_replace_file(const char *path, const void *data, size_t length, mode_t mode) {
  char resolved[4096], *beside;
  int fd;
  if (realpath(path, resolved) != NULL) {
    path = resolved; // what a link points to is replaced, not the link
  } else if (errno != ENOENT) {
    return errno;
  }
  int error = fs_open_beside(path, &beside, &fd);
  if (error != 0) return error;
  error = write_beside(fd, beside, path, data, length, mode);
  free(beside);
  return error != 0 ? error : fs_sync_parent(path);
}

int fs_make_directory(const char *path, bool parents, mode_t mode) {
  if (mkdir(path, mode) == 0) return 0;
  if (!parents) return errno;
  struct stat info;
  if (errno == EEXIST) return stat(path, &info) == 0 && S_ISDIR(info.st_mode) ? 0 : EEXIST;
  if (errno != ENOENT) return errno;
  char *above = strdup(path);
  if (above == NULL) return ENOMEM;
  size_t length = strlen(above);
  while (length > 1 && above[length - 1] == '/')
    length--;
  while (length > 0 && above[length - 1] != '/')
    length--;
  above[length] = '\0';
  int error = length <= 1 ? ENOENT : fs_make_directory(above, true, mode);
  free(above);
  if (error == 0 && mkdir(path, mode) != 0 && errno != EEXIST) error = errno;
  return error;
}

static int remove_visited(const char *path, const struct stat *info, int kind, struct FTW *at) {
  (void)info, (void)kind, (void)at;
  return remove(path) == 0 || errno == ENOENT ? 0 : errno;
}

int fs_remove_path(const char *path, bool recursive) {
  if (remove(path) == 0) return 0;
  if (!recursive || (errno != ENOTEMPTY && errno != EEXIST)) return errno;
  int error = nftw(path, remove_visited, OPEN_DIRECTORIES, FTW_DEPTH | FTW_PHYS);
  return error < 0 ? errno : error;
}

int fs_hash_file(const char *path, unsigned char digest[FS_DIGEST], uint64_t *size,
                 const atomic_bool *cancelled) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  EVP_MD_CTX *context = EVP_MD_CTX_new();
  unsigned char *piece = malloc(PIECE);
  int error = context == NULL || piece == NULL ? ENOMEM : 0;
  if (error == 0 && EVP_DigestInit_ex(context, EVP_sha256(), NULL) != 1) error = EIO;
  *size = 0;
  for (size_t got = PIECE; error == 0 && got == PIECE;) {
    error = fs_read_fully(fd, piece, PIECE, &got);
    if (error == 0 && EVP_DigestUpdate(context, piece, got) != 1) error = EIO;
    if (error == 0 && atomic_load(cancelled)) error = ECANCELED;
    *size += got;
  }
  if (error == 0 && EVP_DigestFinal_ex(context, digest, NULL) != 1) error = EIO;
  free(piece);
  EVP_MD_CTX_free(context);
  (void)close(fd);
  return error;
}

const char *fs_type_name(mode_t mode) {
  switch (mode & S_IFMT) {
  case S_IFREG: return "file";
  case S_IFDIR: return "directory";
  case S_IFLNK: return "link";
  case S_IFIFO: return "fifo";
  case S_IFSOCK: return "socket";
  default: return "device";
  }
}
