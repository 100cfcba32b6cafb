/* blob_upload.c: writers that are not finished: their files in %tmp, each with a link that tells
 * its key; and the one change that an object's file knows, of its tags. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "blob/blob_internal.h"
#include "blob/blob_path.h"

enum { PIECE = 256 * 1024, RETRIES = 100 };

/* A file's name: a process id, '-', random digits. Nothing else is an id. */
static bool is_id(const char *text, size_t length) {
  return length > 0 && length < BLOB_ID_MOST && strspn(text, "0123456789abcdef-") >= length;
}

static int by_key(const void *left, const void *right) {
  const blob_upload *a = left, *b = right;
  int order = strcmp(a->key, b->key);
  return order != 0 ? order : strcmp(a->id, b->id);
}

/* True where the name in the directory is a link to a key; then all of *out is set. */
static bool read_link(int directory, const char *name, blob_upload *out) {
  size_t suffix = sizeof BLOB_KEY_SUFFIX - 1, length = strlen(name);
  struct stat info;
  if (length <= suffix || strcmp(name + length - suffix, BLOB_KEY_SUFFIX) != 0 ||
      !is_id(name, length - suffix))
    return false;
  *out = (blob_upload){0};
  memcpy(out->id, name, length - suffix);
  if (faccessat(directory, out->id, F_OK, 0) != 0 ||
      fstatat(directory, name, &info, AT_SYMLINK_NOFOLLOW) != 0)
    return false;
  char key[BLOB_KEY_MOST + 1];
  ssize_t got = readlinkat(directory, name, key, sizeof key);
  if (got <= 0 || got > BLOB_KEY_MOST) return false;
  out->began = (int64_t)info.st_mtim.tv_sec * 1000000 + info.st_mtim.tv_nsec / 1000;
  out->key = strndup(key, (size_t)got);
  return out->key != NULL;
}

static char *path_of(const blob_store *store, const char *name, const char *suffix) {
  bytes path = {0};
  bytes_format(&path, "%s/%%tmp%s%s%s", store->root, *name == '\0' ? "" : "/", name, suffix);
  return bytes_detach(&path);
}

int blob_uploads(const blob_store *store, blob_upload **list, size_t *count) {
  size_t capacity = 0;
  char *path = path_of(store, "", "");
  DIR *entries = path == NULL ? NULL : opendir(path);
  int error = path == NULL ? ENOMEM : entries == NULL && errno != ENOENT ? errno : 0;
  free(path);
  *list = NULL;
  *count = 0;
  for (struct dirent *entry; entries != NULL && (entry = readdir(entries)) != NULL;) {
    if (*count == capacity) {
      capacity = capacity == 0 ? 16 : capacity * 2;
      blob_upload *larger = realloc(*list, capacity * sizeof *larger);
      if (larger == NULL) {
        error = ENOMEM;
        break;
      }
      *list = larger;
    }
    if (read_link(dirfd(entries), entry->d_name, &(*list)[*count])) ++*count;
  }
  if (entries != NULL) (void)closedir(entries);
  if (*count > 0) qsort(*list, *count, sizeof **list, by_key);
  return error;
}

int blob_upload_abort(const blob_store *store, const char *id) {
  if (!is_id(id, strlen(id))) return 0;
  int error = 0;
  char *paths[] = {path_of(store, id, ""), path_of(store, id, BLOB_KEY_SUFFIX)};
  for (size_t i = 0; i < 2; i++) {
    if (paths[i] == NULL) {
      error = ENOMEM;
    } else if (unlink(paths[i]) != 0 && errno != ENOENT) {
      error = errno;
    }
    free(paths[i]);
  }
  return error;
}

/* ---- tags ---- */

/* One attempt. BLOB_CONFLICT where another object took the place of this one meanwhile. */
static int tag_once(const blob_store *store, const char *key, size_t length, const char *tags,
                    size_t tags_length) {
  blob_reader reader;
  blob_writer writer = {.fd = -1};
  blob_info written = {0};
  blob_conditions none = {0};
  int error = blob_reader_open(&reader, store, key, length, &none);
  if (error != 0) return error;
  bytes pairs = {0};
  blob_pairs_append(&pairs, &reader.info, false);
  bytes_append(&pairs, tags, tags_length);
  char *piece = malloc(PIECE);
  error = piece == NULL || pairs.failed ? ENOMEM : blob_writer_open(&writer, store);
  for (size_t got = 1; error == 0 && got > 0;) {
    error = blob_reader_read(&reader, piece, PIECE, &got);
    if (error == 0) error = blob_writer_write(&writer, piece, got);
  }
  if (error == 0) error = blob_writer_seal(&writer, bytes_text(&pairs), pairs.length, &written);
  if (error == 0) { // tags change an object's time as little as its bytes
    struct stat info;
    if (fstat(reader.fd, &info) != 0) error = errno;
    const struct timespec times[] = {info.st_atim, info.st_mtim};
    if (error == 0 && futimens(writer.fd, times) != 0) error = errno;
  }
  const blob_conditions same = {.modified = reader.info.modified};
  if (error == 0) error = blob_writer_sync(&writer);
  if (error == 0) error = blob_writer_place(&writer, key, length, &same);
  if (error == 0) error = blob_sync(store, key, length);
  blob_writer_abort(&writer);
  blob_reader_close(&reader);
  bytes_free(&pairs);
  free(piece);
  return error;
}

int blob_tag(const blob_store *store, const char *key, size_t length, const char *tags,
             size_t tags_length) {
  int error = BLOB_CONFLICT;
  for (int i = 0; error == BLOB_CONFLICT && i < RETRIES; i++)
    error = tag_once(store, key, length, tags, tags_length);
  return error;
}
