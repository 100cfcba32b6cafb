/* blob_writer.c: how objects come and go: a temporary file, a lock a key, a rename. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <openssl/rand.h>
#include "blob/blob_internal.h"
#include "blob/blob_path.h"
#include "crypto/crypto_crc32c.h"
#include "fs/fs_ops.h"

enum { LOCKS = 64, PIECE = 256 * 1024, RETRIES = 100, STALE_SECONDS = 86400 };

/* ---- the store's own directories ---- */

static void remove_stale(const char *directory) {
  DIR *entries = opendir(directory);
  if (entries == NULL) return;
  time_t now = time(NULL);
  for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
    struct stat info;
    if (fstatat(dirfd(entries), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0 &&
        !S_ISDIR(info.st_mode) && now - info.st_mtime > STALE_SECONDS)
      (void)unlinkat(dirfd(entries), entry->d_name, 0);
  }
  (void)closedir(entries);
}

bool blob_store_exists(const blob_store *self) {
  struct stat info;
  return stat(self->root, &info) == 0 && S_ISDIR(info.st_mode);
}

int blob_store_remove(const blob_store *self) {
  bytes path = {0};
  bytes_format(&path, "%s/%%tmp", self->root);
  int error = path.failed ? ENOMEM : rmdir(path.data) != 0 ? errno : 0;
  if (error == ENOENT) error = 0;
  for (unsigned i = 0; error == 0 && i < LOCKS; i++) {
    bytes_clear(&path);
    bytes_format(&path, "%s/%%lock/%02x", self->root, i);
    (void)unlink(path.data);
  }
  bytes_clear(&path);
  bytes_format(&path, "%s/%%lock", self->root);
  if (error == 0) (void)rmdir(path.data);
  bytes_free(&path);
  if (error != 0 || rmdir(self->root) == 0) return error;
  error = errno;
  int made = blob_store_prepare(self); // it is not empty, and stays a store
  return made != 0 ? made : error;
}

int blob_store_prepare(const blob_store *self) {
  static const char *const NAMES[] = {"%lock", "%tmp"};
  int error = 0;
  for (size_t i = 0; error == 0 && i < 2; i++) {
    bytes path = {0};
    bytes_format(&path, "%s/%s", self->root, NAMES[i]);
    error = path.failed ? ENOMEM : fs_make_directory(path.data, true, 0777);
    if (error == 0 && i == 1) remove_stale(path.data);
    bytes_free(&path);
  }
  return error;
}

/* Waits for the lock of the key; *fd is closed to give it back. */
static int lock_key(const blob_store *store, const char *key, size_t length, int *fd) {
  bytes path = {0};
  bytes_format(&path, "%s/%%lock/%02x", store->root, crypto_crc32c(0, key, length) % LOCKS);
  int error = path.failed ? ENOMEM : 0;
  if (error == 0) {
    *fd = open(path.data, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    error = *fd < 0 ? errno : 0;
  }
  bytes_free(&path);
  while (error == 0 && flock(*fd, LOCK_EX) != 0) {
    if (errno == EINTR) continue;
    error = errno;
    (void)close(*fd);
  }
  return error;
}

static int check_conditions(const blob_store *store, const char *key, size_t length,
                            const blob_conditions *conditions) {
  if (conditions->if_match == NULL && conditions->if_none_match == NULL &&
      conditions->modified == 0)
    return 0;
  blob_info info;
  int error = blob_head(store, key, length, &info);
  if (error != 0 && error != BLOB_ABSENT && error != BLOB_DAMAGED) return error;
  bool exists = error != BLOB_ABSENT; // a damaged one has an ETag that nobody can name
  bool hold = blob_conditions_hold(conditions, exists ? &info : NULL);
  if (error == 0) blob_info_free(&info);
  return hold ? 0 : BLOB_CONFLICT;
}

/* ---- writing ---- */

int blob_writer_open(blob_writer *self, const blob_store *store) {
  unsigned char random[12];
  bytes path = {0};
  *self = (blob_writer){.store = store, .fd = -1};
  if (RAND_bytes(random, sizeof random) != 1) return EIO;
  bytes_format(&path, "%s/%%tmp/%d-", store->root, (int)getpid());
  for (size_t i = 0; i < sizeof random; i++)
    bytes_format(&path, "%02x", random[i]);
  self->temporary = bytes_detach(&path);
  self->digest = EVP_MD_CTX_new();
  int error = self->temporary == NULL || self->digest == NULL ? ENOMEM : 0;
  if (error == 0 && EVP_DigestInit_ex(self->digest, EVP_sha256(), NULL) != 1) error = EIO;
  if (error == 0) {
    self->fd = open(self->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    error = self->fd < 0 ? errno : 0;
  }
  if (error == ENOENT) { // somebody removed the store's directories: make them again
    error = blob_store_prepare(store);
    if (error == 0) self->fd = open(self->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (error == 0 && self->fd < 0) error = errno;
  }
  if (error != 0) blob_writer_abort(self);
  return error;
}

/* A link beside the file, which leads nowhere: its text is the key. */
static char *list_path(const blob_writer *self) {
  bytes path = {0};
  bytes_format(&path, "%s" BLOB_KEY_SUFFIX, self->temporary);
  return bytes_detach(&path);
}

void blob_writer_list(blob_writer *self, const char *key, size_t length) {
  char *path = list_path(self), *text = strndup(key, length);
  self->listed = path != NULL && text != NULL && symlink(text, path) == 0;
  free(path);
  free(text);
}

int blob_writer_write(blob_writer *self, const void *data, size_t length) {
  if (EVP_DigestUpdate(self->digest, data, length) != 1) return EIO;
  self->size += length;
  return fs_write_fully(self->fd, data, length);
}

int blob_writer_copy(blob_writer *self, const char *path, const atomic_bool *cancelled) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  char *piece = malloc(PIECE);
  int error = piece == NULL ? ENOMEM : 0;
  for (size_t got = PIECE; error == 0 && got == PIECE;) {
    error = fs_read_fully(fd, piece, PIECE, &got);
    if (error == 0) error = blob_writer_write(self, piece, got);
    if (error == 0 && atomic_load(cancelled)) error = ECANCELED;
  }
  free(piece);
  (void)close(fd);
  return error;
}

static void writer_clear(blob_writer *self) {
  char *path = self->listed ? list_path(self) : NULL;
  if (path != NULL) (void)unlink(path);
  free(path);
  self->listed = false;
  if (self->fd >= 0) (void)close(self->fd);
  self->fd = -1;
  free(self->temporary);
  self->temporary = NULL;
  EVP_MD_CTX_free(self->digest);
  self->digest = NULL;
}

void blob_writer_abort(blob_writer *self) {
  if (self->fd >= 0) (void)unlink(self->temporary);
  writer_clear(self);
}

/* Makes the directories above the path that are below the store's, each durably. */
static int make_parents(const blob_store *store, char *path) {
  int error = 0;
  for (char *at = path + strlen(store->root) + 1; error == 0; at++) {
    at = strchr(at, '/');
    if (at == NULL) break;
    *at = '\0';
    if (mkdir(path, 0777) == 0) {
      error = fs_sync_parent(path);
    } else if (errno != EEXIST) {
      error = errno;
    }
    *at = '/';
  }
  return error;
}

/* A neighbour's delete may take an empty directory away between making it and using it. */
static int move_into_place(const blob_writer *self, char *path) {
  if (rename(self->temporary, path) == 0) return 0;
  for (int i = 0; errno == ENOENT && i < RETRIES; i++) {
    if (access(self->temporary, F_OK) != 0) return errno == ENOENT ? BLOB_ABORTED : errno;
    int error = make_parents(self->store, path);
    if (error != 0 && error != ENOENT) return error;
    if (rename(self->temporary, path) == 0) return 0;
  }
  return errno;
}

int blob_writer_seal(blob_writer *self, const char *pairs, size_t pairs_length, blob_info *out) {
  unsigned char footer[BLOB_FOOTER];
  *out = (blob_info){.size = self->size};
  if (EVP_DigestFinal_ex(self->digest, out->digest, NULL) != 1) return EIO;
  blob_footer_write(footer, out, pairs, pairs_length);
  int error = fs_write_fully(self->fd, pairs, pairs_length);
  if (error == 0) error = fs_write_fully(self->fd, footer, sizeof footer);
  struct stat info;
  if (error == 0 && fstat(self->fd, &info) != 0) error = errno;
  if (error == 0) {
    out->modified = (int64_t)info.st_mtim.tv_sec * 1000000 + info.st_mtim.tv_nsec / 1000;
    // Started here, the disk may be done with it when the sync comes.
    (void)sync_file_range(self->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
  }
  return error;
}

int blob_writer_sync(blob_writer *self) {
  return fsync(self->fd) != 0 ? errno : 0;
}

static int path_of(const blob_store *store, const char *key, size_t length, bytes *path) {
  bytes_append_text(path, store->root);
  blob_path_append(path, key, length);
  return path->failed ? ENOMEM : 0;
}

int blob_writer_place(blob_writer *self, const char *key, size_t length,
                      const blob_conditions *conditions) {
  bytes path = {0};
  int lock = -1;
  int error = path_of(self->store, key, length, &path);
  if (error == 0) error = lock_key(self->store, key, length, &lock);
  if (error == 0) {
    error = check_conditions(self->store, key, length, conditions);
    if (error == 0) error = move_into_place(self, path.data);
    (void)close(lock);
  }
  if (error == 0) writer_clear(self);
  bytes_free(&path);
  return error;
}

int blob_sync(const blob_store *store, const char *key, size_t length) {
  bytes path = {0};
  int error = path_of(store, key, length, &path);
  if (error == 0) error = fs_sync_parent(path.data);
  bytes_free(&path);
  return error == ENOENT ? 0 : error; // deleted meanwhile, with its directory
}

int blob_sync_all(const blob_store *store) {
  int fd = open(store->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return errno;
  int error = syncfs(fd) != 0 ? errno : 0;
  (void)close(fd);
  return error;
}

int blob_writer_commit(blob_writer *self, const char *key, size_t length,
                       const blob_conditions *conditions, const char *pairs, size_t pairs_length,
                       blob_info *out) {
  int error = blob_writer_seal(self, pairs, pairs_length, out);
  if (error == 0) error = blob_writer_sync(self);
  if (error == 0) error = blob_writer_place(self, key, length, conditions);
  if (error == 0) error = blob_sync(self->store, key, length);
  blob_writer_abort(self);
  return error;
}

/* ---- deleting ---- */

/* Removes the directories above that are empty now. */
static void prune(const blob_store *store, char *path) {
  size_t root = strlen(store->root);
  for (char *slash; (slash = strrchr(path, '/')) != NULL && (size_t)(slash - path) > root;) {
    *slash = '\0';
    if (rmdir(path) != 0) return;
  }
}

int blob_delete(const blob_store *store, const char *key, size_t length,
                const blob_conditions *conditions) {
  bytes path = {0};
  int lock = -1;
  int error = path_of(store, key, length, &path);
  if (error == 0) error = lock_key(store, key, length, &lock);
  if (error == 0) {
    error = check_conditions(store, key, length, conditions);
    if (error == 0 && unlink(path.data) != 0)
      error = errno == ENOENT || errno == ENOTDIR ? BLOB_ABSENT : errno;
    (void)close(lock);
  }
  if (error == 0) prune(store, path.data);
  bytes_free(&path);
  return error;
}
